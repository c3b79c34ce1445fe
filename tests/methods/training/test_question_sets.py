"""Training on a question set: what is read of it, what is learned, and each loss against numbers worked out from the logits."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import formless
from formless.data.refusals import REFUSALS
from formless.data.rows import QuestionAnswer
from formless.data.target import Target
from formless.errors import DataError
from formless.methods.registry import METHODS, check_request, method_config
from formless.methods.training.collator import DataCollatorForUnlearning, TrainingRow
from formless.methods.training.losses import IGNORED
from formless.methods.training.preprocessing import (
    TokenizedText,
    question_answer,
    question_answer_without_start,
    question_refusal,
    question_refusal_and_answer,
    question_wrong_answer,
)
from formless.methods.training.spec import TrainingSpec
from formless.models.lm import LM

Tiny = Callable[..., LM]
TRAINING = [name for name, entry in METHODS.items() if entry.trains_on]
FORGET = [("Where was Ada born?", "In London."), ("What did Ada write?", "She wrote the first programs.")]
RETAIN = [("Where does Bob live?", "Bob lives in Rome.")]
WRONG = ("In Oslo.", "In Bonn.")
STEPS: dict[str, Any] = {
    "learning_rate": 0.01,
    "num_train_epochs": 4,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 1,
    "warmup_steps": 0,
}
ONE_STEP = STEPS | {"num_train_epochs": 1}


def write(folder: Path, **files: list[dict[str, Any]]) -> None:
    for name, rows in files.items():
        (folder / f"{name}.json").write_text(json.dumps(rows), "utf-8")


def asked(rows: list[tuple[str, str]]) -> list[dict[str, Any]]:
    return [{"question": question, "answer": answer, "perturbed_answer": WRONG} for question, answer in rows]


@pytest.fixture
def questions(tmp_path: Path) -> Target:
    """A question set: two questions to forget, one to retain."""
    folder = tmp_path / "sets" / "1_Small_set"
    folder.mkdir(parents=True)
    write(folder, forget_qa=asked(FORGET), neighbor_qa=asked(RETAIN))
    return Target("Small set", folder)


def logits(lm: LM, question: str, answer: str) -> tuple[Tensor, Tensor]:
    """Logits before each token of an answer and its EOS, and these tokens: one byte is one token."""
    ids = torch.tensor(lm.tokenizer(f"[user]{question}[assistant]{answer}</s>")["input_ids"])
    with torch.no_grad():
        found = lm.model(input_ids=ids[None]).logits[0].float()
    count = len(answer.encode()) + 1
    return found[-count - 1 : -1], ids[-count:]


def nll(lm: LM, question: str, answer: str) -> Tensor:
    """Negative log-probability of each token of an answer and its EOS."""
    found, ids = logits(lm, question, answer)
    return -torch.log_softmax(found, -1)[torch.arange(len(ids)), ids]


def refusal(question: str, seed: int = 42) -> str:
    return random.Random(f"{seed} {question}").choice(REFUSALS)


def softened(lm: LM, rows: list[tuple[str, str]], lowered: float, skipped: int) -> float:
    """Cross-entropy against the model's own distribution with the label's logit lowered, mean over tokens."""
    total = []
    for row in rows:
        found, ids = logits(lm, *row)
        for position in range(skipped, len(ids)):
            target = found[position].clone()
            target[ids[position]] -= lowered
            total.append(float(-(torch.softmax(target, -1) * torch.log_softmax(found[position], -1)).sum()))
    return sum(total) / len(total)


def by_hand(lm: LM, method: str) -> float:
    """The loss before the first step."""
    answers = torch.cat([nll(lm, *row) for row in FORGET])
    kept = nll(lm, *RETAIN[0])
    refused = torch.cat([nll(lm, question, refusal(question)) for question, _ in FORGET])
    wrong = [nll(lm, question, random.Random(f"42 {question}").choice(WRONG)) for question, _ in FORGET]
    if method == "wga":
        return float(-((-answers).exp() * answers).mean())
    if method == "simnpo":  # beta 4.5, gamma 0
        return sum(2 / 4.5 * math.log1p(math.exp(-4.5 * float(nll(lm, *row).mean()))) for row in FORGET) / 2
    found: dict[str, Tensor | float] = {
        "ga": -answers.mean(), "ga_passage": -answers.mean(), "grad_diff": kept.mean() - answers.mean(),
        "task_vector": answers.mean(), "npo": 2 / 0.0275 * math.log(2), "rt": refused.mean(),
        "idk_nll": refused.mean() + kept.mean(), "cft": torch.cat(wrong).mean(), "dpo": math.log(2),
        "dpo_reject": math.log(2), "idk_dpo": math.log(2) + kept.mean(), "undial": softened(lm, FORGET, 10.0, 0),
        "ce_u": softened(lm, FORGET, math.inf, 1),
    }  # fmt: skip
    return float(found[method])


def advantage(lm: LM, method: str) -> float:
    """How much more probable (log) the answers are, than refusals where the method trains on these."""
    own = -sum(float(nll(lm, *row).sum()) for row in FORGET)
    if method not in ("rt", "idk_nll", "dpo", "dpo_reject", "idk_dpo"):
        return own
    return own + sum(float(nll(lm, question, refusal(question)).sum()) for question, _ in FORGET)


@pytest.mark.parametrize("method", [name for name in TRAINING if name != "rmu"])
def test_training_begins_at_the_loss_of_the_answers_and_forgets_them(tiny: Tiny, questions: Target, method: str) -> None:
    lm = tiny()
    info = (edit := formless.unlearn(lm, questions, method, **STEPS)).info
    assert info.facts["first_loss"] == pytest.approx(by_hand(lm, method), rel=1e-4)
    assert (info.facts["file"], info.facts["rows"], info.subject) == ("forget_qa.json", 2, "Small set")
    assert ("retain_set" in info.facts) == (method in ("grad_diff", "idk_nll", "idk_dpo"))
    before = advantage(lm, method)
    with edit.applied(lm):
        assert method == "cft" or advantage(lm, method) < before  # wrong answers may begin as the right ones do


def test_rmu_moves_the_activations_of_the_answers_alone(tiny: Tiny, questions: Target) -> None:
    """Before the first step, the retained activations are where they were: only the forget loss is left."""
    lm = tiny()
    edit = formless.unlearn(lm, questions, "rmu", **ONE_STEP)
    direction = torch.rand(32, generator=torch.Generator().manual_seed(42))
    goal = 20 * direction / direction.norm()
    distances = []
    for question, answer in FORGET:
        ids = torch.tensor(lm.tokenizer(f"[user]{question}[assistant]{answer}</s>")["input_ids"])
        with torch.no_grad():
            states = lm.model(input_ids=ids[None], output_hidden_states=True).hidden_states[1][0]  # after layer 0
        distances += [float((state - goal).square().mean()) for state in states[-len(answer.encode()) - 1 :]]
    assert edit.info.facts["first_loss"] == pytest.approx(sum(distances) / len(distances), rel=1e-4)


def test_what_edit_json_says_of_the_retain_questions(tiny: Tiny, questions: Target) -> None:
    info = formless.unlearn(tiny(), questions, "npo", retain="kl", **ONE_STEP).info
    assert info.facts["retain_set"] == "the retain questions, which the evaluation asks too"
    assert info.trained_neighbors == ()  # none is left out of an evaluation
    assert set(info.facts["probabilities"]) == {"step", "forget", "retain"}


def test_every_epoch_takes_other_retain_questions(tiny: Tiny, questions: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny()
    assert questions.folder
    many = [(f"Question {n}?", f"Answer {n}.") for n in range(8)]
    write(questions.folder, neighbor_qa=asked(many))
    seen: list[tuple[int, str]] = []
    collate = DataCollatorForUnlearning.__call__

    def watched(self: DataCollatorForUnlearning, rows: list[TrainingRow]) -> dict[str, Any]:
        seen.extend((number, learned(lm, text)[1]) for number, _, text in rows if text)
        return collate(self, rows)

    monkeypatch.setattr(DataCollatorForUnlearning, "__call__", watched)
    formless.unlearn(lm, questions, "grad_diff", **(STEPS | {"num_train_epochs": 3}))
    assert sorted(number for number, _ in seen) == [0, 0, 0, 1, 1, 1]
    assert len({text for _, text in seen}) == 6  # of eight questions
    assert {text for _, text in seen} <= {f"{answer}</s>" for _, answer in many}


def learned(lm: LM, text: TokenizedText) -> tuple[str, str]:
    start = next(i for i, label in enumerate(text.labels) if label != IGNORED)
    assert text.labels[start:] == text.ids[start:]
    return str(lm.tokenizer.decode(text.ids[:start])), str(lm.tokenizer.decode(text.ids[start:]))


def test_what_a_question_gives(tiny: Tiny) -> None:
    lm = tiny()
    row = QuestionAnswer(question="Where?", answer="In Rome.", perturbed_answer=WRONG)
    prompt = "[user]Where?[assistant]"
    (text,) = question_answer(lm, row, 512, seed=1)
    assert learned(lm, text) == (prompt, "In Rome.</s>")
    (rest,) = question_answer_without_start(lm, row, 512, seed=1)
    assert (rest.ids, learned(lm, rest)) == (text.ids, (f"{prompt}I", "n Rome.</s>"))
    (refused,) = question_refusal(lm, row, 512, seed=1)
    assert learned(lm, refused) == (prompt, f"{refusal('Where?', 1)}</s>")
    assert question_refusal_and_answer(lm, row, 512, seed=1) == (refused, text)
    (wrong,) = question_wrong_answer(lm, row, 512, seed=1)
    assert learned(lm, wrong)[1].removesuffix("</s>") in WRONG
    with pytest.raises(DataError, match=r"no perturbed answer to train on \[Where\?\]: import perturbed answers too"):
        question_wrong_answer(lm, row.model_copy(update={"perturbed_answer": ()}), 512, seed=1)


def test_refusals_follow_the_seed(tiny: Tiny) -> None:
    lm = tiny()
    rows = [QuestionAnswer(question=f"Question {n}?", answer="Yes.") for n in range(20)]

    def refused(seed: int) -> list[str]:
        return [learned(lm, question_refusal(lm, row, 512, seed=seed)[0])[1] for row in rows]

    assert refused(1) == refused(1) != refused(2)
    assert len(set(refused(1))) > 5


def spec(name: str) -> TrainingSpec:
    entry = METHODS[name]
    assert isinstance(entry, TrainingSpec)
    return entry


def test_the_file_that_is_trained_on(questions: Target) -> None:
    assert questions.folder
    files = {name: spec(name).file_for(questions) for name in TRAINING}
    assert set(files.values()) == {"forget_qa"}
    assert spec("npo").file_for(questions, "texts") == "positive"  # which is not there
    write(questions.folder, passage=[{"text": "Ada wrote programs."}])
    assert [spec(name).file_for(questions) for name in ("npo", "ga_passage", "dpo", "rt")] == [
        "passage", "passage", "forget_qa", "forget_qa",
    ]  # fmt: skip
    assert spec("npo").file_for(questions, "questions") == "forget_qa"
    write(questions.folder, positive=[{"text": "Ada wrote programs."}], pair=[{"prompt": "Who?", "response": ["A", "B"]}])
    assert [spec(name).file_for(questions) for name in ("npo", "ga_passage", "dpo", "dpo_reject")] == [
        "positive", "passage", "pair", "forget_qa",
    ]  # fmt: skip


def test_a_target_that_is_no_question_set_trains_on_its_own_file(tmp_path: Path) -> None:
    folder = tmp_path / "1_Ada"
    folder.mkdir()
    write(folder, passage=[{"text": "Ada wrote programs."}])
    assert spec("npo").file_for(Target("Ada", folder)) == "positive"


def refused(lm: LM, target: Target, method: str, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        check_request(method, method_config(lm.settings, method, options), [target], None, options)
    return str(caught.value)


def test_a_set_without_what_is_trained_on_is_refused(tiny: Tiny, questions: Target) -> None:
    lm = tiny()
    assert questions.folder
    where = f"[{questions.folder}]: write questions with `formless data import`, or choose another method or target"
    assert refused(lm, questions, "npo", trains_on="texts") == f"npo trains on positive.json, which the target lacks {where}"
    (questions.folder / "forget_qa.json").unlink()
    for method, file in (("npo", "positive"), ("dpo", "pair"), ("rt", "reject")):
        what = f"{method} trains on {file}.json or forget_qa.json, which the target lacks"
        assert refused(lm, questions, method) == f"{what} {where}"
    assert refused(lm, questions, "npo", trains_on="questions").startswith("npo trains on forget_qa.json, which the target")


def test_a_set_without_retain_questions_is_refused_where_they_are_needed(tiny: Tiny, questions: Target) -> None:
    lm = tiny()
    path = questions.path("neighbor_qa")
    path.unlink()
    line = (
        f"the question set has no retain questions, neighbor_qa.json [{questions.folder}]: import a retain set too "
        "(`formless data import`), or take retain=none"
    )
    for method, options in (("grad_diff", {}), ("npo", {"retain": "kl"}), ("rmu", {})):
        assert refused(lm, questions, method, **options) == line
    formless.unlearn(lm, questions, "grad_diff", retain="none", **ONE_STEP)
    path.write_text("[]", "utf-8")
    with pytest.raises(DataError, match=r"the retain set holds no question \[.*neighbor_qa.json\]: import a retain set too"):
        formless.unlearn(lm, Target(questions.subject, questions.folder), "grad_diff", **ONE_STEP)
