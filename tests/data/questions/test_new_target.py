"""A target made of facts: its folder, its names, and a server that writes the facts."""

from __future__ import annotations

import json
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import formless
from formless.data.ort import subject_of, targets
from formless.data.questions.distractors import Dropped, Pool
from formless.data.questions.facts import Fact, fact_of, read_facts
from formless.data.questions.new_target import ask_facts, new_folder_of, write_target
from formless.data.rows import Intro, Item
from formless.data.server import ReplyError, Server, ServerError
from formless.data.target import FILES, QUESTION_SET, Target
from formless.errors import DataError, OutputError
from formless.evaluation.plan import make_plan
from formless.evaluation.registry import TASKS

ADA = "Ada Lovelace"
ROWS = (
    ("Ada Lovelace", "was born in", "London"),
    ("Ada Lovelace", "died in", "1852"),
    ("The father of Ada Lovelace was ___.", "Lord Byron"),
    ("Ada Lovelace", "was by profession a", "mathematician"),
    ("Ada Lovelace", "wrote about the", "Analytical Engine"),
    ("Ada Lovelace", "had", "three children"),
)
OTHERS = (("Charles Babbage", "was born in", "London"), ("Mary Somerville was born in ___.", "Scotland", "Mary Somerville"))


def facts(rows: Sequence[Sequence[str]] = ROWS, *, neighbors: bool = False) -> list[Fact]:
    return [fact_of(row, ADA, where=f"row {number}", neighbors=neighbors) for number, row in enumerate(rows)]


def written(folder: Path, name: str) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = json.loads((folder / f"{name}.json").read_text("utf-8"))
    return rows


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_probe_file_is_there_and_can_be_evaluated(tmp_path: Path) -> None:
    created = write_target(
        ADA, facts(), tmp_path, neighbors=facts(OTHERS, neighbors=True), intro="Ada  Lovelace was a countess.\n"
    )
    assert created.folder == tmp_path / "1_Ada_Lovelace"
    target = formless.find_target(tmp_path, ADA)
    assert {name for name in FILES if target.has(name)} == set(created.rows) == {
        "intro", *(f"{split}_{form}" for split in ("forget", "neighbor") for form in ("level1", "level2", "mcp", "tf"))
    }  # fmt: skip
    jobs = [job for job in make_plan(target, "ort,choices,letters").jobs if job.split]
    assert len(jobs) >= 20
    assert not [job for job in jobs if job.absent]
    assert target.rows("intro", Intro) == (Intro(target=ADA, intro="Ada Lovelace was a countess."),)
    assert created.dropped == {}
    for name in created.rows:
        assert created.rows[name] == len(written(created.folder, name))


def test_rows_have_the_published_fields(tmp_path: Path, rwku: Path) -> None:
    folder = write_target(ADA, facts(), tmp_path, neighbors=facts(OTHERS, neighbors=True)).folder
    for name in ("forget_level1", "forget_level2", "neighbor_level1", "neighbor_level2", "intro"):
        real, made = written(rwku / "1_Stephen_King", name)[0], written(folder, name)[0]
        assert set(made) == set(real)
        assert {key: made[key] for key in ("level", "type") if key in made} == {
            key: real[key] for key in ("level", "type") if key in real
        }


def test_each_fact_is_asked_in_every_form(tmp_path: Path) -> None:
    folder = write_target(ADA, facts(), tmp_path, neighbors=facts(OTHERS, neighbors=True)).folder
    assert [(row["query"], row["answer"]) for row in written(folder, "forget_level1")][:3] == [
        ("Ada Lovelace was born in ___.", "London"), ("Ada Lovelace died in ___.", "1852"),
        ("The father of Ada Lovelace was ___.", "Lord Byron"),
    ]  # fmt: skip
    assert [row["query"] for row in written(folder, "forget_level2")][:3] == [
        "Where was Ada Lovelace born?", "In which year did Ada Lovelace die?", "Who was the father of Ada Lovelace?"
    ]  # fmt: skip
    assert [row["query"] for row in written(folder, "forget_tf")][:2] == [
        "Ada Lovelace was born in London.", "Ada Lovelace died in 1852."
    ]  # fmt: skip
    for choice, cloze in zip(written(folder, "forget_mcp"), written(folder, "forget_level1"), strict=True):
        question, *options = choice["query"].split("\n")
        assert question == cloze["query"]
        assert options["ABCD".index(choice["answer"])] == f"{choice['answer']}. {cloze['answer']}"
        assert len({option[3:] for option in options}) == 4
    assert [row["neighbor"] for row in written(folder, "neighbor_mcp")] == ["Charles Babbage", "Mary Somerville"]
    counts = Counter(row["answer"] for row in written(folder, "forget_mcp"))
    assert max(counts.values()) - min(counts[letter] for letter in "ABCD") <= 1


