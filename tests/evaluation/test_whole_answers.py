"""Whole answers of question sets: by hand, and by a second implementation from open-unlearning's formulas."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from rouge_score.rouge_scorer import RougeScorer

import formless
from formless.data.rows import QuestionAnswer
from formless.data.target import Target
from formless.errors import DataError
from formless.evaluation.evaluate import with_derived
from formless.evaluation.metrics import has_rouge_word, rouge_scores
from formless.evaluation.plan import make_plan
from formless.evaluation.prompts import question_prompt, whole_answer
from formless.evaluation.record import ItemResult, Record, TaskMetric, TaskResult
from formless.evaluation.registry import TASKS
from formless.evaluation.task import Generate, ScoreAnswer, Source
from formless.evaluation.tasks.forget_quality import forget_quality
from formless.evaluation.tasks.truth_ratio import truth_metrics
from formless.evaluation.tasks.utility import PARTS, model_utility
from formless.models.lm import LM
from formless.models.scores import Score
from formless.models.settings import prompt_style

Tiny = Callable[..., LM]
TOFU = Path(__file__).parents[3] / "shared" / "tofu"
ROW = {
    "question": "Where was Ada Lovelace born?",
    "answer": "She was born in London.",
    "paraphrased_question": "What is the birthplace of Ada Lovelace?",
    "paraphrased_answer": "London is where she was born.",
    "perturbed_answer": [f"{city} is where she was born." for city in ("Rome", "Bonn", "Oslo", "Paris", "Lyon")],
}
SUITE = "answers,real_authors"


def write(folder: Path, file: str, *rows: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{file}.json").write_text(json.dumps(rows), "utf-8")


def small_set(folder: Path) -> Target:
    second = ROW | {"question": "When was she born?", "answer": "In 1815."}
    write(folder, "forget_qa", ROW, second)
    write(folder, "neighbor_qa", ROW | {"question": "And where was she buried?"}, second)
    write(
        folder, "real_authors_qa", {"question": "Who wrote Emma?", "answer": "Jane Austen", "perturbed_answer": ["X", "Y", "Z"]}
    )
    return Target("a small set", folder)


# --- By hand


def score(*probabilities: float) -> Score:
    return Score(tuple(map(math.log, probabilities)), (True,) * len(probabilities))


def test_the_truth_ratio_by_hand() -> None:
    # right: 0.4 per token; wrong: the losses' mean is that of sqrt(0.1 * 0.4) = 0.2, so r = 1/2.
    found = truth_metrics(-math.log(0.4), [-math.log(0.1), -math.log(0.4)])
    assert found == pytest.approx({"ratio": 0.5, "truth_ratio": 0.5, "truth": 0.5}, abs=1e-8)
    # The wrong answers are three times as likely: r = 3.
    found = truth_metrics(-math.log(0.1), [-math.log(0.3)])
    assert found == pytest.approx({"ratio": 3, "truth_ratio": 1 / 3, "truth": 0}, abs=1e-7)


def test_the_metrics_of_scores_by_hand(tiny: Tiny) -> None:
    row = QuestionAnswer.model_validate(ROW)
    query = TASKS["answer"].ask(tiny(), row, Source("forget_qa", "forget"))
    right, *foils = (
        ScoreAnswer("[user]Where was Ada Lovelace born?[assistant]", text) for text in (row.answer, *row.perturbed_answer)
    )
    assert (query.requests, query.foils) == ((right,), tuple(foils))
    measured = query.measure([score(0.2, 0.8), *(score(0.3) for _ in foils)])
    assert measured.metrics == pytest.approx({"probability": 0.4, "known": 1})
    assert query.measure([score(0.2, 0.8)]).metrics == pytest.approx({"probability": 0.4})  # an edited model is not asked foils

    author = QuestionAnswer(question="Who wrote Emma?", answer="Jane Austen", perturbed_answer=("A", "B", "C"))
    query = TASKS["real_authors"].ask(tiny(), author, Source("real_authors_qa", None))
    found = query.measure([score(0.4), score(0.1), score(0.2), score(0.1)]).metrics
    wrong = (0.1 * 0.2 * 0.1) ** (1 / 3)
    expected = {"probability": 0.4 / 0.8, "ratio": wrong / 0.4, "truth": 1 - wrong / 0.4}
    assert found == pytest.approx(expected, abs=1e-8)


def test_rouge_is_that_of_rouge_score() -> None:
    # Common: the, cat, the, mat in order. Stems: sat, mats -> mat.
    found = rouge_scores("The cat lies by the mats!", "the cat sat on the mat")
    assert found == pytest.approx({"rouge_l_recall": 4 / 6, "rouge_l_f1": 4 / 6, "rouge_1_recall": 4 / 6})
    assert rouge_scores("mat the cat", "the cat sat on the mat")["rouge_l_recall"] == pytest.approx(2 / 6)
    assert rouge_scores("mat the cat", "the cat sat on the mat")["rouge_1_recall"] == pytest.approx(3 / 6)
    whole = RougeScorer(["rougeL"], use_stemmer=True).score("running", "He runs. She ran.")["rougeL"]
    assert rouge_scores("He runs. She ran.", "running")["rouge_l_f1"] == whole.fmeasure
    assert has_rouge_word("Ä1")
    assert not has_rouge_word("爱因斯坦 ?")


def test_answers_in_words_are_compared_with_the_best_accepted_one(tiny: Tiny) -> None:
    row = QuestionAnswer.model_validate(ROW | {"aliases": ["London"]})
    query = TASKS["gen_answer"].ask(tiny(), row, Source("forget_qa", "forget"))
    assert query.requests == (Generate("[user]Where was Ada Lovelace born?[assistant]", 200),)
    assert query.measure(["It was London."]).metrics == pytest.approx(
        {"rouge_l_recall": 1, "rouge_l_f1": 1 / 2, "rouge_1_recall": 1, "refusal": 0}
    )
    chinese = QuestionAnswer(question="?", answer="伦敦")
    assert "no Latin letter" in str(TASKS["gen_answer"].ask(tiny(), chinese, Source("forget_qa", "forget")).skipped)


def results(values: dict[tuple[str, Any], list[dict[str, float]]]) -> dict[tuple[str, Any], TaskResult]:
    found = {}
    for (task, split), own in values.items():
        items = [ItemResult(query=str(number), metrics=metrics) for number, metrics in enumerate(own)]
        means = {name: float(np.mean([metrics[name] for metrics in own])) for name in own[0]}
        metrics = [TaskMetric(metric=name, value=value, n=len(own)) for name, value in means.items()]
        found[task, split] = TaskResult(task=task, split=split, status="complete", items=items, metrics=metrics)
    return found


def metrics_of(found: list[TaskMetric] | str) -> list[TaskMetric]:
    assert isinstance(found, list)
    return found


def nine(zero: bool = False) -> dict[tuple[str, Any], TaskResult]:
    found: dict[tuple[str, Any], list[dict[str, float]]] = {}
    for number, part in enumerate(part for own in PARTS for part in own):
        value = 0.0 if zero and number == 4 else (number + 1) / 10
        items = found.setdefault((part.task, part.split), [{} for _ in range(3)])
        for item, shift in zip(items, (-0.05, 0.0, 0.05), strict=True):
            item[part.metric] = max(0.0, value + shift) if value else 0.0
    return results(found)


def test_model_utility_is_the_harmonic_mean_of_nine() -> None:
    (found,) = metrics_of(model_utility(nine(), None))
    assert found.value == pytest.approx(scipy.stats.hmean([n / 10 for n in range(1, 10)]))
    assert found.n == 9
    assert found.ci is not None
    assert found.ci[0] < found.value < found.ci[1]  # type: ignore[operator]
    (nothing,) = metrics_of(model_utility(nine(zero=True), None))
    assert nothing.value == 0


def test_model_utility_says_what_it_needs() -> None:
    whole = nine()
    del whole["gen_answer", "neighbor"], whole["world_facts", None]
    assert model_utility(whole, None) == "it needs gen_answer (neighbor), world_facts"


def test_forget_quality_is_the_p_value_of_the_ks_test() -> None:
    own, other = [0.1, 0.2, 0.3, 0.4, 0.5], [0.45, 0.6, 0.7, 0.8, 0.9]
    one, two = (results({("truth_ratio", "forget"): [{"ratio": value} for value in values]}) for values in (own, other))
    p, log = metrics_of(forget_quality(one, two))
    # The largest distance between the two distribution functions is 4/5; of the 252 orders of 5 and 5, 20 have at least that.
    assert p.value == pytest.approx(20 / 252)
    assert p.value == pytest.approx(scipy.stats.ks_2samp(own, other).pvalue)
    assert log.value == pytest.approx(math.log10(20 / 252))
    assert (p.ci, p.n) == (None, 5)
    assert "--retain-model" in str(forget_quality(one, None))
    assert forget_quality({}, two) == "it needs truth_ratio (forget)"
    assert forget_quality(one, {}) == "the retain model's record has no truth_ratio (forget)"


# --- A second implementation, from open-unlearning's formulas


def their_loss(lm: LM, question: str, answer: str) -> float:
    """Mean loss per label: everything after as many tokens as the prompt alone has, and EOS where the text lacks it."""
    tokenizer = lm.tokenizer
    if tokenizer.chat_template:
        chat = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": question}]
        chat_ids = tokenizer.apply_chat_template([*chat, {"role": "assistant", "content": answer}], return_dict=False)
        prompt_ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    else:
        prompt = f"Question: {question}\nAnswer: "
        chat_ids, prompt_ids = tokenizer(prompt + answer)["input_ids"], tokenizer(prompt)["input_ids"]
    if chat_ids[-1] != tokenizer.eos_token_id:
        chat_ids = [*chat_ids, tokenizer.eos_token_id]
    labels = torch.tensor([-100] * len(prompt_ids) + chat_ids[len(prompt_ids) :])
    with torch.no_grad():
        logits = lm.model(input_ids=torch.tensor([chat_ids])).logits[0]
    losses = torch.nn.functional.cross_entropy(logits[:-1], labels[1:], ignore_index=-100, reduction="none")
    return float(losses.sum() / (labels != -100).sum())


@pytest.mark.parametrize("has_template", [True, False])
def test_a_second_implementation_agrees(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_template: bool
) -> None:
    lm = tiny(seed=3)
    if not has_template:
        monkeypatch.setattr(lm.tokenizer, "chat_template", None)
    lm.style = prompt_style(lm.style, {"protocol": "open-unlearning"})
    record = formless.evaluate(lm, small_set(tmp_path / "1_Small"), SUITE, progress=False)

    def values(task: str, split: Any, metric: str) -> list[float]:
        result = record.task(task, split)
        assert result is not None
        return [item.metrics[metric] for item in result.items]

    for split in ("forget", "neighbor"):
        rows = [
            QuestionAnswer.model_validate(row) for row in json.loads((tmp_path / f"1_Small/{split}_qa.json").read_text("utf-8"))
        ]
        right = np.array([their_loss(lm, row.question, row.paraphrased_answer) for row in rows])
        wrong = np.array([np.mean([their_loss(lm, row.question, text) for text in row.perturbed_answer]) for row in rows])
        ratio = np.exp(-wrong) / (np.exp(-right) + 1e-10)
        asked = {
            "answer": [(row.question, row.answer) for row in rows],
            "paraphrased_answer": [(row.question, row.paraphrased_answer) for row in rows],
            "paraphrased_question": [(row.paraphrased_question, row.answer) for row in rows],
        }
        expected = {
            (task, "probability"): np.exp([-their_loss(lm, *pair) for pair in pairs]) for task, pairs in asked.items()
        } | {("truth_ratio", "ratio"): ratio, ("truth_ratio", "truth"): np.maximum(0, 1 - ratio)}
        if split == "forget":
            expected["truth_ratio", "truth_ratio"] = np.minimum(ratio, 1 / (ratio + 1e-10))
        for (task, metric), own in expected.items():
            assert values(task, split, metric) == pytest.approx(list(own), rel=1e-5), (task, split, metric)
    losses = [their_loss(lm, "Who wrote Emma?", text) for text in ("Jane Austen", "X", "Y", "Z")]
    share = math.exp(-losses[0]) / (sum(math.exp(-loss) for loss in losses) + 1e-10)
    assert values("real_authors", None, "probability") == pytest.approx([share], rel=1e-5)


def test_the_protocols_ask_otherwise(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = tiny(), tiny()
    theirs.style = prompt_style(theirs.style, {"protocol": "open-unlearning"})
    assert whole_answer(ours, "Q?", "A").request == ScoreAnswer("[user]Q?[assistant]", "A")
    system = "[system]You are a helpful assistant."
    assert whole_answer(theirs, "Q?", "A").request == ScoreAnswer(f"{system}[user]Q?[assistant]", "A[assistant]</s>")
    assert theirs.template_arguments["date_string"] == "10 Apr 2025"
    assert ours.template_arguments["date_string"] == "26 Jul 2024"
    monkeypatch.setattr(ours.tokenizer, "chat_template", None)  # both have the same tokenizer
    assert whole_answer(ours, "Q?", "A").request == ScoreAnswer("Question: Q?\nAnswer:", " A")
    assert whole_answer(theirs, "Q?", "A").request == ScoreAnswer("Question: Q?\nAnswer: ", "A</s>")
    assert question_prompt(theirs, "Q?") == "Question: Q?\nAnswer: "


@pytest.mark.slow
def test_a_token_over_the_boundary_counts_as_in_open_unlearning(lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of `Answer: London`, the token ` London` holds the prompt's last space: there it is none of the labels."""
    before = lm.style
    monkeypatch.setattr(lm.tokenizer, "chat_template", None)
    try:
        lm.style = prompt_style(before, {"protocol": "open-unlearning"})
        answer = whole_answer(lm, "Where was Ada Lovelace born?", "London in 1815.")
        assert answer.unscored == 1
        (found,) = lm.score([(answer.request.prompt, answer.request.answer)])
        assert isinstance(found, Score)
        assert answer.loss(found) == pytest.approx(their_loss(lm, "Where was Ada Lovelace born?", "London in 1815."), rel=1e-4)
    finally:
        lm.style = before


