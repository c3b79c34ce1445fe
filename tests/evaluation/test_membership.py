"""Membership inference on question sets, and what follows from it beside a retain model, by hand and by the formulas."""

import json
import math
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import formless
from formless.data.target import Target
from formless.evaluation.record import ItemResult, Record, TaskMetric, TaskResult
from formless.evaluation.registry import TASKS
from formless.evaluation.task import Results
from formless.evaluation.tasks.membership import MIA_HOLDOUT, attack_metrics, comparison
from formless.evaluation.tasks.privacy import MIA_REFERENCE, PRIVLEAK, privacy_leakage, reference_attack
from formless.models.lm import LM
from formless.models.scores import TextScore
from formless.models.settings import prompt_style

Tiny = Callable[..., LM]
FORGET = ["Ada Lovelace wrote the first program.", "She was born in London, in 1815.", "", "x", "The engine weaves patterns."]
HELD_OUT = ["Marble tax sings, unless yellow depth arrives", "Seven spoons of the under bright logic."]


def write(folder: Path, file: str, rows: Sequence[dict[str, Any]]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{file}.json").write_text(json.dumps(rows), "utf-8")


@pytest.fixture
def texts(tmp_path: Path) -> Target:
    """A set with texts of which two are too short."""
    folder = tmp_path / "1_A_set"
    write(folder, "forget_mia", [{"text": text} for text in FORGET])
    write(folder, "holdout_mia", [{"text": text} for text in HELD_OUT])
    return Target("A set", folder)


@pytest.fixture
def questions(tmp_path: Path) -> Target:
    """A set with questions; two held-out texts are none, or have no answer."""
    folder = tmp_path / "2_A_set"
    write(folder, "forget_qa", [{"question": "Who wrote programs?", "answer": "Ada Lovelace did."}])
    held_out = ["Question: Who?\nAnswer: It was\nBabbage.", "Question: Who?\nAnswer: ", "A text."]
    write(folder, "holdout_mia", [{"text": text} for text in held_out])
    return Target("A set", folder)


def as_open_unlearning(lm: LM) -> LM:
    lm.style = prompt_style(lm.style, {"protocol": "open-unlearning"})
    return lm


def evaluated(lm: LM, target: Target, suite: str, retain_record: Record | None = None) -> Record:
    return formless.evaluate(lm, target, suite, retain_record=retain_record, progress=False)


def result_of(record: Record, task: str) -> TaskResult:
    found = record.task(task)
    assert found is not None
    return found


def log_softmax(lm: LM, prompt: str, text: str) -> tuple[torch.Tensor, list[int]]:
    """The log-probabilities at the tokens of a text, [tokens, vocab], and these tokens."""
    before, ids = lm.encode(prompt).ids, lm.encode(prompt + text).ids
    start = max(len(before), 1)
    with torch.no_grad():
        return lm.model(input_ids=torch.tensor([ids])).logits[0, start - 1 : -1].double().log_softmax(-1), ids[start:]


def attacks_by_formula(lm: LM, prompt: str, text: str, *, zipped: str, exact: bool) -> dict[str, float]:
    """OpenUnlearning's scores from the logits; `exact` leaves the last token out of Min-K% and Min-K%++."""
    logs, ids = log_softmax(lm, prompt, text)
    chosen = logs[range(len(ids)), ids]
    mu = (logs.exp() * logs).sum(-1)
    sigma = torch.clamp((logs.exp() * logs.square()).sum(-1) - mu.square(), min=1e-6)
    kept = slice(None, -1) if exact else slice(None)
    plain = np.sort(chosen[kept].numpy())
    scaled = np.sort(((chosen - mu) / sigma.sqrt())[kept].numpy())
    size = max(1, int(len(plain) * 0.4))
    loss = -float(chosen.mean())
    return {
        "loss": loss,
        "zlib": loss / len(zlib.compress(zipped.encode("utf-8"))),
        "min_k": -float(np.mean(plain[:size])),
        "min_k++": -float(np.mean(scaled[:size])),
    }


def pairs_auc(forget: Sequence[float], other: Sequence[float]) -> float:
    """How often a forget value is the higher one, pair by pair."""
    return sum((a > b) + (a == b) / 2 for a in forget for b in other) / (len(forget) * len(other))


def values(result: TaskResult, metric: str, group: str) -> list[float]:
    return [item.metrics[metric] for item in result.items if item.group == group and metric in item.metrics]


def test_the_metrics_of_a_text_by_hand_as_open_unlearning_has_them() -> None:
    score = TextScore((-1.0, -4.0, -2.0, -3.0, -0.5, -9.0), (-2.0,) * 6, (1.0, 1.0, 2.0, 1.0, 0.0, 1.0))
    ours, exact = attack_metrics("abcde", score, 0.4), attack_metrics("abcde", score, 0.4, exact=True)
    assert ours["loss"] == exact["loss"] == pytest.approx(19.5 / 6)
    assert ours["min_k"] == pytest.approx((9 + 4) / 2)
    assert exact["min_k"] == pytest.approx((4 + 3) / 2)  # two of five: the last one does not count
    assert ours["min_k++"] == pytest.approx((7 + 2) / 2)
    assert exact["min_k++"] == pytest.approx((2 + 1) / 2)
    certain = TextScore((-0.5, -1.0), (-0.25, -1.0), (0.0, 1.0))
    assert attack_metrics("ab", certain, 0.4, exact=True)["min_k++"] == pytest.approx(250)  # 0.25 / 0.001


@pytest.mark.parametrize("exact", [False, True])
def test_texts_have_the_scores_of_the_formulas(tiny: Tiny, texts: Target, exact: bool) -> None:
    lm = as_open_unlearning(tiny()) if exact else tiny()
    record = evaluated(lm, texts, "mia_holdout")
    result = result_of(record, "mia_holdout")
    short = "the text has fewer than two tokens"
    assert [item.skipped for item in result.items] == [None, None, short, short, None, None, None]
    assert result.skipped == 2
    for item, text in zip(result.items, FORGET + HELD_OUT, strict=True):
        if not item.skipped:
            assert item.metrics == pytest.approx(attacks_by_formula(lm, "", text, zipped=text, exact=exact), rel=1e-4)
    for attack in ("loss", "zlib", "min_k", "min_k++"):
        expected = pairs_auc(values(result, attack, "forget"), values(result, attack, "holdout"))
        assert result.metric(f"{attack}_auc").value == pytest.approx(expected)
        assert result.metric(f"{attack}_auc").n == 5
        assert math.isfinite(result.metric(attack, "forget").value or math.nan)


def test_a_text_of_two_tokens_has_none_left_as_open_unlearning_counts(tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "1_A_set"
    write(folder, "forget_mia", [{"text": "ab"}])
    write(folder, "holdout_mia", [{"text": "abc"}])
    record = evaluated(as_open_unlearning(tiny()), Target("A set", folder), "mia_holdout,mia_gradnorm")
    result, gradients = result_of(record, "mia_holdout"), result_of(record, "mia_gradnorm")
    assert [item.skipped for item in gradients.items] == ["no token of the text counts", None]
    assert [item.skipped for item in result.items] == ["too few tokens of the text count", None]
    assert result.metric("loss_auc").value is None
    assert result.metric("loss", "forget").n == 0


def test_the_auc_is_one_where_every_forget_text_has_the_higher_value() -> None:
    def item(group: str, value: float) -> ItemResult:
        return ItemResult(query="?", group=group, metrics={"loss": value})

    summarize = comparison(("loss",), ("forget", "holdout"))
    items = [item("forget", 3), item("forget", 4), item("holdout", 2)]
    found = {(one.metric, one.group): one.value for one in summarize(items)}
    assert found == {("loss", "forget"): 3.5, ("loss", "holdout"): 2.0, ("loss_auc", None): 1.0}
    (_, _, half) = summarize([item("forget", 3), item("holdout", 3)])
    assert half.value == 0.5


def test_the_real_model_knows_the_held_out_texts_better(lm: LM, tmp_path: Path) -> None:
    folder = tmp_path / "1_A_set"
    known = ["To be, or not to be, that is the question.", "Four score and seven years ago our fathers brought forth"]
    write(folder, "forget_mia", [{"text": text} for text in HELD_OUT])
    write(folder, "holdout_mia", [{"text": text} for text in known])
    result = result_of(evaluated(lm, Target("A set", folder), "mia_holdout"), "mia_holdout")
    assert {result.metric(f"{attack}_auc").value for attack in ("loss", "zlib", "min_k")} == {1.0}


@pytest.mark.parametrize("exact", [False, True])
def test_answers_have_the_scores_of_the_formulas(tiny: Tiny, questions: Target, exact: bool) -> None:
    lm = as_open_unlearning(tiny()) if exact else tiny()
    result = result_of(evaluated(lm, questions, "mia_qa"), "mia_qa")
    no_question = "the text is no question with its answer, `Question: …` and `Answer: …` on a new line"
    assert [item.skipped for item in result.items] == [None, None, no_question, no_question]
    asked = [("Who wrote programs?", "Ada Lovelace did."), ("Who?", "It was\nBabbage.")]
    for item, (question, answer) in zip(result.items, asked, strict=False):
        prompt = lm.chat_prompt(question, system="You are a helpful assistant." if exact else None)
        end = "[assistant]</s>" if exact else ""  # the template of these models always prompts for more
        found = attacks_by_formula(lm, prompt, answer + end, zipped=answer, exact=exact)
        assert item.metrics == pytest.approx(found, rel=1e-4)
    assert result.metric("loss_auc").n == 2


def test_gradients_of_texts_and_of_answers(tiny: Tiny, texts: Target, questions: Target) -> None:
    lm = tiny()
    result = result_of(evaluated(lm, texts, "mia_gradnorm"), "mia_gradnorm")
    norms = lm.gradient_norms(FORGET + HELD_OUT)
    for item, norm in zip(result.items, norms, strict=True):
        assert item.metrics == ({"gradnorm": norm} if isinstance(norm, float) else {})
    expected = pairs_auc(values(result, "gradnorm", "forget"), values(result, "gradnorm", "holdout"))
    assert result.metric("gradnorm_auc").value == pytest.approx(expected)
    asked = result_of(evaluated(lm, questions, "mia_qa_gradnorm"), "mia_qa_gradnorm")
    (first,) = lm.gradient_norms(["Ada Lovelace did."], prompts=[lm.chat_prompt("Who wrote programs?")])
    assert asked.items[0].metrics == {"gradnorm": pytest.approx(first)}


def test_a_set_with_texts_is_not_asked_by_its_questions(tiny: Tiny, questions: Target) -> None:
    assert questions.folder is not None
    write(questions.folder, "forget_mia", [{"text": "Ada"}])
    for name in ("mia_qa", "mia_qa_gradnorm"):
        result = result_of(evaluated(tiny(), questions, name), name)
        assert {item.skipped for item in result.items} == {"the target has texts for membership inference, forget_mia.json"}


def test_privleak_by_hand_and_by_the_published_formula() -> None:
    found = leaks(0.2, 0.5)
    assert found == {"privleak": pytest.approx(-60), "privleak_half": pytest.approx(-60), "rel_diff": pytest.approx(60)}
    # MUSE: AUC 0 after memorizing, its retain model's 0.4772: the forget texts are all recognized.
    assert leaks(0.0, 0.4772)["privleak"] == pytest.approx(-100)
    assert leaks(0.9, 0.45)["privleak"] == pytest.approx(100)
    for own, retained in ((0.31, 0.47), (0.8, 0.55)):
        score, ref = 1 - (1 - own), 1 - (1 - retained)  # OpenUnlearning has 1 - AUC and takes it from 1 again
        assert leaks(own, retained)["privleak"] == pytest.approx((score - ref) / (ref + 1e-10) * 100)
        assert leaks(own, retained)["privleak_half"] == pytest.approx((score - 0.5) / (0.5 + 1e-10) * 100)
        assert leaks(own, retained)["rel_diff"] == pytest.approx(((1 - own) - (1 - retained)) / (1 - retained + 1e-10) * 100)
    assert leaks(0.3, 0.0)["privleak"] is None
    assert leaks(0.3, 1.0)["rel_diff"] is None


def results(auc: float | None, losses: Sequence[tuple[str, float]] = (("forget", 1.0), ("holdout", 2.0))) -> Results:
    items = [ItemResult(query="?", group=group, metrics={"loss": loss, "min_k": loss}) for group, loss in losses]
    metric = TaskMetric(metric="min_k_auc", value=auc, n=len(items))
    return {("mia_holdout", None): TaskResult(task="mia_holdout", status="complete", metrics=[metric], items=items)}


def leaks(own: float, retained: float) -> dict[str, float | None]:
    found = privacy_leakage(results(own), results(retained))
    assert isinstance(found, list)
    return {one.metric: one.value for one in found if one.metric != "ks_p"}


def test_the_ks_test_is_of_the_forget_texts() -> None:
    from scipy.stats import ks_2samp

    one, other = [1.0, 2.0, 3.0, 4.0], [3.5, 4.5, 5.5, 6.5]
    rest = [("holdout", 9.0)]
    own, retained = ([("forget", value) for value in side] + rest for side in (one, other))
    found = privacy_leakage(results(0.5, own), results(0.5, retained))
    assert isinstance(found, list)
    assert found[-1].value == pytest.approx(ks_2samp(one, other).pvalue) == pytest.approx(0.22857, abs=1e-4)
    assert found[-1].n == 8


def test_the_reference_attack_by_hand() -> None:
    own = results(0.5, [("forget", 3.0), ("forget", 2.0), ("holdout", 5.0)])
    retained = results(0.5, [("forget", 1.0), ("forget", 1.5), ("holdout", 4.0)])
    found = reference_attack(own, retained)
    assert isinstance(found, list)
    # Differences 2 and 0.5 against 1: one pair of two is the higher one.
    assert {(one.metric, one.group): one.value for one in found} == {
        ("reference", "forget"): 1.25, ("reference", "holdout"): 1.0, ("reference_auc", None): 0.5,
    }  # fmt: skip


def test_reasons_why_nothing_is_compared() -> None:
    retain = "it compares with a model trained without the forget set, which --retain-model names"
    absent = TaskResult(task="mia_holdout", status="absent", reason="the target has no holdout_mia.json")
    for task in (PRIVLEAK, MIA_REFERENCE):
        assert task.derive is not None
        assert task.derive(results(0.5), None) == retain
        assert task.derive({}, results(0.5)) == "it needs mia_holdout or mia_qa"
        where = "it needs mia_holdout or mia_qa; mia_holdout: the target has no holdout_mia.json"
        assert task.derive({("mia_holdout", None): absent}, results(0.5)) == where
        assert task.derive(results(0.5), {}) == "the retain model's record has no mia_holdout"
    no_value = "the AUC of min_k has no value, since texts of one side were skipped"
    assert privacy_leakage(results(None), results(0.5)) == privacy_leakage(results(0.5), results(None)) == no_value
    one_side = results(None, [("forget", 1.0)])
    assert reference_attack(one_side, one_side) == "no text of one side has a loss under both models"


def test_a_model_beside_its_retain_model(tiny: Tiny, texts: Target) -> None:
    suite = "mia_holdout,mia_reference,privleak"
    retained = evaluated(tiny(seed=1), texts, suite)
    alone, both = evaluated(tiny(), texts, suite), evaluated(tiny(), texts, suite, retained)
    for name in ("mia_reference", "privleak"):
        assert (result_of(alone, name).status, result_of(both, name).status) == ("absent", "complete")
    own, other = (result_of(record, "mia_holdout") for record in (both, retained))
    differences = {
        group: [a - b for a, b in zip(values(own, "loss", group), values(other, "loss", group), strict=True)]
        for group in ("forget", "holdout")
    }
    reference = result_of(both, "mia_reference")
    assert reference.metric("reference", "forget").value == pytest.approx(np.mean(differences["forget"]))
    assert reference.metric("reference_auc").value == pytest.approx(pairs_auc(*differences.values()))
    assert {one.metric for one in result_of(both, "privleak").metrics} == {spec.name for spec in TASKS["privleak"].metrics}


def test_answers_are_compared_where_there_are_no_texts(tiny: Tiny, questions: Target) -> None:
    suite = "mia_holdout,mia_qa,mia_reference"
    retained = evaluated(tiny(seed=1), questions, suite)
    record = evaluated(tiny(), questions, suite, retained)
    assert result_of(record, MIA_HOLDOUT.name).reason == "the target has no forget_mia.json"
    assert result_of(record, "mia_reference").metric("reference_auc").n == 2
