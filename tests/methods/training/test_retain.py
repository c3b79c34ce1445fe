"""The retain set: a retain loss beside any forget loss, on rows that no evaluation of the target asks about."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import formless
from formless.data.ort import SAMPLE, find_target
from formless.data.retain import RetainSet, half_of_the_neighbors, introductions, texts_of_others
from formless.data.rows import BLANK, Item, Passage
from formless.data.target import Target
from formless.errors import DataError, UserError
from formless.evaluation.evaluate import trained_neighbors
from formless.evaluation.plan import make_plan
from formless.experiment.measure import measure_edit
from formless.methods.training.collator import ForwardPass, Objective, pad_texts
from formless.methods.training.method import RETAIN_LOSSES
from formless.methods.training.preprocessing import preprocess_text
from formless.models.capture import capture
from formless.models.lm import LM
from formless.report.comparison import compare

Tiny = Callable[..., LM]
SUBJECTS = ("Albert Einstein", "Marie Curie", "Mount Everest")
KEPT = "Paris is the capital of France."
STEPS = {
    "learning_rate": 0.005,
    "num_train_epochs": 30,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 1,
    "warmup_steps": 0,
}


def asked(target: Target, without: tuple[str, ...] = ()) -> list[Item]:
    """Every probe that a whole evaluation puts to a model."""
    jobs = make_plan(target, "ort", excluded_neighbors=without).jobs
    return [row for job in jobs for _, row in job.rows if isinstance(row, Item)]


def told(kept: RetainSet) -> list[str]:
    """What a training run sees of the retain set."""
    return [" ".join(text.casefold().split()) for text in (*kept.texts, *(f"{q} {a}" for q, a in kept.questions))]


@pytest.mark.parametrize("subject", SUBJECTS)
def test_no_row_that_is_kept_is_a_probe(subject: str) -> None:
    target = find_target(SAMPLE, subject)
    others, half = texts_of_others(target, 1000, 0), half_of_the_neighbors(target, 0)
    assert len(others.texts) > 50
    assert len(half.texts) + len(half.questions) >= 8
    for kept in (others, half):
        texts = told(kept)
        for item in asked(target, kept.neighbors):
            query = " ".join(item.query.casefold().split())
            whole = " ".join(item.query.replace(BLANK, item.answer).casefold().split())
            assert not any(whole in text or (BLANK not in item.query and query in text) for text in texts)
    # The test sees a leak where there is one: the halved neighbors' own probes are among the rows.
    assert any(" ".join(item.query.replace(BLANK, item.answer).casefold().split()) in told(half) for item in asked(target))


def test_neighbor_rows_on_real_data_tell_nothing_of_the_target(rwku: Path) -> None:
    halved = 0
    for target in formless.targets(rwku):
        try:
            kept = half_of_the_neighbors(target, 0)
        except DataError:  # its probes are about one neighbor alone
            continue
        halved += bool(kept.texts)
        last = target.subject.split()[-1].casefold()
        answers = {item.answer.casefold() for level in (1, 2, 3) for item in target.items(f"forget_level{level}")}
        for text in told(kept):
            assert not re.search(rf"\b{re.escape(last)}\b", text)
            assert not any(re.search(rf"\b{re.escape(answer)}\b", text) for answer in answers)
    assert halved >= 10


def test_a_broken_neighbor_of_the_target_does_not_stop_its_training(tiny: Tiny, ada: Target) -> None:
    folder = ada.path("intro").parent.parent
    (folder / "2_Paris" / "intro.json").write_text("{oops")
    edit = formless.unlearn(tiny(), ada, "ga", **STEPS)
    assert "retain" not in edit.info.facts["probabilities"]


def test_what_is_watched_is_not_trained_on(tiny: Tiny, ada: Target) -> None:
    other = ada.path("intro").parent.parent / "2_Paris"
    (other / "positive.json").unlink()
    (other / "intro.json").write_text(json.dumps([{"target": "Paris", "intro": KEPT}]))
    edit = formless.unlearn(tiny(), ada, "grad_diff", **STEPS)
    assert edit.info.facts["retain_set"] == "texts of other targets: Paris"
    assert "retain" not in edit.info.facts["probabilities"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"retain_weight": 5.0}, r"retain_weight has no effect here \[setting retain_weight\]: .*set retain=ce"),
        ({"retain": "kl", "layer": 2}, r"layer has no effect here \[setting layer\]: .*set retain=activations"),
        ({"full": True, "r": 4}, r"r has no effect here \[setting r\]: .*set full=false"),
    ],
)
def test_settings_without_effect_are_refused(tiny: Tiny, ada: Target, settings: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        formless.unlearn(tiny(), ada, "ga", **(STEPS | settings))


def test_rmu_drives_activations_to_its_vector(tiny: Tiny, ada: Target) -> None:
    lm = tiny()
    settings = STEPS | {"num_train_epochs": 1, "per_device_train_batch_size": 1, "layer": 1, "coefficient": 3.0, "seed": 5}
    edit = formless.unlearn(lm, ada, "rmu", retain="none", **settings)
    direction = torch.rand(32, generator=torch.Generator().manual_seed(5))
    target_vector = 3.0 * direction / direction.norm()
    batch = lm.pad([lm.encode("Ada Lovelace wrote programs.").ids])
    distances = [(capture(lm, batch, residuals=[1]).residuals[1] - target_vector).norm()]
    with edit.applied(lm):
        distances.append((capture(lm, batch, residuals=[1]).residuals[1] - target_vector).norm())
    assert distances[1] < distances[0] - 1e-3


def test_half_of_the_neighbors_is_trained_and_the_other_half_evaluated() -> None:
    target = find_target(SAMPLE, "Albert Einstein")
    kept = half_of_the_neighbors(target, 0)
    everyone = {item.neighbor for item in asked(target) if item.neighbor}
    left = {item.neighbor for item in asked(target, kept.neighbors) if item.neighbor}
    assert left == everyone - set(kept.neighbors)
    assert len(kept.neighbors) == len(everyone) // 2
    about_the_target = [item for item in asked(target) if not item.neighbor]
    assert [item for item in asked(target, kept.neighbors) if not item.neighbor] == about_the_target
    assert half_of_the_neighbors(target, 0) == kept
    assert half_of_the_neighbors(target, 1) != kept


def test_texts_of_others_are_chosen_by_the_seed_and_are_about_others() -> None:
    target = find_target(SAMPLE, "Albert Einstein")
    kept = texts_of_others(target, 20, 0)
    assert len(kept.texts) == 20
    assert kept == texts_of_others(target, 20, 0) != texts_of_others(target, 20, 1)
    assert not any("einstein" in text.casefold() for text in kept.texts)
    assert "Albert Einstein" not in kept.source
    forget, retain = introductions(target, 2)
    assert ["Einstein" in text for text in forget + retain] == [True, False, False]


@pytest.fixture
def ada(target_folder: Path) -> Target:
    """The small target with neighbors of two names, a file to train on, and another target beside it."""
    rows = [{"text": text} for text in ("Ada Lovelace wrote programs.", "She was born in London.")]
    (target_folder / "positive.json").write_text(json.dumps(rows))
    neighbors = [
        {
            "query": f"{name} lived in {BLANK}.",
            "answer": place,
            "level": "1",
            "type": "cloze",
            "subject": "Ada",
            "neighbor": name,
        }
        for name, place in (("Byron", "Athens"), ("Babbage", "London"), ("Somerville", "Naples"), ("Faraday", "London"))
    ]
    (target_folder / "neighbor_level1.json").write_text(json.dumps(neighbors))
    for split in ("level2", "mcp", "tf"):
        (target_folder / f"neighbor_{split}.json").unlink()
    other = target_folder.parent / "2_Paris"
    other.mkdir()
    (other / "positive.json").write_text(json.dumps([{"text": f"{KEPT} It has {n} bridges."} for n in (37, 38)]))
    return Target("Ada Lovelace", target_folder)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ga", "npo", "simnpo", "rmu", "wga"])
@pytest.mark.parametrize("retain", ["ce", "kl", "activations"])
def test_a_retain_loss_goes_with_any_forget_loss(tiny: Tiny, ada: Target, method: str, retain: str) -> None:
    lm = tiny()
    settings = STEPS | ({"beta": 0.1} if method == "simnpo" else {})  # its usual beta has no gradient at random weights
    alone = formless.unlearn(lm, ada, method, retain="none", **settings)
    beside = formless.unlearn(lm, ada, method, retain=retain, retain_weight=100.0, **settings)
    assert "retained" not in alone.info.facts
    assert beside.info.facts["retain_set"] == "texts of other targets: Paris"
    kept, layer = [preprocess_text(lm, Passage(text=f"{KEPT} It has {n} bridges."), 512)[0] for n in (37, 38)], 0
    loss_input, loss = RETAIN_LOSSES[retain]
    forward = ForwardPass(lm, Objective(loss, loss_input, layer=layer), pad_texts(lm, kept))
    found = []
    with torch.no_grad():
        before = forward.run(lm.model)
        for edit in (alone, beside):
            with edit.applied(lm):
                found.append(forward.loss(forward.run(lm.model), before).item())
    assert found[1] < found[0] - 1e-6


def test_trained_neighbors_are_noted_and_left_out_on_both_sides(tiny: Tiny, ada: Target, tmp_path: Path) -> None:
    lm = tiny()
    edit = formless.unlearn(lm, ada, "grad_diff", retain_rows="neighbors", **STEPS)
    trained = edit.info.trained_neighbors
    assert len(trained) == 2
    edit.save(tmp_path / "edit")
    saved = formless.load_edit(tmp_path / "edit")
    assert saved.info.trained_neighbors == trained
    outcome = measure_edit(lm, saved, ada, "fb")
    for record in (outcome.original, outcome.edited):
        assert record.excluded_neighbors == sorted(trained)
        blanks = record.task("fb", "neighbor")
        assert blanks is not None
        assert blanks.metric("probability").n == 2
        assert not any(name in item.query for item in blanks.items for name in trained)
    assert {change.key.task for change in compare(outcome.original, outcome.edited).changes} == {"fb"}
    whole = formless.evaluate(lm, ada, "fb")
    assert whole.excluded_neighbors == []
    with pytest.raises(DataError, match="asked different items"):
        compare(whole, outcome.edited)
    assert trained_neighbors([{"method": "rocr"}]) == set()


def test_nothing_to_keep_is_named(tiny: Tiny, ada: Target) -> None:
    lm = tiny()
    for path in (ada.path("positive").parent.parent / "2_Paris").iterdir():
        path.write_text(json.dumps([{"text": "Paris knew Ada Lovelace."}]))
    with pytest.raises(DataError, match="no other target has a text for the retain set .*retain=none"):
        formless.unlearn(lm, ada, "grad_diff", **STEPS)
    ada.path("neighbor_level1").unlink()
    with pytest.raises(DataError, match="fewer than two neighbors.*retain_rows=targets"):
        formless.unlearn(lm, ada, "ga", retain="kl", retain_rows="neighbors", **STEPS)


def test_a_layer_that_is_not_there_is_named(tiny: Tiny, ada: Target) -> None:
    with pytest.raises(UserError, match=r"no layer 9.*choose from 0 to 3"):
        formless.unlearn(tiny(), ada, "rmu", layer=9, **STEPS)
    with pytest.raises(UserError, match=r"no layer 4.*choose from 0 to 3"):
        formless.unlearn(tiny(), ada, "ga", layers=(1, 4), **STEPS)
