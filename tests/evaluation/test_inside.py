"""Looks inside: the lens and the probe by layer, by hand and on tiny random models."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import formless
from formless.data.ort import find_target
from formless.data.rows import Cloze
from formless.data.target import Target
from formless.evaluation.evaluate import cost
from formless.evaluation.foils import Foils
from formless.evaluation.record import ItemResult, MetricKey
from formless.evaluation.registry import TASKS
from formless.evaluation.task import ReadLayers, ScoreLayers, Source
from formless.evaluation.tasks import inside
from formless.evaluation.tasks.inside import accuracies, by_layer, filled, training_statements, versions
from formless.evaluation.verification import faults
from formless.models.lm import LM
from formless.models.scores import Score
from formless.report.comparison import compare
from formless.report.layers import layer_plots
from formless.report.page import write_report

Tiny = Callable[..., LM]


def source(target: Target, split: str = "forget") -> Source:
    return Source(f"{split}_level1", split, Foils(target), target)  # type: ignore[arg-type]


def test_the_probe_by_hand() -> None:
    # Two layers, two dimensions. In layer 0 truth lies along x: the direction is (1, 0). In layer 1 along y, half as far.
    one = [[[1, 5], [0, 1]], [[0, 5], [0, 0.5]], [[0, 5], [0, 0.5]]]
    other = [[[3, 0], [7, 1]], [[1, 0], [7, 0.5]], [[3, 0], [7, 0.5]]]
    own = [[[0.5, 9], [1, 1]], [[0.4, 0], [1, 2]], [[0.6, 0], [1, 0]]]
    others = [np.asarray(one, np.float32), np.asarray(other[:2], np.float32)]  # the second one has a single false version
    found = accuracies(np.asarray(own, np.float32), others)
    assert found.tolist() == [1 / 2, 1 / 2]
    own[2][0], own[1][1] = [0.1, 0], [1, -1]
    assert accuracies(np.asarray(own, np.float32), others).tolist() == [1, 1]


def test_statements_are_filled_with_the_answer_and_its_foils() -> None:
    target = find_target("sample", "Albert Einstein")
    item = target.rows("forget_level1", Cloze)[0]
    found = filled(item, versions(item, source(target)))
    assert found[0] == "Albert Einstein won the Nobel Prize in Physics."
    assert len(set(found)) == 6
    assert all(text.startswith("Albert Einstein won the Nobel Prize in ") for text in found)
    assert versions(Cloze(query="Who was he?", answer="Ada"), source(target)) == ()


@pytest.mark.parametrize("concept", ["Albert Einstein", "Isaac Newton", "Charles Darwin"])
def test_the_probe_is_not_fitted_on_the_answers_that_it_is_to_tell_apart(concept: str) -> None:
    target = find_target("sample", concept)
    for split in ("forget", "neighbor"):
        for item in target.rows(f"{split}_level1", Cloze):
            answers, training = versions(item, source(target, split)), training_statements(item, source(target, split))
            assert training
            assert all(len(texts) > 1 for texts in training)
            asked = {row.query.partition("___")[0]: row for row in target.rows("neighbor_level1", Cloze)}
            for text in (text for texts in training for text in texts):
                row = next(row for start, row in asked.items() if text.startswith(start))
                assert not {row.query.replace("___", answer) for answer in answers} & {text}


def test_the_probe_is_fitted_on_other_concepts(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    target = find_target("sample", "Albert Einstein")
    item, neighbor = (target.rows(f"{split}_level1", Cloze)[0] for split in ("forget", "neighbor"))
    training = training_statements(item, source(target))
    texts = [text for own in training for text in own]
    assert not any("Einstein" in text for text in texts)
    assert any("Newton" in text for text in texts)
    assert neighbor.neighbor == "Isaac Newton"
    others = training_statements(neighbor, source(target, "neighbor"))
    assert 1 < len(others) < len(target.rows("neighbor_level1", Cloze))
    assert not any("Newton discovered" in text for own in others for text in own)
    monkeypatch.setattr(inside, "TRAINING", 4)
    assert training_statements(item, source(target)) == training[:: -(-len(training) // 4)]
    asked = TASKS["probe"].ask(tiny(), item, source(target))
    assert asked.requests[:6] == tuple(map(ReadLayers, filled(item, versions(item, source(target)))))
    assert asked.prompt == "Albert Einstein won the Nobel Prize in Physics."
    bare = TASKS["probe"].ask(tiny(), item, Source("forget_level1", "forget"))
    assert bare.skipped == "the cloze has not one blank, an answer and five foils"
    alone = source(target)._replace(target=None)
    reason = "there is no statement about another concept, with other answers, to fit the probe on"
    assert TASKS["probe"].ask(tiny(), item, alone).skipped == reason


def test_means_are_over_the_items_of_a_layer() -> None:
    items = [ItemResult(query="a", group=f"layer {n}", metrics={"probability": n / 4}) for n in (0, 1)]
    items += [ItemResult(query="b", group=f"layer {n}", metrics={"probability": 1.0}) for n in (0, 1)]
    found = by_layer([*items, ItemResult(query="c", skipped="too long")])
    assert [(one.metric, one.group, one.value, one.n) for one in found] == [
        ("probability", "layer 0", 0.5, 2),
        ("probability", "layer 1", 0.625, 2),
    ]


@pytest.fixture
def target(target_folder: Path) -> Target:
    rows = [
        {"query": query, "answer": answer, "subject": "Ada Lovelace", "neighbor": name}
        for name, city, year in (("Mary Shelley", "London", 1797), ("Lord Byron", "Paris", 1788), ("A. Babbage", "Rome", 1791))
        for query, answer in ((f"{name} was born in ___.", city), (f"{name} was born in the year ___.", f"{year}"))
    ]
    (target_folder / "neighbor_level1.json").write_text(json.dumps(rows), "utf-8")
    return Target("Ada Lovelace", target_folder)


def test_a_record_has_an_item_and_a_metric_for_each_layer(tiny: Tiny, target: Target, tmp_path: Path) -> None:
    lm = tiny()
    record = formless.evaluate(lm, target, "inside,qa", progress=False)
    assert not list(faults(record))
    lens, qa, probe = (record.task(name, "forget") for name in ("lens", "qa", "probe"))
    assert lens is not None
    assert qa is not None
    assert probe is not None
    assert [item.group for item in lens.items] == [f"layer {index}" for index in range(4)]
    assert lens.metric("probability").value is None
    last = lens.metric("probability", "layer 3").value
    assert last == pytest.approx(qa.metric("probability").value, rel=1e-4)
    assert last != pytest.approx(lens.metric("probability", "layer 0").value, rel=1e-3)
    assert {item.group for item in probe.items} == {f"layer {index}" for index in range(4)}
    assert MetricKey("probe", "forget", "accuracy", "layer 2") in record.metrics()
    with lm.overlaid({}, {"method": "none", "subject": "Ada Lovelace", "prefix": None, "trained_neighbors": []}):
        edited = formless.evaluate(lm, target, "inside,qa", progress=False)
    comparison = compare(record, edited)
    assert comparison.change("lens", "forget", "probability", "layer 3").difference.value == pytest.approx(0)
    assert [title for title, _ in layer_plots(comparison)] == ["Logit lens, by layer", "Linear probe, by layer"]
    write_report(tmp_path / "page.html", record, record)
    assert "Logit lens, by layer" in (tmp_path / "page.html").read_text("utf-8")


def test_the_lens_asks_what_qa_asks(tiny: Tiny, target: Target) -> None:
    lm, item = tiny(), target.items("forget_level2")[0]
    (request,) = TASKS["lens"].ask(lm, item, source(target)).requests
    (expected,) = TASKS["qa"].ask(lm, item, source(target)).requests
    assert isinstance(request, ScoreLayers)
    assert (request.prompt, request.answer) == (expected.prompt, expected.answer)  # type: ignore[union-attr]
    assert cost(request) == cost(expected)
    found = TASKS["lens"].ask(lm, item, source(target)).measure([(Score((0.0,), (True,)), Score((-1.0,), (False,)))])
    assert found.by_group == {  # type: ignore[union-attr]
        "layer 0": {"probability": 1.0, "token_accuracy": 1.0},
        "layer 1": {"probability": pytest.approx(np.exp(-1)), "token_accuracy": 0.0},
    }
    empty = item.model_copy(update={"answer": " "})
    assert TASKS["lens"].ask(lm, empty, source(target)).skipped == "the answer is empty"


def test_an_item_without_a_response_is_skipped_in_every_layer(tiny: Tiny, target: Target) -> None:
    lm = tiny(context=512)
    record = formless.evaluate(lm, target, "lens", progress=False)
    prefix = "Ada is forgotten. " * 30  # no question fits the context behind it
    with lm.prefixed(prefix, {"method": "none", "subject": "Ada Lovelace", "prefix": prefix, "trained_neighbors": []}):
        edited = formless.evaluate(lm, target, "lens", progress=False)
    lens = edited.task("lens", "forget")
    assert lens is not None
    assert [item.group for item in lens.items] == [f"layer {index}" for index in range(4)]
    assert all(item.skipped for item in lens.items)
    assert compare(record, edited).change("lens", "forget", "probability", "layer 3").edited.value is None
