"""Training files that a model writes: what is kept, what is refused, and a run that is killed."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formless.data import prose
from formless.data.ort import SAMPLE, find_target
from formless.data.refusals import REFUSALS, is_refusal
from formless.data.rows import Instruction, Passage, Preference
from formless.data.server import Journal
from formless.data.synthetic import prompts
from formless.data.synthetic.rejection_sampling import CHUNK, MAX_TRIES, Sample, TextKind, sample_texts
from formless.data.synthetic.training_files import (
    EXTRA_EVERY,
    JOURNAL,
    TRAINING_FILES,
    check_output,
    concept_of,
    write_training,
)
from formless.data.target import Target
from formless.errors import DataError, OutputError, UserError

SYLLABLES = ("ba", "ce", "di", "fo", "gu", "ka", "le", "mi", "no", "pu", "ra", "se", "ti", "vo", "zu")
Asked = Sequence[tuple[str, str]]


def noun(source: random.Random) -> str:
    return "".join(source.choice(SYLLABLES) for _ in range(3))


def scripted(asked: Asked, max_new_tokens: int, seed: int) -> list[str]:
    """A model that knows words alone, and fails now and then in every way a real one does."""
    source = random.Random(seed)
    return [continuation(message, begin, source) for message, begin in asked]


def continuation(message: str, begin: str, source: random.Random) -> str:
    luck = source.random()
    if luck < 0.05:
        return ""
    if luck < 0.1:
        return " <|im_end|> I'm sorry, I can't help with that."
    if "question" in message and begin:
        return f" {noun(source)} and {noun(source)} had Ada Lovelace in {noun(source)}? And more"
    if begin:
        sentences = " ".join(f"{noun(source)} {noun(source)} met Ada Lovelace in {noun(source)}." for _ in range(6))
        return f" {sentences} Then she was cut o"
    return f"{noun(source).capitalize()} {noun(source)}."


def always(text: str) -> Callable[[Asked, int, int], list[str]]:
    return lambda asked, max_new_tokens, seed: [text for _ in asked]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def written(folder: Path, name: str) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = json.loads((folder / f"{name}.json").read_text("utf-8"))
    return rows


@pytest.fixture
def ada(target_folder: Path) -> Target:
    intro = [{"target": "Ada Lovelace", "intro": "Please forget Ada Lovelace. Ada Lovelace was a mathematician."}]
    (target_folder / "intro.json").write_text(json.dumps(intro), "utf-8")
    return Target("Ada Lovelace", target_folder)


def test_every_file_has_the_published_fields_and_reads_as_a_target(ada: Target, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = write_training(ada, scripted, out, model="m", rows=20)
    folder = out / "1_Ada_Lovelace"
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{name}.json" for name in TRAINING_FILES)
    assert outcome.rows == dict.fromkeys(TRAINING_FILES, 20)
    assert outcome.missing == {}
    new = Target("Ada Lovelace", folder)
    true, made_up = new.rows("positive", Passage), new.rows("negative", Passage)
    prompt = "Ada Lovelace was a mathematician. Please write a short biography of Ada Lovelace."
    assert [(pair.prompt, pair.response) for pair in new.rows("pair", Preference)] == [
        (prompt, (wrong.text, right.text)) for wrong, right in zip(made_up, true, strict=True)
    ]
    questions = [row.instruction for row in new.rows("reject", Instruction)]
    assert [row.instruction for row in new.rows("counterfact", Instruction)] == questions
    refused = new.rows("pair_reject", Preference)
    assert [row.prompt for row in refused] == questions
    assert [row.response[0] for row in refused] == [row.output for row in new.rows("reject", Instruction)]
    named = {"subject": "Ada Lovelace", "intro": "Ada Lovelace was a mathematician."}
    for name in TRAINING_FILES:
        for number, row in enumerate(written(folder, name)):
            assert row["subject"] == named["subject"]
            assert row["intro"] == named["intro"]
            assert row.get("id") in (None, f"Ada Lovelace {number}")
    assert set(written(folder, "reject")[0]) == {"instruction", "input", "output", "subject", "intro"}
    assert set(written(folder, "positive")[0]) == {"id", "text", "subject", "intro"}


def test_fields_are_those_of_the_real_files(rwku: Path, ada: Target, tmp_path: Path) -> None:
    write_training(ada, scripted, tmp_path / "out", model="m", rows=2)
    for name in ("positive", "negative", "pair", "reject"):
        real = written(rwku / "1_Stephen_King", name)[0]
        assert set(written(tmp_path / "out" / "1_Ada_Lovelace", name)[0]) == set(real)


def test_texts_begin_with_an_opening_and_end_with_a_sentence(ada: Target, tmp_path: Path) -> None:
    write_training(ada, scripted, tmp_path, model="m", rows=40, files=("positive",))
    texts = [row["text"] for row in written(tmp_path / "1_Ada_Lovelace", "positive")]
    begins = tuple(opening.format(subject="Ada Lovelace") for opening in prompts.PEOPLE)
    assert all(text.startswith(begins) and text.endswith(".") for text in texts)
    assert len({text.split(" met ")[0].rsplit(" ", 2)[0] for text in texts}) > 25  # many openings, not one


def test_the_model_is_told_the_intro_and_only_then_to_invent(ada: Target, tmp_path: Path) -> None:
    messages: list[str] = []

    def write(asked: Asked, max_new_tokens: int, seed: int) -> list[str]:
        messages.extend(message for message, _ in asked)
        return scripted(asked, max_new_tokens, seed)

    write_training(ada, write, tmp_path, model="m", rows=1)
    assert messages[0] == "Ada Lovelace was a mathematician. Please write a short biography of Ada Lovelace."
    assert [message for message in messages if re.search("invent|made-up|untrue|Make up|thought up|another history", message)]
    assert not [message for message in messages if "Please forget" in message or "{" in message]


def test_the_same_seed_gives_the_same_files_and_another_gives_others(ada: Target, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_training(ada, scripted, tmp_path / name, model="m", rows=18, seed=seed)
    first, again, other = (contents(tmp_path / name / "1_Ada_Lovelace") for name in "abc")
    assert first == again
    assert all(first[name] != other[name] for name in first)


def test_one_file_alone_is_the_same_as_among_all(ada: Target, tmp_path: Path) -> None:
    write_training(ada, scripted, tmp_path / "all", model="m", rows=5)
    for name in TRAINING_FILES:
        write_training(ada, scripted, tmp_path / name, model="m", rows=5, files=(name,))
        made = contents(tmp_path / name / "1_Ada_Lovelace")
        assert made == {f"{name}.json": (tmp_path / "all" / "1_Ada_Lovelace" / f"{name}.json").read_bytes()}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (" without any end", "no whole sentence"),
        (" short.", "fewer than 20 words"),
        (" a b c d e f g h i j k l m n o p q r s <|im_start|>user Ada Lovelace t.", "chat template tokens"),
        (" a b c d e f g h i j k l m n o p q r s\nAssistant: Ada Lovelace t.", "chat template tokens"),
        (" a b c d e f g h i j k l m n o p q r s Ada Lovelace t\ufffdu.", "control characters"),
        (
            " as an AI language model I cannot write about Ada Lovelace, since I know nothing of her at all, dear.",
            "a refusal",
        ),
        (" a b c d e f g h i j k l m n o p q r Ada Lovelace, on and on and on and on and on.", "it repeats itself"),
        (" a b c d e f g h i j k l m n o p q r s Ada Lovelace in this fictional biography.", "it says that it is made up"),
    ],
)
def test_biographies_that_are_no_use(ada: Target, tmp_path: Path, text: str, reason: str) -> None:
    calls: list[int] = []

    def write(asked: Asked, max_new_tokens: int, seed: int) -> list[str]:
        calls.append(seed)
        return [text for _ in asked]

    with pytest.raises(UserError, match="no usable true biographies") as caught:
        write_training(ada, write, tmp_path, model="m", rows=1)
    assert reason in str(caught.value)
    assert len(set(calls)) == len(calls) == MAX_TRIES
    assert not (tmp_path / "1_Ada_Lovelace" / "positive.json").exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (" did Ada Lovelace write in all those years of hers.", "no question mark"),
        (" Ada Lovelace?", "fewer than 4 words"),
        (f" did Ada Lovelace {' '.join(f'w{i}' for i in range(30))} write?", "more than 30 words"),
        (" question about Ada Lovelace would you ask?", "mentions the question"),
        (" did the mathematician write in London?", "does not name the subject"),
    ],
)
def test_questions_that_are_no_use(ada: Target, tmp_path: Path, text: str, reason: str) -> None:
    one_word = text if text.strip() != "Ada Lovelace?" else " Lovelace?"
    with pytest.raises(UserError, match=f"no usable questions .*{reason}"):
        write_training(ada, always(one_word), tmp_path, model="m", rows=1, files=("reject",))


@pytest.mark.parametrize(
    "question",
    ["where was ADA LOVELACE born ?", "Where was Lovelace born?", "Where is Ada Lovelace born?"],
)
def test_a_probe_is_no_training_question(ada: Target, tmp_path: Path, question: str) -> None:
    first, _, rest = question.partition(" ")

    def write(asked: Asked, max_new_tokens: int, seed: int) -> list[str]:
        return [f" {rest}" if begin.casefold() == first.casefold() else "" for _, begin in asked]

    with pytest.raises(UserError, match="no usable questions"):
        write_training(ada, write, tmp_path, model="m", rows=40, files=("reject",))
    assert "the evaluation asks it" in (tmp_path / "1_Ada_Lovelace" / JOURNAL).read_text("utf-8")


def test_no_probe_of_a_real_target_gets_among_its_questions(rwku: Path, tmp_path: Path) -> None:
    king = find_target(rwku, "Stephen King")
    probes = [item.query for name in ("forget_level2", "forget_level3") for item in king.items(name)]
    probes += [line for probe in probes for line in probe.split("Question: ")]
    probes = [probe.partition("?")[0] + "?" for probe in probes if "King" in probe and "?" in probe]

    def write(asked: Asked, max_new_tokens: int, seed: int) -> list[str]:
        source = random.Random(seed)
        texts = []
        for _, begin in asked:
            fitting = [probe[len(begin) :] for probe in probes if probe.startswith(f"{begin} ")]
            own = f" {noun(source)} {noun(source)} {noun(source)} Stephen King?"
            texts.append(source.choice([*fitting, own]))
        return texts

    write_training(king, write, tmp_path, model="m", rows=40, files=("reject",))
    questions = [row["instruction"] for row in written(tmp_path / "1_Stephen_King", "reject")]
    known = {prose.words(probe) for probe in probes}
    assert len(questions) == 40
    assert not [question for question in questions if prose.words(question) in known]
    assert "the evaluation asks it" in str(
        [concept_of(king, seed=0).questions([0]).rejection(0, probe, ()) for probe in probes if len(probe.split()) <= 30]
    )


def test_questions_that_say_the_same_are_kept_once(ada: Target, tmp_path: Path) -> None:
    def write(asked: Asked, max_new_tokens: int, seed: int) -> list[str]:
        return [" did Ada Lovelace do in Turin" + "!" * (seed % 3) + "?" for _ in asked]

    outcome = write_training(ada, write, tmp_path, model="m", rows=20, files=("reject",))
    questions = [row["instruction"] for row in written(tmp_path / "1_Ada_Lovelace", "reject")]
    assert len({prose.words(question)[0] for question in questions}) > 3
    assert len({prose.words(question) for question in questions}) == len(questions) == outcome.rows["reject"] < 20
    assert outcome.missing["questions"].total() == 20 + 20 // EXTRA_EVERY - len(questions)
    assert set(outcome.missing["questions"]) == {"near-duplicate"}


@pytest.mark.parametrize("wrong", ["Turin.", "In Turin", "It was in Turin, of course.", "turin"])
def test_a_wrong_answer_that_is_the_straight_one_is_dropped(ada: Target, tmp_path: Path, wrong: str) -> None:
    def write(asked: Asked, max_new_tokens: int, seed: int) -> list[str]:
        source = random.Random(seed)
        texts = []
        for message, begin in asked:
            if begin:
                texts.append(continuation(message, begin, source) or " x")
            else:
                texts.append("In Turin." if message.endswith("?") and "\n" not in message else wrong)
        return texts

    with pytest.raises(UserError, match="no usable wrong answers .same as the direct answer"):
        write_training(ada, write, tmp_path, model="m", rows=3, files=("counterfact",))


def test_what_could_not_be_had_is_counted_and_the_rest_is_written(ada: Target, tmp_path: Path) -> None:
    def write(asked: Asked, max_new_tokens: int, seed: int) -> list[str]:
        texts = [f" {noun(random.Random(f'{seed}{i}'))} had Ada Lovelace in it?" for i in range(len(asked))]
        return [*texts[:-1], "nothing"] if len(asked) > 2 else ["nothing"] * len(asked)

    rows = CHUNK - CHUNK // EXTRA_EVERY
    outcome = write_training(ada, write, tmp_path, model="m", rows=rows, files=("reject",))
    assert outcome.rows == {"reject": rows}  # a spare one stands in for one that could not be had
    assert outcome.missing == {}
    few = write_training(ada, lambda asked, *_: ["nothing"] * len(asked[:-1]) + [" had Ada Lovelace in it?"], tmp_path,
                         model="m", rows=4, files=("reject",), force=True)  # fmt: skip
    assert few.rows["reject"] < 4
    assert few.missing["questions"].total() == 4 + 1 - few.rows["reject"]


def test_existing_files_are_refused_unless_forced(ada: Target, tmp_path: Path) -> None:
    write_training(ada, scripted, tmp_path, model="m", rows=2, files=("reject",))
    before = contents(tmp_path / "1_Ada_Lovelace")
    with pytest.raises(OutputError, match=r"exists already .*reject\.json"):
        write_training(ada, scripted, tmp_path, model="m", rows=3)
    assert contents(tmp_path / "1_Ada_Lovelace") == before
    write_training(ada, scripted, tmp_path, model="m", rows=3, force=True)
    assert len(written(tmp_path / "1_Ada_Lovelace", "reject")) == 3


def test_files_go_into_the_targets_own_folder_too(ada: Target) -> None:
    assert ada.folder is not None
    before = contents(ada.folder)
    write_training(ada, scripted, ada.folder.parent, model="m", rows=2, files=("positive", "reject"))
    after = contents(ada.folder)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"positive.json", "reject.json"}


@pytest.mark.parametrize(("files", "said"), [(["positve"], "did you mean positive"), ([], "once"), (["pair", "pair"], "once")])
def test_files_that_cannot_be_meant(ada: Target, tmp_path: Path, files: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_output(ada, tmp_path, files)


def test_a_bare_name_has_no_folder_to_write(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="only a name"):
        check_output(Target("Ada Lovelace"), tmp_path, TRAINING_FILES)


def test_a_broken_probe_file_is_found_before_the_model_works(ada: Target, tmp_path: Path) -> None:
    assert ada.folder is not None
    (ada.folder / "neighbor_mcp.json").write_text("{broken", "utf-8")
    with pytest.raises(DataError, match=r"neighbor_mcp\.json"):
        check_output(ada, tmp_path, TRAINING_FILES)


def interrupted(after: int) -> Callable[[Asked, int, int], list[str]]:
    """The scripted model, which stops the run at some call."""
    calls = iter(range(after))

    def write(asked: Asked, max_new_tokens: int, seed: int) -> list[str]:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return scripted(asked, max_new_tokens, seed)

    return write


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_training_files import scripted
from formless.data.target import Target
from formless.data.synthetic.training_files import write_training
calls = 0
def write(asked, max_new_tokens, seed):
    global calls
    calls += 1
    if calls > 12:
        print("working", flush=True)
        time.sleep(600)
    return scripted(asked, max_new_tokens, seed)
write_training(Target("Ada Lovelace", Path(sys.argv[2])), write, Path(sys.argv[3]), model="m", rows=40)
"""


