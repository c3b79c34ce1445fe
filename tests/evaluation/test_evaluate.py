import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import formless
from formless.cli.demo import SUITE
from formless.data.target import Target
from formless.errors import DataError, UserError
from formless.evaluation.loading import load_record
from formless.evaluation.plan import make_plan
from formless.evaluation.record import MetricKey
from formless.evaluation.suites import suite_tasks
from formless.evaluation.tasks.adversarial import ATTACKS
from formless.models.lm import LM
from formless.models.scores import Score

Tiny = Callable[..., LM]

# The published code on the bundled model, 1_Stephen_King, float32 (mean probability).
ANCHORS = {
    ("fb", "forget"): 0.00899, ("qa", "forget"): 0.06699, ("fb", "neighbor"): 0.03969, ("qa", "neighbor"): 0.03012,
    ("sub_fb", "forget"): 0.13817, ("sub_qa", "forget"): 0.12992,
    ("sub_fb", "neighbor"): 0.14233, ("sub_qa", "neighbor"): 0.13030,
}  # fmt: skip


@pytest.mark.slow
def test_the_published_metrics_of_a_real_target_are_met(lm: LM, rwku: Path) -> None:
    record = formless.evaluate(lm, formless.find_target(rwku, "1_Stephen_King"), "forms")
    for (form, split), expected in ANCHORS.items():
        result = record.task(form, split)  # type: ignore[arg-type]
        assert result is not None
        assert result.metric("probability").value == pytest.approx(expected, abs=1e-4)
    absent = [(result.task, result.split) for result in record.tasks if result.status == "absent"]
    assert absent == [("mcp", "forget"), ("tf", "forget"), ("mcp", "neighbor"), ("tf", "neighbor")]
    for result in record.tasks:
        if result.status == "absent":
            assert (result.metrics, result.items) == ([], [])
            assert result.reason == f"the target has no {result.split}_{result.task}.json"


@pytest.mark.slow
def test_the_published_level_3_metric_is_met(lm: LM, rwku: Path) -> None:
    record = formless.evaluate(lm, formless.find_target(rwku, "1_Stephen_King"), "level3")
    (whole,) = record.tasks
    assert whole.split == "forget"
    assert whole.metric("probability").value == pytest.approx(0.06272, abs=1e-4)
    groups = [found for found in whole.metrics if found.metric == "probability" and found.group]
    assert sum(found.n for found in groups) == whole.metric("probability").n == 29
    assert {found.group for found in groups} == {item.group for item in whole.items} <= set(ATTACKS)


def test_a_share_is_the_right_answers_part_of_all_choices(tiny: Tiny, target_folder: Path) -> None:
    lm, target = tiny(), Target("Ada Lovelace", target_folder)
    result = formless.evaluate(lm, target, "tf_choice").task("tf_choice", "forget")
    assert result is not None
    prompt = result.items[0].prompt
    scores = lm.score([(prompt, " True"), (prompt, " False")])
    right, wrong = (math.exp(score.log_probability) for score in scores)  # type: ignore[union-attr]
    assert result.metric("probability").value == pytest.approx(right / (right + wrong))
    assert result.metric("accuracy").value == float(right > wrong)
    turned = formless.evaluate(lm, target, "mcp_choice").task("mcp_choice", "forget")
    assert turned is not None
    shares = []
    for version in range(4):  # every option has every letter once
        options = [*"ABCD"[version:], *"ABCD"[:version]]
        order = [("Rome", "London", "Bonn", "Oslo")["ABCD".index(letter)] for letter in options]
        lines = "".join(f"\n{letter}. {text}" for letter, text in zip("ABCD", order, strict=True))
        message = "Please answer the following multiple choice question. Just provide the letter of the correct answer.\n"
        asked = lm.chat_prompt(f"{message}Question: Ada Lovelace was born in ___.{lines}\n", "Answer:")
        logs = [score.log_probability for score in lm.score([(asked, f" {letter}") for letter in "ABCD"])]  # type: ignore[union-attr]
        shares.append(math.exp(logs[order.index("London")]) / sum(map(math.exp, logs)))
    assert turned.metric("probability").value == pytest.approx(np.mean(shares), abs=1e-5)