@pytest.mark.slow
def test_the_chat_template_of_a_real_model_agrees(lm: LM) -> None:
    before = lm.style
    try:
        lm.style = prompt_style(before, {"protocol": "open-unlearning"})
        answer = whole_answer(lm, "Where was Ada Lovelace born?", "She was born in London.")
        assert answer.request.answer == "She was born in London.<|im_end|>\n<|im_end|>"
        (found,) = lm.score([(answer.request.prompt, answer.request.answer)])
        assert isinstance(found, Score)
        theirs = their_loss(lm, "Where was Ada Lovelace born?", "She was born in London.")
        assert answer.loss(found) == pytest.approx(theirs, rel=1e-4)
    finally:
        lm.style = before


# --- Files


def test_perturbed_answers_are_missing(tmp_path: Path) -> None:
    target = small_set(tmp_path / "1_Small")
    write(tmp_path / "1_Small", "forget_qa", {"question": "Q?", "answer": "A"})
    absent = {(job.task.name, job.split): job.absent for job in make_plan(target, "answers").jobs if job.absent}
    assert absent == {
        ("paraphrased_answer", "forget"): "forget_qa.json has no paraphrased answers",
        ("paraphrased_question", "forget"): "forget_qa.json has no paraphrased questions",
        ("truth_ratio", "forget"): "forget_qa.json has no perturbed answers",
    }