def test_without_neighbors_there_are_no_neighbor_files(tmp_path: Path) -> None:
    created = write_target(ADA, facts(), tmp_path)
    assert not [name for name in contents(created.folder) if "neighbor" in name]
    assert written(created.folder, "intro") == [{"target": ADA, "intro": "Ada Lovelace was born in London."}]


@pytest.mark.parametrize("lacking", [{"1852"}, {row[-1] for row in ROWS}])
def test_a_row_without_wrong_options_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: set[str]) -> None:
    real = Pool.distractors

    def distractors(pool: Pool, item: Item, target: str, *, seed: int = 0) -> tuple[str, ...] | Dropped:
        return Dropped("too few") if item.answer in lacking else real(pool, item, target, seed=seed)

    monkeypatch.setattr(Pool, "distractors", distractors)
    created = write_target(ADA, facts(), tmp_path)
    assert created.dropped == {"forget_mcp": {"too few": len(lacking)}}
    kept = len(ROWS) - len(lacking)
    assert created.rows.get("forget_mcp", 0) == kept
    assert (created.folder / "forget_mcp.json").exists() == (kept > 0)  # an empty file would measure nothing
    assert created.rows["forget_tf"] == len(ROWS)


def test_the_same_facts_give_the_same_folder(tmp_path: Path) -> None:
    for name in "ab":
        write_target(ADA, facts(), tmp_path / name, neighbors=facts(OTHERS, neighbors=True), seed=3)
    write_target(ADA, facts(), tmp_path / "c", neighbors=facts(OTHERS, neighbors=True), seed=4)
    first, again, other = (contents(tmp_path / name) for name in "abc")
    assert first == again
    assert {name for name in first if first[name] != other[name]} == {
        "1_Ada_Lovelace/forget_mcp.json", "1_Ada_Lovelace/neighbor_mcp.json"
    }  # fmt: skip


def test_the_files_are_read_as_facts_again(tmp_path: Path) -> None:
    folder = write_target(ADA, facts(), tmp_path, neighbors=facts(OTHERS, neighbors=True)).folder
    again = read_facts(folder / "forget_level1.json", ADA)
    assert [(fact.cloze, fact.answer) for fact in again] == [(fact.cloze, fact.answer) for fact in facts()]
    others = read_facts(folder / "neighbor_level1.json", ADA, neighbors=True)
    assert [fact.about for fact in others] == ["Charles Babbage", "Mary Somerville"]


def test_a_new_target_gets_the_next_number(target_folder: Path) -> None:
    data = target_folder.parent
    target_folder.rename(data / "41_Ada_Lovelace")
    before = contents(data)
    rows = [("Grace Hopper", "was born in", "New York City"), ("Grace Hopper", "died in", "1992")]
    made = [fact_of(row, "Grace Hopper", where="") for row in rows]
    assert write_target("Grace Hopper", made, data).folder.name == "42_Grace_Hopper"
    assert [target.subject for target in targets(data)] == [ADA, "Grace Hopper"]
    assert {name: content for name, content in contents(data).items() if "Ada" in name} == before


