"""Files of facts that people write: what is understood, and what is refused with its file and line."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from formless.data import prose
from formless.data.ort import SAMPLE, targets
from formless.data.questions.facts import Fact, read_facts, read_table
from formless.data.questions.relations import _ATTRIBUTES, _VERBLESS, _VERBS, _listed, awkward, question, statement
from formless.data.rows import BLANK
from formless.errors import DataError, UserError

LONDON = ("Ada Lovelace was born in ___.", "London")


def facts(tmp_path: Path, content: str | bytes, name: str = "facts.txt", **options: bool) -> list[Fact]:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_facts(path, "Ada Lovelace", **options)


def pairs(found: Sequence[Fact]) -> list[tuple[str, str]]:
    return [(fact.cloze, fact.answer) for fact in found]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("facts.txt", "Ada Lovelace, was born in, London"),
        ("facts.txt", "Ada Lovelace, born in, London\n"),
        ("facts.txt", "\n  \nAda Lovelace\twas born in\tLondon\n\n"),
        ("facts.txt", "Ada Lovelace | was born in | London"),
        ("facts.txt", "Ada Lovelace=>was born in=>London"),
        ("facts.txt", "Ada Lovelace was born in ___.\tLondon"),
        ("facts.txt", "Ada Lovelace was born in ___. => London"),
        ("facts.txt", "Ada Lovelace was born in _____. | London"),
        ("facts.txt", "subject, relation, object\nAda Lovelace, was born in, London"),
        ("facts.csv", "Ada Lovelace,was born in,London\n"),
        ("facts.csv", '"Ada Lovelace", "was born in", "London"'),
        ("facts.csv", "Ada Lovelace was born in ___.,London"),
        ("facts.csv", "Ada Lovelace was born in ___. => London"),
        ("facts.csv", "Ada Lovelace was born in ___. | London"),
        ("facts.csv", "subject,relation,object\nAda Lovelace was born in ___.,London\n"),
        ("facts.csv", "subject,relation,object\nAda Lovelace was born in ___.,London,\n"),
        ("facts.csv", "cloze,answer\nAda Lovelace,was born in,London\n"),
        ("facts.csv", "Object,Source,Subject,Relation\nLondon,a book,Ada  Lovelace,was born in\n"),
        ("facts.csv", "query,answer\nAda Lovelace was born in ___.,London\n"),
        ("facts.tsv", "Ada Lovelace\twas born in\tLondon"),
        ("facts.tsv", "cloze\tanswer\nAda Lovelace was born in ___.\tLondon"),
        ("FACTS.JSON", '[{"subject": "Ada Lovelace", "relation": "was born in", "object": "London", "page": 3}]'),
        ("facts.json", '[{"query": "Ada Lovelace was born in ___.", "answer": "London", "subject": "Ada Lovelace"}]'),
        ("facts.json", '[\n["Ada Lovelace", "was born in", "London"]\n]'),
        ("facts.jsonl", '{"subject": "Ada Lovelace", "predicate": "was born in", "object": "London"}\n'),
        ("facts.jsonl", '\n["Ada Lovelace was born in ___.", "London"]'),
    ],
)
def test_one_fact_in_every_way_of_writing_it(tmp_path: Path, name: str, content: str) -> None:
    assert pairs(facts(tmp_path, content, name)) == [LONDON]


def test_triples_and_clozes_may_be_mixed_and_keep_their_order(tmp_path: Path) -> None:
    content = (
        "Ada Lovelace, was born in, London\nThe father of Ada Lovelace was ___. => Lord Byron\n"
        "Ada Lovelace\tlived at\tOckham, Surrey\n"
        'Ada Lovelace, wrote, "Notes, with a table"\nAda Lovelace, the countess, had ___ children. | three\n'
    )
    assert pairs(facts(tmp_path, content)) == [
        LONDON,
        ("The father of Ada Lovelace was ___.", "Lord Byron"),
        ("Ada Lovelace lived at ___.", "Ockham, Surrey"),
        ("Ada Lovelace wrote ___.", "Notes, with a table"),
        ("Ada Lovelace, the countess, had ___ children.", "three"),
    ]


def test_neighbors_are_named_by_the_triple_or_the_third_cell(tmp_path: Path) -> None:
    engine = "The engine of Charles Babbage was the ___. | Difference Engine | Charles Babbage"
    content = f"Charles Babbage, was born in, London\n{engine}\n"
    found = facts(tmp_path, content, neighbors=True)
    assert [(fact.about, fact.answer) for fact in found] == [
        ("Charles Babbage", "London"), ("Charles Babbage", "Difference Engine")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "line", "said"),
    [
        ("{good}\nAda Lovelace, was born in", 2, "the row has 2 cells, not 3"),
        ("{good}\nAda Lovelace, lived at, Ockham, Surrey", 2, "the row has 4 cells, not 3"),
        ("{good}\n\n\nAda Lovelace, lived in, ", 4, "a cell is empty"),
        ("{good}\nAda Lovelace,, Rome", 2, "a cell is empty"),
        ("{good}\nAda Lovelace died in ___.", 2, "a cloze has no answer"),
        ("{good}\nAda Lovelace died in ___. => ", 2, "a cell is empty"),
        ("{good}\nAda Lovelace died in ___ in ___. => 1852", 2, "2 blanks"),
        ("{good}\nAda Lovelace, died in, ___", 2, "a cloze has no answer"),
        ("{good}\nAda Lovelace | died in | ___", 2, "blanks"),
        ("{good}\nAda Lovelace died in ___ => the year ___", 2, "blanks"),
        ("{good}\nShe, died in, 1852", 2, "'Ada Lovelace' does not occur in 'She died in ___.'"),
        ("{good}\nAda, died in, 1852", 2, "does not occur"),
        ("{good}\nThe countess died in ___. => 1852", 2, "does not occur"),
        ("{good}\nLord Byron, was the father of, Ada Lovelace", 2, "does not occur"),
        ("{good}\nAda Lovelace, was called, Ada", 2, "'Ada' occurs in its own question"),
        ("{good}\nAda Lovelace of LONDON lived in ___. => London", 2, "occurs in its own question"),
        ("{good}\nAda Lovelace, liked, !?", 2, "no letter or digit"),
        ("{good}\n{good}", 2, "occurs twice"),
        ("{good}\nada lovelace was born in ___ => LONDON", 2, "occurs twice"),
        ('{good}\nAda Lovelace, wrote, "Notes', 2, "cannot be split into cells"),
        ("{good}\nAda Lovelace, wrote, No\x00tes", 2, "cannot be seen"),
        ("{good}\nAda Lovelace, wrote, No\ufefftes", 2, "cannot be seen"),
        (f"{{good}}\nAda Lovelace, wrote, {'x' * 501}", 2, "more than 500 characters"),
        ("{good}\nAda Lovelace, died\r in, 1852", 2, "cannot be split into cells"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_line(tmp_path: Path, content: str, line: int, said: str) -> None:
    text = content.replace("{good}", "Ada Lovelace, was born in, London")
    with pytest.raises(DataError) as caught:
        facts(tmp_path, text)
    message = str(caught.value)
    assert said in message
    assert f"{tmp_path / 'facts.txt'}, line {line}" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "place", "said"),
    [
        ("Ada Lovelace, was born in, London\nAda Lovelace, met, Beyonc\u00e9".encode("latin-1"), "line 2", "not UTF-8"),
        ("Ada Lovelace, was born in, London".encode("utf-16"), "line 1", "not UTF-8"),
        (b"Ada Lovelace, was born in, London\nAda Lovelace, wrote, " + b"x" * (10 * 2**20), "line 2", "longer than 1 MB"),
    ],
    ids=["latin-1", "utf-16", "10-mb"],
)
def test_bytes_that_are_no_plain_text(tmp_path: Path, content: bytes, place: str, said: str) -> None:
    with pytest.raises(DataError, match=f"{said} .*facts.txt, {place}"):
        facts(tmp_path, content)


@pytest.mark.parametrize("content", ["", "\n \n", "subject,relation,object\n"])
def test_a_file_without_facts(tmp_path: Path, content: str) -> None:
    with pytest.raises(DataError, match="holds no fact .*facts.csv"):
        facts(tmp_path, content, "facts.csv")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("facts.json", "{", "JSON cannot be read"),
        ("facts.json", "{}", "no list of rows"),
        ("facts.json", '["Ada"]', "row 1]: write an object"),
        ("facts.json", "[" * 100_000, "JSON cannot be read"),
        (
            "facts.json",
            '[{"subject": "Ada Lovelace", "relation": "died in", "object": 1852}]',
            "no text [{path}, row 1, object]",
        ),
        ("facts.json", '[{"subject": "Ada Lovelace", "object": "1852"}]', "lacks relation [{path}, row 1]"),
        ("facts.json", '[{"query": "Ada Lovelace died in ___."}]', "lacks answer [{path}, row 1]"),
        ("facts.json", '[["Ada Lovelace"]]', "the row has 1 cells, not 3 [{path}, row 1]"),
        ("facts.json", "[[]]", "the row has 0 cells, not 3 [{path}, row 1]"),
        ("facts.json", '[["Ada Lovelace", "saw", "\\ud800"]]', "cannot be seen [{path}, row 1, object]"),
        ("facts.jsonl", '["Ada Lovelace", "died in", "1852"]\n["Ada"', "JSON cannot be read [{path}, line 2]"),
        ("facts.jsonl", '\n"Ada"', "no object [{path}, line 2]"),
        (
            "facts.csv",
            "subject,relation,object\nAda Lovelace,lived at,Ockham,Surrey",
            "4 cells under a header of 3 [{path}, line 2]",
        ),
        ("facts.csv", 'Ada Lovelace,wrote,"two\nlines"', "cannot be split into cells [{path}, line 1]"),
        ("facts.xlsx", "PK", "file's format is unknown [{path}]"),
        ("facts", "Ada Lovelace, was born in, London", "file's format is unknown [{path}]"),
    ],
)
def test_broken_tables(tmp_path: Path, name: str, content: str, said: str) -> None:
    with pytest.raises(DataError) as caught:
        facts(tmp_path, content, name)
    assert said.format(path=tmp_path / name) in str(caught.value)


def test_files_that_are_not_there_or_are_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read \[none\.txt\]"):
        read_facts(Path("none.txt"), "Ada Lovelace")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(DataError, match=r"cannot be read .*folder\.txt.*no plain file"):
        read_facts(tmp_path / "folder.txt", "Ada Lovelace")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("ada  lovelace, was born in, London", "the neighbor is the subject itself"),
        ("The engine of Babbage was the ___. => Difference Engine", "the row has 2 cells, not 3"),
        ("The engine was the ___. => Difference Engine => Charles Babbage", "the neighbor 'Charles Babbage' does not occur"),
        ("The engine of Babbage was the ___. => Difference Engine =>", "a cell is empty"),
        ("Lord Byron, was the father of, Ada Lovelace", "a neighbor's answer is the subject itself"),
    ],
)
def test_neighbors_that_are_no_use(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(DataError) as caught:
        facts(tmp_path, content, neighbors=True)
    assert said in str(caught.value)
    assert "facts.txt, line 1" in str(caught.value)


def test_the_row_of_a_duplicate_names_the_first(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 3\]: remove it; first at .*line 1"):
        facts(tmp_path, "Ada Lovelace, was born in, London\nAda Lovelace, died in, 1852\nAda Lovelace, was born in, london")


def test_names_in_scripts_without_spaces_are_found(tmp_path: Path) -> None:
    path = tmp_path / "facts.txt"
    path.write_text("孔子出生于___。 => 曲阜\n孔子出生于曲阜的___。 => 曲阜", "utf-8")
    with pytest.raises(DataError, match="'曲阜' occurs in its own question .*line 2"):
        read_facts(path, "孔子")
    with pytest.raises(DataError, match="'老子' does not occur .*line 1"):
        read_facts(path, "老子")


def test_one_relation_may_have_several_objects(tmp_path: Path) -> None:
    found = facts(tmp_path, "Ada Lovelace, met, Charles Dickens\nAda Lovelace, met, Michael Faraday")
    assert [fact.answer for fact in found] == ["Charles Dickens", "Michael Faraday"]


@pytest.mark.parametrize(
    ("relation", "cloze"),
    [
        ("wrote", "Paris wrote ___."),
        ("Born in", "Paris was born in ___."),
        ("capital of", "Paris is the capital of ___."),
        ("is the capital of", "Paris is the capital of ___."),
        ("spouse", "The spouse of Paris is ___."),
        ("was so fond of", "Paris was so fond of ___."),
    ],
)
def test_relations_as_statements(relation: str, cloze: str) -> None:
    assert statement("Paris", relation) == cloze


@pytest.mark.parametrize(
    ("cloze", "answer", "asked"),
    [
        ("Ada was born in ___.", "London", "Where was Ada born?"),
        ("Ada was born in ___.", "1815", "In which year was Ada born?"),
        ("Ada was born on ___.", "December 10, 1815", "When was Ada born?"),
        ("Ada died in ___", "1852", "In which year did Ada die?"),
        ("Ada died of ___.", "cancer", "Ada died of what?"),
        ("Ada is the capital of ___.", "France", "Of which country is Ada the capital?"),
        ("Ada wrote ___.", "Note G", "What did Ada write?"),
        ("Ada married ___.", "William King", "Whom did Ada marry?"),
        ("Ada founded ___.", "a school", "What did Ada found?"),
        ("Ada was written by ___.", "Mary Somerville", "By whom was Ada written?"),
        ("Ada studied music at ___.", "the court", "Where did Ada study music?"),
        ("The place of birth of Ada is ___.", "London", "What is the place of birth of Ada?"),
        ("The father of Ada was ___.", "Lord Byron", "Who was the father of Ada?"),
        ("___ was the father of Ada.", "Lord Byron", "Who was the father of Ada?"),
        ("Ada was the daughter of ___.", "Lord Byron", "Ada was the daughter of whom?"),
        ("Ada had ___ children.", "three", "Ada had how many children?"),
        ("Ada was a ___.", "mathematician", "Ada was which profession?"),
        ("Ada wrote a book called '___'.", "Notes", "Ada wrote a book called which work?"),
        ("Ada lived at ___ with her mother.", "Kirkby", "Ada lived at which place with her mother?"),
        ("Ada was in ___", "place", "Ada was in what?"),
    ],
)
def test_questions_without_a_language_model(cloze: str, answer: str, asked: str) -> None:
    assert question(cloze, answer, "Ada") == asked


def test_every_cloze_of_the_sample_gives_a_question() -> None:
    for target in targets(SAMPLE):
        for split in ("forget", "neighbor"):
            for item in target.items(f"{split}_level1"):
                asked = question(item.query, item.answer, item.neighbor or target.subject)
                assert asked.endswith("?")
                assert BLANK not in asked
                assert re.search(r"\b(?:wh\w+|how)\b", asked, re.I)
                assert not prose.contains(asked, item.answer)


letters = st.text(st.characters(categories=["Ll", "Lu", "Nd"], max_codepoint=0x24F), min_size=1, max_size=8)
phrases = st.lists(letters, min_size=1, max_size=3).map(" ".join)


@given(answers=st.lists(phrases, min_size=1, max_size=5), suffix=st.sampled_from(["csv", "tsv", "json", "jsonl"]))
def test_triples_come_back_from_every_format(tmp_path_factory: pytest.TempPathFactory, answers: list[str], suffix: str) -> None:
    subject = "Qux Lovelace"
    triples = [[subject, f"met in {number}, at", f"{answer}, {number + 70}"] for number, answer in enumerate(answers)]
    if suffix in ("csv", "tsv"):
        text = io.StringIO()
        csv.writer(text, delimiter="\t" if suffix == "tsv" else ",", lineterminator="\n").writerows(triples)
        content = text.getvalue()
    elif suffix == "json":
        content = json.dumps(triples)
    else:
        content = "".join(json.dumps(dict(zip(("subject", "relation", "object"), row, strict=True))) + "\n" for row in triples)
    path = tmp_path_factory.getbasetemp() / f"property.{suffix}"
    path.write_text(content, "utf-8")
    expected = [(f"{subject} {relation} ___.", answer) for _, relation, answer in triples]
    assume(not any(prose.contains(cloze, answer) for cloze, answer in expected))
    assert pairs(read_facts(path, subject)) == expected


@given(
    content=st.binary(max_size=80) | st.text("Ada Lovelace_,|\t=>\"'\n\u00e9{}[]:", max_size=80).map(str.encode),
    suffix=st.sampled_from(["csv", "tsv", "json", "jsonl", "txt"]),
    neighbors=st.booleans(),
)
def test_any_content_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str, neighbors: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / f"property.{suffix}"
    path.write_bytes(content)
    try:
        found = read_facts(path, "Ada Lovelace", neighbors=neighbors)
    except UserError as error:
        found, said = [], str(error)
    else:
        said = str(path)
    assert str(path) in said
    assert "\n" not in said
    for fact in found:
        assert fact.cloze.count(BLANK) == 1
        assert question(fact.cloze, fact.answer, fact.about).endswith("?")
        assert BLANK not in fact.statement


@given(subject=phrases, before=phrases, answer=phrases, after=phrases)
def test_any_fit_fact_is_asked_without_its_answer(
    tmp_path_factory: pytest.TempPathFactory, subject: str, before: str, answer: str, after: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "property.txt"
    path.write_text(f"{subject} {before} ___ {after} => {answer}", "utf-8")
    try:
        fact = read_facts(path, subject)[0]
    except DataError:
        return
    asked = question(fact.cloze, fact.answer, subject)
    assert prose.contains(asked, subject)
    assert not prose.contains(asked, fact.answer)


def test_files_of_spreadsheets_are_read(tmp_path: Path) -> None:
    """They begin with a byte order mark and end lines with CRLF."""
    path = tmp_path / "facts.csv"
    path.write_bytes(b"\xef\xbb\xbfsubject,relation,object\r\nAda Lovelace,was born in,London\r\n")
    plain = tmp_path / "plain.csv"
    plain.write_bytes(b"subject,relation,object\nAda Lovelace,was born in,London\n")
    assert [cells for _, cells in read_table(path)] == [cells for _, cells in read_table(plain)]


@pytest.mark.parametrize("split", ["facts", "neighbors"])
def test_the_sample_files_hold_both_shapes(split: str) -> None:
    path = Path(__file__).parents[3] / "examples" / f"{split}.csv"
    found = read_facts(path, "Ada Lovelace", neighbors=split == "neighbors")
    assert len(found) >= 8
    assert not [text for fact in found if (text := awkward(question(fact.cloze, fact.answer, fact.about)))]
    if split == "facts":
        assert sum(BLANK in line for line in path.read_text("utf-8").splitlines()) >= 2


@pytest.mark.parametrize(
    ("relation", "answer", "asked"),
    [
        ("died in the year", "1852", "In which year did Ada Lovelace die?"),
        ("was born in the year of", "1815", "In which year was Ada Lovelace born?"),
        ("ruled until the year", "1852", "Ada Lovelace ruled until which year?"),
        ("was buried in the village of", "Hucknall", "In which village was Ada Lovelace buried?"),
        ("was born in the city of", "London", "In which city was Ada Lovelace born?"),
        ("moved to the town of", "Ockham", "To which town did Ada Lovelace move?"),
        ("died at the age of", "36", "At which age did Ada Lovelace die?"),
        ("is the author of", "Note G", "Ada Lovelace is the author of what?"),
        ("is the daughter of", "Lord Byron", "Ada Lovelace is the daughter of whom?"),
        ("has the", "crown", "Ada Lovelace has what?"),
    ],
)
def test_a_kind_that_the_statement_names_asks(relation: str, answer: str, asked: str) -> None:
    assert question(statement("Ada Lovelace", relation), answer, "Ada Lovelace") == asked


ANSWERS = (
    "1852",
    "27 November 1852",
    "November",
    "London",
    "England",
    "Lord Byron",
    "Analytical Engine",
    "36",
    "cancer",
    "Jedburgh",
)
PLACES = (
    "in", "on", "at", "from", "to", "in the year", "in the month of", "in the city of", "in the town of", "to the state of",
    "until the year", "with", "the", "a", "at the age of",
)  # fmt: skip
RELATIONS = sorted(
    {name for names in _VERBLESS.values() for name in _listed(names)}
    | _ATTRIBUTES | set(_VERBS) | {f"{verb} {place}" for verb in _VERBS for place in PLACES}
    | {f"was {participle} {place}" for participle in ("born", "buried", "founded", "published") for place in PLACES}
)  # fmt: skip


def test_no_relation_gives_an_awkward_question() -> None:
    made = [
        question(statement("Ada Lovelace", relation), answer, "Ada Lovelace") for relation in RELATIONS for answer in ANSWERS
    ]
    assert len(made) > 5000
    assert [f"{text}: {fault}" for text in made if (fault := awkward(text))] == []


@pytest.mark.parametrize(
    "text",
    [
        "Ada Lovelace died in the year which year?", "Ada died in which year which year?", "Ada wrote the which work?",
        "Ada was born in the town of which town?", "Ada lived in the city of whom?", "Ada met met whom?",
        "What did Ada write ___?", "Which work did which person write?",
        "Ada died in the month how many?", "Where did Ada die", "Who was Ada? Who?",
    ],
)  # fmt: skip
def test_awkward_wording_is_found(text: str) -> None:
    assert awkward(text)


def test_good_wording_is_not_awkward() -> None:
    made = [item.query for target in targets(SAMPLE) for item in target.items("forget_level2")]
    assert len(made) > 50
    assert [text for text in made if awkward(text)] == []