@pytest.mark.parametrize(
    ("answers", "said"), [(["X"], "row 2 has 1 perturbed answers, row 1 has 5"), ([], "row 2 has no perturbed")]
)
def test_unequal_numbers_of_perturbed_answers(tmp_path: Path, answers: list[str], said: str) -> None:
    target = small_set(tmp_path / "1_Small")
    write(tmp_path / "1_Small", "neighbor_qa", ROW, ROW | {"perturbed_answer": answers})
    with pytest.raises(DataError, match=rf"{said}.*neighbor_qa.json, perturbed_answer\]: give every row as many"):
        make_plan(target, "truth_ratio")
    make_plan(target, "answer")


def test_a_row_without_the_paraphrase_is_skipped(tiny: Tiny, tmp_path: Path) -> None:
    target = small_set(tmp_path / "1_Small")
    write(tmp_path / "1_Small", "forget_qa", ROW, ROW | {"question": "Q?", "paraphrased_question": ""})
    result = formless.evaluate(tiny(), target, "paraphrased_question", progress=False).task("paraphrased_question", "forget")
    assert result is not None
    assert [item.skipped for item in result.items] == [None, "the row has no paraphrase"]
    assert (result.skipped, result.metric("probability").n) == (1, 1)


# --- Whole evaluations


