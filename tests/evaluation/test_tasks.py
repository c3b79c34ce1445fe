"""Generation, utility and membership inference: prompts letter for letter, metrics by hand and by other implementations."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import formless
from formless.data.rows import Choices, Question, Reasoning, Trivia, Truthful
from formless.data.target import Target
from formless.errors import DataError
from formless.evaluation.prompts import few_shot_prompt
from formless.evaluation.record import TaskResult
from formless.evaluation.tasks import bbh, mmlu, triviaqa, truthfulqa
from formless.evaluation.tasks.membership import attack_metrics
from formless.models.lm import LM
from formless.models.scores import Score, TextScore

Tiny = Callable[..., LM]
EXAMPLE = {"question": "2 + 2?", "choices": ["1", "2", "3", "4"], "answer": 3}


def write(folder: Path, file: str, rows: Sequence[dict[str, Any]]) -> None:
    (folder / f"{file}.json").write_text(json.dumps(rows), "utf-8")


def measured(lm: LM, folder: Path, task: str, split: Any = None) -> TaskResult:
    result = formless.evaluate(lm, Target("Ada Lovelace", folder), task).task(task, split)
    assert result is not None
    return result


def test_mmlu_is_asked_as_the_benchmark_does() -> None:
    question = Question.model_validate(
        {
            "task": "high_school_physics",
            "question": "Who?",
            "choices": ["a", "b", "c", "d"],
            "answer": 1,
            "examples": [EXAMPLE] * 2,
        }
    )
    example = "Question: 2 + 2?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: D\n\n"
    assert mmlu.message(question) == (
        "The following are multiple choice questions (with answers) about high school physics.\n\n"
        f"{example}{example}"
        "Please following the previous examples and answer the given question.\n"
        "Question: Who?\nA. a\nB. b\nC. c\nD. d"
    )


def test_trivia_has_five_examples_in_both_protocols() -> None:
    row = Trivia(question="Who?", answers=("Ada",))
    ours, published = triviaqa.message(row), triviaqa.message(row, published=True)
    assert ours.startswith("Q: Which planet has a great red spot?\nA: Jupiter\n\nQ: In which")
    assert ours.endswith("A: Fe\n\nQ: Who?")
    assert published.startswith("\nQ: Which planet has a great red spot?\nA: Jupiter\nQ: In which")
    assert published.endswith("A: Fe\nPlease briefly answer the following question:\nQ: Who?\n")
    assert ours.count("\nA: ") == published.count("\nA: ") == 5


def test_mmlu_takes_the_most_probable_letter(tiny: Tiny, target_folder: Path) -> None:
    lm = tiny()
    rows = [{"task": "t", "question": f"Q{n}?", "choices": list("wxyz"), "answer": n, "examples": [EXAMPLE]} for n in range(4)]
    write(target_folder, "retain_mmlu", rows)
    result = measured(lm, target_folder, "mmlu")
    for row, item in zip(rows, result.items, strict=True):
        prompt = lm.chat_prompt(mmlu.message(Question.model_validate(row)), "Answer:")
        logs = [score.log_probability for score in lm.score([(prompt, f" {letter}") for letter in "ABCD"])]  # type: ignore[union-attr]
        best = int(np.argmax(logs))
        shares = np.exp(logs) / np.exp(logs).sum()
        assert item.answer == "ABCD"[best]
        assert item.metrics["accuracy"] == float(best == row["answer"])
        assert item.metrics["probability"] == pytest.approx(shares[int(str(row["answer"]))], abs=1e-5)
    assert result.metric("accuracy").value == 0.25  # one and the same letter is right once in four
    assert result.metric("probability").n == 4


def test_few_shot_examples_are_encoded_once(tiny: Tiny, target_folder: Path) -> None:
    lm = tiny()
    rows = [
        {"task": task, "question": f"Q{n}?", "choices": list("wxyz"), "answer": 0, "examples": [EXAMPLE] * 3}
        for task in ("aaaa", "bbbb") for n in range(3)
    ]  # fmt: skip
    write(target_folder, "retain_mmlu", rows)
    (target_folder / "forget_level2.json").unlink()  # no free questions
    seen: list[int] = []
    handle = lm.model.get_input_embeddings().register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].numel()))
    measured(lm, target_folder, "mmlu")
    handle.remove()
    whole = [len(lm.encode(lm.chat_prompt(mmlu.message(Question.model_validate(row)), "Answer: A")).ids) for row in rows]
    assert sum(seen) < 0.2 * 4 * sum(whole)  # with this tokenizer a letter is two tokens, so that all four are rows


def truthful(choices: list[str], labels: list[int]) -> dict[str, Any]:
    return {"choices": choices, "labels": labels}


def test_truthfulness_by_hand(tiny: Tiny, target_folder: Path) -> None:
    lm = tiny(context=2048)
    single, many = truthful(["Yes it is", "No"], [1, 0]), truthful(["Yes it is", "Indeed", "No", "Never"], [1, 1, 0, 0])
    write(target_folder, "truthful", [{"question": "Is it?", "mc1_targets": single, "mc2_targets": many}])
    result = measured(lm, target_folder, "truthfulqa")
    assert result.items[0].prompt == f"[user]{truthfulqa.EXAMPLES}\n\nQ: Is it?[assistant] A:"
    logs = {
        choice: lm.score([(str(result.items[0].prompt), f" {choice}")])[0].log_probability  # type: ignore[union-attr]
        for choice in many["choices"]
    }
    assert result.items[0].metrics["mc1"] == float(logs["Yes it is"] > logs["No"])
    parts = [math.exp(logs[choice]) for choice in many["choices"]]
    assert result.items[0].metrics["mc2"] == pytest.approx(sum(parts[:2]) / sum(parts))
    assert result.items[0].answer == max(single["choices"], key=logs.__getitem__)


def test_the_cue_stands_after_exactly_one_white_space(tiny: Tiny, lm: LM) -> None:
    assert few_shot_prompt(tiny(), "x").endswith("[assistant] A:")
    assert few_shot_prompt(lm, "x").endswith("assistant\nA:")


@pytest.mark.slow
def test_choices_are_scored_as_by_lm_eval(lm: LM, rwku: Path) -> None:
    """Log-probabilities of TruthfulQA's choices, and MC2 from them, by lm-eval's own model class and task."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks.truthfulqa.utils import process_results_mc2

    target = formless.find_target(rwku, "1_Stephen_King")
    other = HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=4)
    for row, item in zip(
        target.rows("truthful", Truthful)[:50:25], measured_real(lm, target, "truthfulqa", limit=2).items, strict=True
    ):
        prompt, choices = few_shot_prompt(lm, f"{truthfulqa.EXAMPLES}\n\nQ: {row.question}"), row.mc2_targets.choices
        doc = {"mc2_targets": {"labels": list(row.mc2_targets.labels)}}
        requests = [Instance("loglikelihood", doc, (prompt, f" {choice}"), i) for i, choice in enumerate(choices)]
        found = other.loglikelihood(requests, disable_tqdm=True)
        ours = [score.log_probability for score in lm.score([(prompt, f" {choice}") for choice in choices])]  # type: ignore[union-attr]
        assert ours == pytest.approx([log for log, _ in found], abs=2e-3)
        assert item.metrics["mc2"] == pytest.approx(process_results_mc2(doc, found)["acc"], abs=1e-3)