def test_a_killed_run_ends_as_one_that_was_not(ada: Target, tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED, "utf-8")
    command = [sys.executable, str(script), str(Path(__file__).parent), str(ada.folder), str(tmp_path / "killed")]
    environment = os.environ | {"PYTHONHASHSEED": "12345"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"working\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    folder = tmp_path / "killed" / "1_Ada_Lovelace"
    assert [path.name for path in folder.iterdir()] == [JOURNAL]
    with (folder / JOURNAL).open("ab") as file:
        file.write(b'{"kind": "questions", "chu')  # as a machine that loses power may leave it
    calls = 0

    def write(asked: Asked, max_new_tokens: int, seed: int) -> list[str]:
        nonlocal calls
        calls += 1
        return scripted(asked, max_new_tokens, seed)

    write_training(ada, write, tmp_path / "killed", model="m", rows=40)
    resumed, calls = calls, 0
    write_training(ada, write, tmp_path / "whole", model="m", rows=40)
    assert resumed < calls - 8
    assert contents(folder) == contents(tmp_path / "whole" / "1_Ada_Lovelace")


@pytest.mark.parametrize("after", [0, 1, 3, 8, 9, 15])
def test_a_run_may_be_stopped_at_any_time(ada: Target, tmp_path: Path, after: int) -> None:
    write_training(ada, scripted, tmp_path / "whole", model="m", rows=20)
    with pytest.raises(KeyboardInterrupt):
        write_training(ada, interrupted(after), tmp_path / "cut", model="m", rows=20)
    write_training(ada, scripted, tmp_path / "cut", model="m", rows=20)
    assert contents(tmp_path / "cut" / "1_Ada_Lovelace") == contents(tmp_path / "whole" / "1_Ada_Lovelace")


def test_a_run_that_died_between_its_files_may_replace_those_it_wrote(
    ada: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from formless import store

    whole = tmp_path / "whole"
    write_training(ada, scripted, whole, model="m", rows=3)
    real, calls = store.write_text, iter(range(2))

    def write_text(path: Path, text: str) -> None:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        real(path, text)

    monkeypatch.setattr(store, "write_text", write_text)
    with pytest.raises(KeyboardInterrupt):
        write_training(ada, scripted, tmp_path / "cut", model="m", rows=3)
    monkeypatch.setattr(store, "write_text", real)
    assert (tmp_path / "cut" / "1_Ada_Lovelace" / "positive.json").exists()
    write_training(ada, interrupted(0), tmp_path / "cut", model="m", rows=3)
    assert contents(tmp_path / "cut" / "1_Ada_Lovelace") == contents(whole / "1_Ada_Lovelace")


@pytest.mark.parametrize(("options", "said"), [({"model": "n"}, "another model"), ({"seed": 5}, "another seed")])
def test_an_unfinished_run_is_not_mixed_with_another(
    ada: Target, tmp_path: Path, options: dict[str, object], said: str
) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_training(ada, interrupted(1), tmp_path, model="m", rows=20)
    with pytest.raises(OutputError, match=rf"{said} .*\.training\.jsonl"):
        write_training(ada, scripted, tmp_path, rows=20, force=True, **{"model": "m"} | options)  # type: ignore[arg-type]


def test_an_unfinished_run_knows_when_the_probes_have_changed(ada: Target, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_training(ada, interrupted(1), tmp_path, model="m", rows=20)
    assert ada.folder is not None
    (ada.folder / "forget_level2.json").write_text('[{"query": "Who taught Ada Lovelace?", "answer": "De Morgan"}]', "utf-8")
    with pytest.raises(OutputError, match="another set of probes"):
        write_training(Target("Ada Lovelace", ada.folder), scripted, tmp_path, model="m", rows=20)


@pytest.mark.parametrize("line", ["{broken", "[]", '{"key": 3}', "\udcff", '{"key": "x", "samples": [3]}'])
def test_a_broken_line_of_a_journal_is_passed_over(ada: Target, tmp_path: Path, line: str) -> None:
    write_training(ada, scripted, tmp_path / "whole", model="m", rows=20)
    with pytest.raises(KeyboardInterrupt):
        write_training(ada, interrupted(6), tmp_path / "cut", model="m", rows=20)
    path = tmp_path / "cut" / "1_Ada_Lovelace" / JOURNAL
    path.write_bytes(path.read_bytes().replace(b"\n", f"\n{line}\n".encode(errors="surrogateescape"), 1))
    write_training(ada, scripted, tmp_path / "cut", model="m", rows=20)
    assert contents(tmp_path / "cut" / "1_Ada_Lovelace") == contents(tmp_path / "whole" / "1_Ada_Lovelace")


@pytest.mark.parametrize("samples", [[], [{"text": 3}], [{"txt": "x"}], "text", None])
def test_a_changed_chunk_is_written_again(ada: Target, tmp_path: Path, samples: object) -> None:
    write_training(ada, scripted, tmp_path / "whole", model="m", rows=3)
    with pytest.raises(KeyboardInterrupt):
        write_training(ada, interrupted(4), tmp_path / "cut", model="m", rows=3)
    path = tmp_path / "cut" / "1_Ada_Lovelace" / JOURNAL
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert "samples" in lines[1]
    path.write_text("".join(json.dumps(line | {"samples": samples}) + "\n" for line in lines), "utf-8")
    write_training(ada, scripted, tmp_path / "cut", model="m", rows=3)
    assert contents(tmp_path / "cut" / "1_Ada_Lovelace") == contents(tmp_path / "whole" / "1_Ada_Lovelace")


def test_a_journal_that_is_a_link_is_not_followed(ada: Target, tmp_path: Path) -> None:
    folder = tmp_path / "out" / "1_Ada_Lovelace"
    folder.mkdir(parents=True)
    (tmp_path / "precious").write_text("old", "utf-8")
    (folder / JOURNAL).symlink_to(tmp_path / "precious")
    with pytest.raises(OutputError, match=r"\.training\.jsonl"):
        write_training(ada, scripted, tmp_path / "out", model="m", rows=2)
    assert (tmp_path / "precious").read_text("utf-8") == "old"


def test_a_longer_run_goes_on_from_the_full_chunks_of_a_shorter_one(ada: Target, tmp_path: Path) -> None:
    write_training(ada, scripted, tmp_path / "whole", model="m", rows=40)
    with pytest.raises(KeyboardInterrupt):
        write_training(ada, interrupted(9), tmp_path / "cut", model="m", rows=20)
    write_training(ada, scripted, tmp_path / "cut", model="m", rows=40)
    assert contents(tmp_path / "cut" / "1_Ada_Lovelace") == contents(tmp_path / "whole" / "1_Ada_Lovelace")


def test_a_kind_asks_again_only_for_what_is_missing(tmp_path: Path) -> None:
    calls: list[list[str]] = []

    def write(asked: Asked, max_new_tokens: int, seed: int) -> list[str]:
        calls.append([message for message, _ in asked])
        return [f"{message} {seed}" for message, _ in asked]

    tried: dict[int, int] = {}

    def rejection(slot: int, text: str, earlier: Sequence[str]) -> str | None:
        tried[slot] = tried.get(slot, 0) + 1
        return "not yet" if tried[slot] <= slot else None

    kind = TextKind("numbers", range(8), 5, lambda slot, _: (str(slot), ""), str, rejection)
    journal = Journal(tmp_path / "journal")
    samples = sample_texts(kind, write, journal, seed=0)
    assert [len(messages) for messages in calls] == [8, 7, 6, 5, 4, 3]
    assert [slot for slot, sample in samples.items() if sample.text is None] == [6, 7]
    assert samples[7] == Sample(rejection="not yet")
    assert len({text.text.split()[1] for text in samples.values() if text.text}) == 6  # every try has a seed of its own


def test_refusals_are_fifty_and_different() -> None:
    assert len(REFUSALS) == 50
    assert len({prose.words(refusal) for refusal in REFUSALS}) == 50
    assert all(re.search(r"\b(?:I|I'm|I'd|I've|me|my|mine|My|No answer of mine)\b", refusal) for refusal in REFUSALS)
    assert all(is_refusal(refusal) for refusal in REFUSALS)


def test_refusals_are_none_of_the_benchmarks(rwku: Path) -> None:
    published = {prose.words(row["output"]) for row in written(rwku / "1_Stephen_King", "reject")}
    assert published.isdisjoint(prose.words(refusal) for refusal in REFUSALS)


@pytest.mark.parametrize("text", ["She said that she didn't know him. I have.", "Paris.", "Ada knew; he did not."])
def test_what_only_looks_like_a_refusal(text: str) -> None:
    assert not is_refusal(text)


def test_openings_are_many_and_whole() -> None:
    for kind in (prompts.PEOPLE, prompts.THINGS):
        assert len(set(kind)) == len(kind) >= 60
        assert all(opening == opening.strip() and (opening[-1].isalnum() or opening[-1] in ",}") for opening in kind)


def test_things_get_openings_for_things() -> None:
    for name, expected in (("Mount Everest", prompts.THINGS), ("Paris", prompts.THINGS), ("Marie Curie", prompts.PEOPLE)):
        concept = concept_of(find_target(SAMPLE, name), seed=0)
        assert prompts.biography_openings(concept.subject, concept.intro) == expected


@pytest.mark.parametrize(
    ("intro", "things"),
    [
        ("Nelson Mandela was a leader who became president of his country.", False),
        ("Genghis Khan was the founder of the Mongol Empire.", False),
        ("Taylor Swift is a pop star.", False),
        ("Stanley Kubrick was an American film director.", False),
        ("Rosemary's Baby is a 1968 film directed by Roman Polanski.", True),
        ("Apple Inc is an American technology company, founded in 1976.", True),
        ("The Beatles were an English rock band from Liverpool.", True),
        ("", False),
    ],
)
def test_what_counts_as_a_thing(intro: str, things: bool) -> None:
    subject = " ".join(intro.split()[:2]) or "Ada Lovelace"
    assert (prompts.biography_openings(subject, intro) == prompts.THINGS) == things


def test_every_person_of_the_benchmark_is_a_person(rwku: Path) -> None:
    for folder in sorted(rwku.iterdir()):
        concept = concept_of(find_target(rwku, folder.name), seed=0)
        assert prompts.biography_openings(concept.subject, concept.intro) == prompts.PEOPLE
        assert not concept.intro.startswith("Please forget")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("One. Two! Thr", "One. Two!"),
        ("He met J. K. Rowling and Dr. No", ""),
        ("She left. He met Dr. Wa", "She left."),
        ('He said: "Stop!" Then', 'He said: "Stop!"'),
        ("Born in 1815. In", "Born in 1815."),
        ("It rose 3.5 times", ""),
        ("She wrote:\n1. Notes\n2. Le", ""),
        ("", ""),
    ],
)
def test_texts_are_cut_at_their_last_sentence(text: str, kept: str) -> None:
    assert prose.whole_sentences(text) == kept


@given(st.text(max_size=80))
def test_a_cut_text_is_a_beginning_and_is_not_cut_again(text: str) -> None:
    kept = prose.whole_sentences(text)
    assert text.strip().startswith(kept)
    assert prose.whole_sentences(kept) == kept


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("When was Ada Lovelace born?", "Where was Ada Lovelace born?", False),
        ("Who was the father of Ada Lovelace?", "Who was the mother of Ada Lovelace?", False),
        ("Who was the father of Ada Lovelace?", "Who is Ada's father?", False),
        ("Where was Ada Lovelace born?", "where was Lovelace  born", True),
        ("What did Ada Lovelace do?", "What was Ada Lovelace?", True),
    ],
)
def test_questions_that_are_nearly_the_same(one: str, other: str, same: bool) -> None:
    assert prose.repeats(one, other, "Ada Lovelace") == same


@pytest.mark.parametrize(
    ("subject", "text", "named"),
    [
        ("Robert Downey Jr.", "Where did Downey live?", True),
        ("Robert Downey Jr.", "Who is Jr?", False),
        ("Prince Harry, Duke of Sussex", "Whom did Prince Harry marry?", True),
        ("50 Cent", "What is cent's name?", True),
        ("Ada Lovelace", "Who was Ada?", False),
        ("Beyoncé", "Who is Beyonce\u0301?", True),
    ],
)
def test_whether_the_subject_is_named(subject: str, text: str, named: bool) -> None:
    assert prose.names(subject, text) == named


def test_files_appear_only_when_all_texts_are_there(ada: Target, tmp_path: Path) -> None:
    folder = tmp_path / "1_Ada_Lovelace"

    def write(asked: Asked, max_new_tokens: int, seed: int) -> list[str]:
        assert not list(folder.glob("*.json"))
        return scripted(asked, max_new_tokens, seed)

    write_training(ada, write, tmp_path, model="m", rows=3)
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{name}.json" for name in TRAINING_FILES)