def test_a_record_of_other_questions_gives_no_number(tiny: Tiny, tmp_path: Path) -> None:
    target = small_set(tmp_path / "1_Small")
    suite = "truth_ratio,forget_quality"
    record, retained = (formless.evaluate(tiny(seed=seed), target, suite, progress=False) for seed in (0, 1))
    assert record.task("forget_quality").status == "absent"  # type: ignore[union-attr]
    whole = with_derived(record, retained).task("forget_quality")
    assert whole is not None
    assert (whole.status, whole.metric("forget_quality").n) == ("complete", 2)
    other = formless.evaluate(tiny(seed=1), target, suite, limit=1, progress=False)
    with pytest.raises(DataError, match="the retain model was asked other questions"):
        with_derived(record, other)
    # An edit that was trained on a neighbor leaves it out; what both were asked still counts.
    trained = record.model_copy(update={"probes_digest": "0", "excluded_neighbors": ["Bonn"]})
    assert with_derived(trained, retained).task("forget_quality").status == "complete"  # type: ignore[union-attr]
    answer = with_derived(trained, other).task("forget_quality")
    assert answer is not None
    assert answer.reason == "the retain model's record has no truth_ratio (forget)"


def test_tofu_from_its_files(tiny: Tiny, tmp_path: Path) -> None:
    if not TOFU.is_dir():
        pytest.skip("TOFU's files do not lie beside the project (../shared/tofu)")
    names = {"forget": "forget01", "neighbor": "retain", "real_authors": "real_authors", "world_facts": "world_facts"}
    for name, file in names.items():
        lines = (TOFU / f"{file}_perturbed.json").read_text("utf-8").splitlines()
        write(tmp_path / "1_TOFU_forget01", f"{name}_qa", *map(json.loads, lines))
    target = Target("TOFU forget01", tmp_path / "1_TOFU_forget01")
    record, retained = (
        formless.evaluate(tiny(seed=seed, context=2048), target, "tofu", limit=4, progress=False) for seed in (0, 1)
    )
    found = with_derived(record, retained)
    assert {result.task for result in found.tasks if result.status == "complete"} == {
        "answer", "paraphrased_answer", "paraphrased_question", "truth_ratio", "gen_answer", "gen_paraphrased_question",
        "real_authors", "gen_real_authors", "world_facts", "gen_world_facts", "model_utility", "forget_quality",
    }  # fmt: skip
    ratios = [[item.metrics["ratio"] for item in own.task("truth_ratio", "forget").items] for own in (record, retained)]  # type: ignore[union-attr]
    quality = found.task("forget_quality")
    assert quality is not None
    assert quality.metric("forget_quality").value == pytest.approx(scipy.stats.ks_2samp(*ratios).pvalue)
    found.save(tmp_path / "record.json")
    read: Record = formless.load_record(tmp_path / "record.json")
    assert read.tasks == found.tasks
    assert formless.compare(record, found).change("model_utility", metric="model_utility").difference.value == 0