def test_a_liking_for_a_letter_is_no_knowledge(tiny: Tiny, target_folder: Path) -> None:
    lm, target = tiny(), Target("Ada Lovelace", target_folder)
    favourite = lm.encode(" B").ids[-1]
    with torch.no_grad():
        lm.model.get_output_embeddings().weight.zero_()
        lm.model.get_output_embeddings().weight[favourite] = 100 * torch.randn(32)
    choice = formless.evaluate(lm, target, "mcp_choice").task("mcp_choice", "forget")
    assert choice is not None
    assert choice.metric("probability").value == pytest.approx(0.25, abs=0.02)


def test_letters_alone_leave_out_the_newlines(tiny: Tiny, target_folder: Path) -> None:
    lm, target = tiny(), Target("Ada Lovelace", target_folder)
    result = formless.evaluate(lm, target, "sub_qa_letters").task("sub_qa_letters", "forget")
    assert result is not None
    (score,) = lm.score([(result.items[0].prompt, "L\no\nn\nd\no\nn\n")])
    assert isinstance(score, Score)
    assert score.tokens == tuple("L\no\nn\nd\no\nn\n")
    assert result.metric("probability").value == pytest.approx(math.exp(np.mean(score.log_probabilities[::2])))


def test_attacks_are_groups_of_one_task(tiny: Tiny, target_folder: Path) -> None:
    kinds = ["role play", "reverse query", "role play", "an unknown one"]
    rows = [{"query": f"Who is {i}?", "answer": "Ada", "level": "3", "type": kind} for i, kind in enumerate(kinds)]
    (target_folder / "forget_level3.json").write_text(json.dumps(rows))
    record = formless.evaluate(tiny(), Target("Ada Lovelace", target_folder), "level3")
    (result,) = record.tasks
    values = [item.metrics["probability"] for item in result.items]
    assert result.metric("probability").value == pytest.approx(np.mean(values))
    assert result.metric("probability", "role play").value == pytest.approx((values[0] + values[2]) / 2)
    assert result.metric("probability", "reverse query").n == 1
    assert [found.group for found in result.metrics if found.metric == "probability"] == [None, "role play", "reverse query"]
    keys = [key for key in record.metrics() if key.group == "role play"]
    assert keys[0] == MetricKey("level3", "forget", "probability", "role play")


def test_every_task_of_a_target_is_recorded(tiny: Tiny, target_folder: Path, tmp_path: Path) -> None:
    lm = tiny()
    record = formless.evaluate(lm, formless.find_target(target_folder.parent, "Ada Lovelace"), "forms")
    assert [(result.task, result.split, result.metric("probability").n, result.skipped) for result in record.tasks] == [
        (task, split, count, skipped)
        for split in ("forget", "neighbor")
        for task, count, skipped in (
            ("statement", 1, 1), ("fb", 2, 0), ("qa", 1, 0), ("mcp", 1, 0), ("tf", 1, 0), ("sub_fb", 2, 0), ("sub_qa", 1, 0),
        )
    ]  # fmt: skip
    statement = record.task("statement", "forget")
    assert statement is not None
    assert statement.items[1].skipped == "the blank is not at the end"
    assert statement.items[1].metrics.get("probability") is None
    assert statement.metric("probability").value == statement.items[0].metrics.get("probability")
    assert statement.metric("probability").ci is None  # one item has no spread
    blank = record.task("fb", "forget")
    assert blank is not None
    assert blank.metric("probability").value == pytest.approx(np.mean([item.metrics["probability"] for item in blank.items]))
    assert blank.metric("probability").ci is not None
    assert blank.metric("probability").ci[0] <= blank.metric("probability").value <= blank.metric("probability").ci[1]
    record.save(tmp_path / "record.json")
    assert load_record(tmp_path / "record.json") == record