def measured_real(lm: LM, target: Target, task: str, limit: int) -> TaskResult:
    result = formless.evaluate(lm, target, task, limit=limit).task(task)
    assert result is not None
    return result


def test_reasoning_is_asked_and_read_as_the_benchmark_does() -> None:
    question = Reasoning(task="t", question="Which?", answer="(A)", cot=" Do it.\n\nQ: a\nA: So the answer is b.\n")
    assert bbh.message(question) == (
        "Do it.\n\nQ: a\nA: So the answer is b.\n\n"
        "Following previous examples, answer the following questions and end with 'so the answer is'\nQ: Which?"
    )
    assert bbh.prediction("Well. So the answer is (A). And the answer is (B).") == "(A)"
    assert bbh.prediction("It is not a plausible sentence. The answer is no.") == "no"
    assert bbh.prediction("the answer is\nnot here") == "the answer is\nnot here"
    assert bbh.prediction("(B)") == "(B)"


def test_reasoning_stops_where_its_answer_ends(lm: LM, rwku: Path) -> None:
    target = formless.find_target(rwku, "1_Stephen_King")
    (item,) = measured_real(lm, target, "bbh", limit=1).items
    assert item.answer is not None
    assert item.answer.endswith(".")
    assert item.answer.count("the answer is") == 1


