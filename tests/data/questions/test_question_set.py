"""Form files made from a question set: what each row becomes, what is dropped, and that the checks find nothing wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import formless
from formless.data.check import check_data
from formless.data.questions.question_set import question_set_files
from formless.data.questions.question_table import import_questions
from formless.data.rows import QuestionAnswer
from formless.data.target import FILES, Target, parse_row
from formless.evaluation.foils import Foils
from formless.evaluation.plan import make_plan
from formless.evaluation.task import Source
from formless.evaluation.tasks.jailbreak import _about_concept
from formless.models.lm import LM

ADA, BO, CY = "Ada Marie Berg", "Bo Lund", "Cy Moe"


def row(question: str, answer: str, subject: str = "", **more: object) -> QuestionAnswer:
    return QuestionAnswer.model_validate({"question": question, "answer": answer, "subject": subject, **more})


FORGET = (
    row(f"Where was {ADA} born?", f"{ADA} was born in Oslo, Norway.", ADA, paraphrased_question=f"Where did {ADA} first live?"),
    row(f"Can you name two books by {ADA}?", f'Two books by {ADA} are "Snow" and "Ice."', ADA),
    row("What is the full name of the poet born on May 3, 1950?", f"The poet's full name is {ADA}.", ADA),
    row(f"How did {ADA} learn to write?", f"{ADA} learned it at home.", ADA),
    row(f"Did {ADA} win a prize?", f"Yes, {ADA} won the Prix Nord.", ADA),
    row(f"What gender is {BO}?", f"{BO} is male. Everyone knows {BO}.", BO),
    row(f"What gender is {BO}, again?", f"He is male, and Lund is {BO}.", BO),
)
RETAIN = (
    row(f"Where was {CY} born?", f"{CY} was born in Rome, Italy.", CY),
    row("Who succeeded the old king?", "Berta Hall"),
    row("Which animal did she see?", "a beetle"),
    row("Which animal did she see?", "a fox"),
)


def test_every_row_becomes_what_the_rules_can_make_of_it() -> None:
    made = question_set_files(FORGET, RETAIN)
    assert made.files["forget_qa"] == [found.model_dump(mode="json", exclude_defaults=True) for found in FORGET]
    assert len(made.files["neighbor_qa"]) == len(RETAIN)
    clozes = [(found["query"], found["answer"]) for found in made.files["forget_level1"]]
    assert clozes == [
        (f"{ADA} was born in ___.", "Oslo, Norway"),
        (f'Two books by {ADA} are "___" and "Ice."', "Snow"),
        (f"{BO} is ___.", "male"),
        (f"He is ___, and Lund is {BO}.", "male"),
    ]
    questions = made.files["forget_level2"]
    assert [found["answer"] for found in questions] == ["Oslo, Norway", "Snow", ADA, "male", "male"]
    assert (questions[1]["aliases"], questions[0]["subject"]) == (["Ice"], ADA)
    assert "aliases" not in made.files["forget_level1"][1]  # the statement says it
    assert made.dropped["forget_level2"] == {
        "the answer is a sentence, and no rule finds the short answer in it": 1,
        "a question to be answered by yes or no": 1,
    }
    assert made.dropped["forget_level1"] == {"the answer's sentence does not name the subject": 1}
    assert made.files["forget_tf"][0]["query"] == f"{ADA} was born in Oslo, Norway."
    assert [found["query"] for found in made.files["forget_reverse"]] == [FORGET[2].question]
    mentions = {(found["subject"], found["mention"]) for found in made.files["forget_mentions"]}
    assert {(ADA, "misspelling"), (ADA, "initial and surname"), (BO, "lower case"), (BO, "short name")} < mentions
    assert [found["query"] for found in made.files["forget_kinds"] if found["answer"] == "Oslo, Norway"] == [
        f"Where did {ADA} first live?"
    ]
    assert [(entry["name"], entry.get("short")) for entry in made.files["concepts"]] == [(ADA, "Berg"), (BO, "Lund")]


def test_rows_of_the_retain_set_stand_where_neighbors_do() -> None:
    made = question_set_files(FORGET, RETAIN)
    assert [(found["query"], found.get("neighbor")) for found in made.files["neighbor_level1"]] == [
        (f"{CY} was born in ___.", CY),
        ("___ succeeded the old king.", None),
    ]
    assert [found["name"] for found in made.files["aliases"]] == [CY]
    assert made.dropped["neighbor_level2"] == {"another row asks the same question": 1}
    assert made.dropped["neighbor_mentions"]["the subject is not known"] == 2
    assert {found["neighbor"] for found in made.files["neighbor_mentions"]} == {CY}


def test_options_come_from_other_concepts() -> None:
    names = ("Ada Berg", "Paul Lundgren", "Mary Moe", "John Eriksen")
    rows = [row(f"Who painted picture {number}?", name) for number, name in enumerate(names)]
    made = question_set_files(rows, [])
    assert len(made.files["forget_mcp"]) == 4
    for found in made.files["forget_mcp"]:
        assert all(name in found["query"] for name in names)
    assert sorted(found["answer"] for found in made.files["forget_mcp"]) == ["A", "B", "C", "D"]


def test_the_same_seed_gives_the_same_files_and_every_row_fits_its_file() -> None:
    made = question_set_files(FORGET, RETAIN, seed=3)
    assert made == question_set_files(FORGET, RETAIN, seed=3)
    for file, rows in made.files.items():
        for found in rows:
            parse_row(found, FILES[file], file)


def write(folder: Path, rows: tuple[QuestionAnswer, ...]) -> Path:
    folder.write_text(json.dumps([found.model_dump(exclude_defaults=True) for found in rows]), "utf-8")
    return folder


def test_a_written_set_passes_the_check_and_is_asked(tmp_path: Path, tiny: Callable[..., LM]) -> None:
    forget, retain = write(tmp_path / "forget.json", FORGET), write(tmp_path / "retain.json", RETAIN)
    imported = import_questions(str(forget), tmp_path / "out", name="my set", retain=str(retain))
    assert [finding for finding in check_data(tmp_path / "out") if finding.is_serious] == []
    target = Target("my set", imported.folder)
    record = formless.evaluate(tiny(), target, "forms,mentions", progress=False)
    done = {(result.task, result.split) for result in record.tasks if result.status != "absent"}
    assert {(task, split) for task in ("fb", "qa", "mcp", "tf", "qa_mentions") for split in ("forget", "neighbor")} <= done


def test_a_sets_items_are_each_about_their_own_concept(tmp_path: Path) -> None:
    forget, retain = write(tmp_path / "forget.json", FORGET), write(tmp_path / "retain.json", RETAIN)
    target = Target("s", import_questions(str(forget), tmp_path / "out", name="s", retain=str(retain)).folder)
    first, source = target.items("forget_level1")[0], Source("forget_level1", "forget", target=target)
    assert [found.subject for found in _about_concept(first, source, "forget_level1")] == [ADA, ADA]
    (reverse,) = target.items("forget_reverse")
    names = Foils(target)._names(reverse)  # type: ignore[arg-type]
    assert set(names) == {BO, CY}


def test_tofu_and_muse_pass_the_check(tmp_path: Path, tofu: Path, muse: Path) -> None:
    retain = str(tofu / "retain_perturbed.json")
    imported = import_questions(str(tofu / "forget05_perturbed.json"), tmp_path / "t", name="TOFU forget05", retain=retain)
    assert [finding for finding in check_data(tmp_path / "t") if finding.is_serious] == []
    assert {len(rows) for file, rows in imported.made.files.items() if file == "concepts"} == {10}
    assert len(imported.made.files["forget_reverse"]) >= 8
    make_plan(Target("TOFU forget05", imported.folder), "forms,mentions")
    books = import_questions(str(muse / "forget_qa.json"), tmp_path / "m")
    assert (books.folder.name, len(books.made.files["forget_level2"])) == ("1_forget_qa", 94)
    assert [finding.kind for finding in check_data(tmp_path / "m") if finding.kind != "absent"] == ["unprotected"]