def test_a_missing_optional_file_is_absent_and_a_missing_required_one_an_error(tiny: Tiny, target_folder: Path) -> None:
    (target_folder / "forget_mcp.json").unlink()
    target = Target("Ada Lovelace", target_folder)
    result = formless.evaluate(tiny(), target, "mcp").task("mcp", "forget")
    assert result is not None
    assert (result.status, result.metric("probability").value) == ("absent", None)
    (target_folder / "neighbor_level2.json").unlink()
    result = formless.evaluate(tiny(), Target("Ada Lovelace", target_folder), "qa").task("qa", "neighbor")
    assert result is not None
    assert result.reason == "the target has no neighbor_level2.json"
    (target_folder / "forget_level2.json").unlink()
    with pytest.raises(DataError, match="lacks a file.*forget_level2.json"):
        formless.evaluate(tiny(), Target("Ada Lovelace", target_folder), "qa")


def test_a_broken_file_is_found_before_the_model_works(
    tiny: Tiny, target_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = tiny()
    monkeypatch.setattr(lm, "score", lambda *_a, **_k: pytest.fail("the model worked first"))
    (target_folder / "forget_level2.json").write_text("[")
    with pytest.raises(DataError, match="forget_level2.json"):
        formless.evaluate(lm, Target("Ada Lovelace", target_folder), "fb")


def test_an_empty_answer_is_counted_and_not_averaged(tiny: Tiny, target_folder: Path) -> None:
    path = target_folder / "forget_level2.json"
    rows = [*json.loads(path.read_text()), {"query": "Who?", "answer": "   "}]
    path.write_text(json.dumps(rows))
    record = formless.evaluate(tiny(), Target("Ada Lovelace", target_folder), "qa,sub_qa,gen_qa")
    for form in ("qa", "sub_qa"):
        result = record.task(form, "forget")
        assert result is not None
        assert (result.metric("probability").n, result.skipped) == (1, 1)
        assert result.items[1].skipped == "the answer is empty"
    task = record.task("gen_qa", "forget")
    assert task is not None
    assert (task.metric("rouge_l").n, task.skipped) == (1, 1)


def test_the_record_notes_the_edits_on_the_model(tiny: Tiny, target_folder: Path) -> None:
    lm, target = tiny(), Target("Ada Lovelace", target_folder)
    edit = formless.unlearn(lm, target, "rocr", redirect="Bob", layers=[1], basis="none", l2=0.0)
    original = formless.evaluate(lm, target, "qa")
    with edit.applied(lm):
        edited = formless.evaluate(lm, target, "qa")
    assert original.edits == []
    assert [info["subject"] for info in edited.edits] == ["Ada Lovelace"]
    assert edited.task("qa", "forget") != original.task("qa", "forget")
    assert formless.evaluate(lm, target, "qa").tasks == original.tasks


def test_tasks_that_ask_the_same_cost_nothing_more(tiny: Tiny, target_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, asked = tiny(), []
    real = lm.score
    monkeypatch.setattr(lm, "score", lambda queries, **k: asked.extend(queries) or real(queries, **k))
    formless.evaluate(lm, Target("Ada Lovelace", target_folder), "sub_qa,sub_qa_letters,mcp,mcp_choice,tf,tf_choice")
    assert len(asked) == len(set(asked))


@pytest.mark.parametrize("suite", ["quick", SUITE, "reach"])
def test_the_first_suites_ask_for_answers_in_words_and_test_what_is_known(suite: str) -> None:
    metrics = {task.name: {spec.name for spec in task.metrics} for task in suite_tasks(suite)}
    assert {"gen_qa", "gen_qa_alone", "reverse"} <= {name for name, own in metrics.items() if "recall" in own}
    assert {"statement", "fb", "qa", "mcp_choice", "tf_choice"} <= {name for name, own in metrics.items() if "known" in own}


def test_a_limit_takes_rows_from_the_whole_file(tiny: Tiny, target_folder: Path) -> None:
    rows = [{"query": f"Question {number}?", "answer": "x"} for number in range(10)]
    (target_folder / "forget_level2.json").write_text(json.dumps(rows))
    target = Target("Ada Lovelace", target_folder)
    result = formless.evaluate(tiny(), target, "qa", limit=4).task("qa", "forget")
    assert result is not None
    assert [item.query for item in result.items] == [f"Question {number}?" for number in (0, 2, 5, 7)]
    assert make_plan(target, "quick").limit == 12
    assert make_plan(target, "quick", 3).limit == 3
    assert make_plan(target, "mmlu, quick").limit == 12
    with pytest.raises(UserError, match="a limit of 0 rows asks nothing"):
        make_plan(target, "qa", 0)
    digests = {make_plan(target, "qa", limit).digest(tiny()) for limit in (None, 4, 5)}
    assert len(digests) == 3


def test_the_digest_knows_the_template_and_the_free_questions(tiny: Tiny, target_folder: Path) -> None:
    lm, target = tiny(), Target("Ada Lovelace", target_folder)
    first = make_plan(target, "triviaqa").digest(lm)
    lm.style = lm.style.model_copy(update={"direct_answer": not lm.style.direct_answer})
    assert make_plan(target, "triviaqa").digest(lm) != first
    rows = [{"query": "Another question?", "answer": "x"}]
    (target_folder / "forget_level2.json").write_text(json.dumps(rows))
    assert make_plan(Target("Ada Lovelace", target_folder), "triviaqa").digest(tiny()) != first


def test_a_share_survives_a_model_that_gives_every_choice_nothing(tiny: Tiny, target_folder: Path) -> None:
    lm = tiny()
    with torch.no_grad():
        lm.model.get_output_embeddings().weight.mul_(1e6)
    result = formless.evaluate(lm, Target("Ada Lovelace", target_folder), "tf_choice").task("tf_choice", "forget")
    assert result is not None
    assert result.metric("probability").value is not None
    assert 0 <= result.metric("probability").value <= 1


def test_free_questions_without_room_are_said_to_be_so(tiny: Tiny, target_folder: Path) -> None:
    rows = [{"query": f"{'Who ' * 150}?", "answer": "Ada"}]
    (target_folder / "forget_level2.json").write_text(json.dumps(rows))
    record = formless.evaluate(tiny(), Target("Ada Lovelace", target_folder), "fb")
    assert record.answers[0].answer == ""
    assert "cannot be continued by 40" in (record.answers[0].skipped or "")


def test_progress_goes_from_nothing_to_all_through_every_task(tiny: Tiny, target_folder: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    formless.evaluate(
        tiny(),
        Target("Ada Lovelace", target_folder),
        "fb,qa",
        progress=lambda task, done, total: seen.append((task, done, total)),
    )
    assert seen[0][1] == 0
    assert seen[-1][0] == "done"
    done = [step[1] for step in seen]
    assert done == sorted(done)
    assert done[-1] == seen[-1][2] > 0
    titles = [title for title, _ in itertools.groupby(step[0] for step in seen)]
    assert titles == ["scoring answers", "generating answers", "done"]


def test_a_required_file_without_rows_is_refused_before_anything_is_asked(target_folder: Path) -> None:
    (target_folder / "neighbor_level1.json").write_text("[]")
    jobs = make_plan(Target("Ada Lovelace", target_folder), "fb").jobs
    assert [job.absent for job in jobs] == [None, "neighbor_level1.json is empty"]
    (target_folder / "forget_level1.json").write_text("[]")
    with pytest.raises(DataError, match=r"the file holds no rows, and the task fb needs it .*forget_level1\.json"):
        make_plan(Target("Ada Lovelace", target_folder), "fb")