def test_an_existing_target_is_replaced_by_force_alone(target_folder: Path) -> None:
    data = target_folder.parent
    target_folder.rename(data / "7_Ada_Lovelace")
    before = contents(data)
    with pytest.raises(OutputError, match=r"exists already .*7_Ada_Lovelace"):
        write_target(ADA, facts(), data)
    with pytest.raises(DataError, match="the data set spells it 'Ada Lovelace'"):
        write_target("ada lovelace", facts(), data, force=True)
    with pytest.raises(OutputError, match="something else is there"):  # a target that was not made of facts
        write_target(ADA, facts(), data, force=True)
    assert contents(data) == before
    shutil.rmtree(data / "7_Ada_Lovelace")
    write_target(ADA, facts(), data).folder.rename(data / "7_Ada_Lovelace")
    (data / "7_Ada_Lovelace" / "positive.json").write_text("[]")
    with pytest.raises(OutputError, match="positive.json is there, which `data new` did not write"):
        write_target(ADA, facts(), data, force=True)
    (data / "7_Ada_Lovelace" / "positive.json").unlink()
    created = write_target(ADA, facts(), data, force=True)
    assert created.folder == data / "7_Ada_Lovelace"
    assert len(written(created.folder, "forget_level1")) == len(ROWS)
    assert not (created.folder / "neighbor_level1.json").exists()


def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path) -> None:
    precious = tmp_path / "1_Ada_Lovelace" / "thesis.txt"
    precious.parent.mkdir()
    precious.write_text("ten years", "utf-8")
    with pytest.raises(OutputError, match="something else is there"):
        write_target(ADA, facts(), tmp_path, force=True)
    assert precious.read_text("utf-8") == "ten years"


def test_nothing_is_left_of_a_target_that_could_not_be_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from formless import store

    def write_text(path: Path, text: str) -> None:
        if path.name == "forget_tf.json":
            raise KeyboardInterrupt
        path.write_text(text, "utf-8")

    monkeypatch.setattr(store, "write_text", write_text)
    with pytest.raises(KeyboardInterrupt):
        write_target(ADA, facts(), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    ["AC/DC", "../escape", "a\\b", ".hidden", "..", "Ada\nLovelace", "Ada\x00", "Ada_Lovelace", "Ada  Lovelace", " Ada", "!?",
     "e\u0301", "x" * 300, "\u200bAda", "\ud800"],
)  # fmt: skip
def test_names_that_cannot_be_a_folders(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="--target") as caught:
        new_folder_of(name, tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["50 Cent", "Beyonc\u00e9", "Prince Harry, Duke of Sussex", "Robert Downey Jr.", "孔子", "3 Idiots"]
)
def test_names_come_back_from_their_folder(tmp_path: Path, name: str) -> None:
    folder = new_folder_of(name, tmp_path)
    assert folder.parent == tmp_path
    assert subject_of(folder.name) == name