def test_answers_in_words_are_kept_compared_and_refusals_counted(
    tiny: Tiny, target_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = tiny()
    texts = iter(["It was London.", "I don't know."])

    def generate(prompts: Sequence[str], **_: Any) -> list[str]:
        return [next(texts, "") if "blank" in prompt else "" for prompt in prompts]

    monkeypatch.setattr(lm, "generate", generate)
    result = measured(lm, target_folder, "gen_fb", "forget")
    assert [(item.answer, item.metrics) for item in result.items] == [
        ("It was London.", {"rouge_l": 1.0, "refusal": 0.0, "recall": 1.0}),
        ("I don't know.", {"rouge_l": 0.0, "refusal": 1.0, "recall": 0.0}),
    ]
    assert result.metric("rouge_l").value == result.metric("refusal").value == 0.5
    empty = measured(lm, target_folder, "gen_qa", "forget")
    assert empty.items[0].metrics == {"rouge_l": 0.0, "refusal": 0.0, "recall": 0.0}


def test_a_failure_while_generating_is_no_empty_answer(
    tiny: Tiny, target_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = tiny()

    def fail(*_a: Any, **_k: Any) -> None:
        raise RuntimeError("device lost")

    assert lm.cache_argument  # read from the real signature
    monkeypatch.setattr(lm.model, "forward", fail)
    with pytest.raises(RuntimeError, match="device lost"):
        measured(lm, target_folder, "gen_qa", "forget")


def test_trivia_and_fluency_are_asked_as_the_benchmark_does(
    tiny: Tiny, target_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm, asked = tiny(), []

    def generate(prompts: Sequence[str], **options: Any) -> list[str]:
        asked.append((prompts[0], options["endings"][0].max_new_tokens))
        return ["the Gold. "] * len(prompts)

    monkeypatch.setattr(lm, "generate", generate)
    write(target_folder, "triviaqa", [{"question": "Au?", "answers": ["Silver", "gold"]}])
    result = measured(lm, target_folder, "triviaqa")
    (prompt, tokens) = asked[0]
    assert prompt.startswith("[user]Q: ")
    assert prompt.count("\nA: ") == 5
    assert prompt.endswith("\n\nQ: Au?[assistant]A:")
    assert tokens == 30
    assert result.items[0].metrics == {"em": 1.0, "f1": 1.0, "refusal": 0.0}
    asked.clear()
    write(target_folder, "fluency", [{"instruction": "Sing."}])
    result = measured(lm, target_folder, "fluency")
    assert asked[0] == ("[user]Instruction: Sing.\n[assistant]", 256)
    assert set(result.items[0].metrics) == {"entropy"}  # three words have no 4-gram
    assert result.metric("repetition").value is None


def test_membership_metrics_of_a_text_by_hand() -> None:
    score = TextScore((-1.0, -4.0, -2.0, -3.0, -0.5), (-2.0, -2.0, -2.0, -2.0, -2.0), (1.0, 1.0, 2.0, 1.0, 0.0))
    metrics = attack_metrics("abcde", score)
    assert metrics["loss"] == pytest.approx(10.5 / 5)
    assert metrics["zlib"] == pytest.approx(10.5 / 5 / 13)
    assert metrics["min_k"] == 4.0  # a fifth of five tokens
    assert metrics["min_k++"] == pytest.approx(2.0)


def test_the_auc_tells_texts_the_model_knows(lm: LM, target_folder: Path) -> None:
    known = ["To be, or not to be, that is the question.", "Four score and seven years ago our fathers brought forth"]
    strange = [
        "Ukulele vase the of seven under bright spoonful logic.",
        "Marble tax sings, unless yellow depth arrives",
    ]
    write(target_folder, "forget_mia", [{"text": text} for text in strange])
    write(target_folder, "retain_mia", [{"text": text} for text in known])
    result = measured(lm, target_folder, "mia")
    for attack in ("loss", "zlib", "min_k"):
        assert result.metric(f"{attack}_auc").value == 1.0
        assert (result.metric(attack, "forget").value or 0) > (result.metric(attack, "retain").value or 0)
    assert result.metric("loss_auc").n == 4
    assert [item.group for item in result.items] == ["forget", "forget", "retain", "retain"]


def test_a_lacking_file_is_absent_and_a_broken_one_an_error(tiny: Tiny, target_folder: Path) -> None:
    result = measured(tiny(), target_folder, "mia")
    assert (result.status, result.reason) == ("absent", "the target has no forget_mia.json")
    write(target_folder, "forget_mia", [{"text": "x"}])
    assert measured(tiny(), target_folder, "mia").reason == "the target has no retain_mia.json"
    write(target_folder, "triviaqa", [])
    assert measured(tiny(), target_folder, "triviaqa").reason == "triviaqa.json is empty"
    write(target_folder, "retain_mmlu", [EXAMPLE | {"answer": 4}])
    with pytest.raises(DataError, match=r"retain_mmlu.json, row 1.*answer"):
        measured(tiny(), target_folder, "mmlu")
    write(
        target_folder, "truthful", [{"question": "?", "mc1_targets": truthful(["a"], [1, 0]), "mc2_targets": truthful([], [])}]
    )
    with pytest.raises(DataError, match=r"truthful.json, row 1, field mc1_targets"):
        measured(tiny(), target_folder, "truthfulqa")


def test_one_sided_labels_tell_nothing(tiny: Tiny, target_folder: Path) -> None:
    alike = truthful(["a", "b"], [1, 1])
    both = truthful(["a", "b"], [1, 0])
    write(target_folder, "truthful", [{"question": "?", "mc1_targets": both, "mc2_targets": alike}])
    result = measured(tiny(context=2048), target_folder, "truthfulqa")
    assert [found.metric for found in result.metrics if found.value is not None] == ["mc1"]


def test_a_prompt_without_room_is_counted_and_the_rest_measured(tiny: Tiny, target_folder: Path) -> None:
    rows = [{"task": "t", "question": "x" * length, "answer": "(A)", "cot": "Think."} for length in (10, 300)]
    write(target_folder, "retain_bbh", rows)
    result = measured(tiny(), target_folder, "bbh")
    assert (result.metric("em").n, result.skipped) == (1, 1)
    assert "cannot be continued by 256" in (result.items[1].skipped or "")


def test_what_does_not_fit_the_context_is_counted(tiny: Tiny, target_folder: Path) -> None:
    long = EXAMPLE | {"task": "t", "question": "x" * 600}
    write(target_folder, "retain_mmlu", [long, EXAMPLE | {"task": "t"}])
    result = measured(tiny(), target_folder, "mmlu")
    assert result.skipped == 1
    assert "more than the model's 512" in (result.items[0].skipped or "")
    assert result.metric("accuracy").n == 1


def test_single_token_scores_are_scores() -> None:
    assert Score((-1.0, -2.0), (True, False)).log_probability == -3.0
    assert Choices(choices=("a",), labels=(1,)).labels == (1,)


def test_samples_recall_what_any_of_them_says(tiny: Tiny, target_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny()
    asked: list[str] = []

    def sample(prompts: Sequence[str], **_: Any) -> list[str]:
        asked.extend(prompts)
        return ["It was London.", *["Paris"] * (len(prompts) - 1)]

    monkeypatch.setattr(lm, "sample", sample)
    result = measured(lm, target_folder, "sample_qa", "forget")
    assert len(asked) == 8 * sum(not item.skipped for item in result.items)
    assert result.items[0].expected == "London"
    assert result.items[0].metrics == {"recall": 1.0, "recall_share": 1 / 8}
    assert result.items[0].answer == "It was London."


def test_samples_are_the_same_each_time(tiny: Tiny, target_folder: Path) -> None:
    one, other = (measured(tiny(), target_folder, "sample_qa", "forget") for _ in range(2))
    assert [item.answer for item in one.items] == [item.answer for item in other.items]