@given(name=st.text(min_size=1, max_size=20) | st.text("./\\_ \u00e9e\u0301a1", min_size=1, max_size=8))
def test_any_name_stays_in_the_data_folder_or_is_refused(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    out = tmp_path_factory.getbasetemp() / "none"
    try:
        folder = new_folder_of(name, out)
    except DataError:
        return
    assert folder.parent == out
    assert subject_of(folder.name) == name


def test_no_facts_make_no_target(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no facts"):
        write_target(ADA, [], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_every_form_of_the_evaluation_finds_its_items(tmp_path: Path) -> None:
    write_target(ADA, facts(), tmp_path, neighbors=facts(OTHERS, neighbors=True))
    target = Target(ADA, tmp_path / "1_Ada_Lovelace")
    for task in TASKS.values():
        for split in task.splits:
            files = {file.format(split=split) for file in task.files if split} - {*QUESTION_SET}
            others = ("level3", "mentions", "reverse", "kinds")
            assert all(target.items(file) for file in files if file.partition("_")[2] not in others)


Reply = Callable[[int, dict[str, Any]], tuple[int, str]]


class Script:
    """What the server answers, and what it was asked."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.reply: Reply = lambda number, request: (200, "")
        self.url = ""


@pytest.fixture
def script() -> Iterator[Script]:
    """An OpenAI-compatible server on loopback."""
    found = Script()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, {"object": "list", "data": [{"id": "scripted", "object": "model", "created": 0, "owned_by": "x"}]})

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found.requests.append(request)
            status, text = found.reply(len(found.requests), request)
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            body = {"id": "1", "object": "chat.completion", "created": 0, "model": "scripted", "choices": [choice]}
            self._send(status, body if status == 200 else {"error": {"message": text}})

        def _send(self, status: int, body: dict[str, Any]) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_port}/v1"
    yield found
    server.shutdown()
    server.server_close()


def triples(*rows: tuple[str, str, str]) -> str:
    return json.dumps({"facts": [dict(zip(("subject", "relation", "object"), row, strict=True)) for row in rows]})


GOOD = [(ADA, "was born in", "London"), (ADA, "died in", "1852"), (ADA, "wrote about the", "Analytical Engine")]


def test_a_server_writes_facts(script: Script) -> None:
    script.reply = lambda number, request: (200, f"Here they are:\n```json\n{triples(*GOOD)}\n```")
    found = ask_facts(Server(script.url, retries=0), ADA, 3)
    assert [(fact.cloze, fact.answer) for fact in found] == [(f"{a} {b} ___.", c) for a, b, c in GOOD]
    assert len(script.requests) == 1
    assert ADA in script.requests[0]["messages"][0]["content"]


def test_what_is_wrong_is_shown_and_the_good_ones_are_kept(script: Script) -> None:
    first = triples(GOOD[0], ("She", "died in", "1852"), (ADA, "was called", "Ada"), (ADA, "liked", ""))
    script.reply = lambda number, request: (200, [first, "no JSON", triples(GOOD[0], *GOOD[1:])][number - 1])
    found = ask_facts(Server(script.url, retries=0), ADA, 3)
    assert [fact.answer for fact in found] == ["London", "1852", "Analytical Engine"]
    second, third = (request["messages"][-1]["content"] for request in script.requests[1:])
    for said in ("does not occur in 'She died in ___.'", "occurs in its own question", "a cell is empty", "2 more facts"):
        assert said in second
    assert "JSON" in third


def test_fewer_facts_than_wanted_are_better_than_none(script: Script) -> None:
    script.reply = lambda number, request: (200, triples(*GOOD[:2]))
    assert len(ask_facts(Server(script.url, retries=0), ADA, 9)) == 2
    assert len(script.requests) == 3


def test_more_facts_than_wanted_are_cut(script: Script) -> None:
    script.reply = lambda number, request: (200, triples(*GOOD))
    assert len(ask_facts(Server(script.url, retries=0), ADA, 2)) == 2


@pytest.mark.parametrize("reply", ["", "I cannot do that.", '{"facts": []}', '{"facts": [{"subject": 3}]}', "[]"])
def test_a_server_without_one_good_fact(script: Script, reply: str) -> None:
    script.reply = lambda number, request: (200, reply)
    with pytest.raises(ReplyError, match="no usable reply in 3 attempts"):
        ask_facts(Server(script.url, retries=0), ADA, 3)


def test_neighbors_by_a_server_are_not_the_subject(script: Script) -> None:
    rows = [GOOD[0], ("Charles Babbage", "was born in", "London"), ("Lord Byron", "was the father of", ADA)]
    script.reply = lambda number, request: (200, triples(*rows))
    found = ask_facts(Server(script.url, retries=0), ADA, 3, neighbors=True)
    assert [(fact.about, fact.answer) for fact in found] == [("Charles Babbage", "London")]


def test_a_server_that_fails(script: Script) -> None:
    script.reply = lambda number, request: (500, "broken")
    with pytest.raises(ServerError):
        ask_facts(Server(script.url, retries=0), ADA, 3)


def test_options_keep_to_time_and_place(tmp_path: Path) -> None:
    lines = {
        "was born in the year": "1815", "died on": "27 November 1852", "was the daughter of": "Lord Byron",
        "was buried in the village of": "Hucknall",
    }  # fmt: skip
    facts = [fact_of(("Ada Lovelace", relation, value), "Ada Lovelace", where="line") for relation, value in lines.items()]
    created = write_target("Ada Lovelace", facts, tmp_path)
    rows = json.loads((created.folder / "forget_mcp.json").read_text("utf-8"))
    born, died, parent, buried = ([line[3:] for line in row["query"].splitlines()[1:]] for row in rows)
    assert all(abs(int(year) - 1815) <= 15 for year in born)
    assert all(abs(int(date.split()[-1]) - 1852) <= 15 for date in died)
    assert not {"Thabo Mbeki", "Desmond Tutu"} & {*parent}  # of Mandela's time
    assert not {"Himalayas", "Tuscany", "Alps"} & {*buried}
