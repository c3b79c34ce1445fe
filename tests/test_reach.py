"""The measurement of forgetting by form and mention, by hand."""

import pytest

from formless.evaluation.record import ItemResult, Record, TaskResult
from tools.mentions import Key, change, collect, row


def record(*values: tuple[str, float, float]) -> Record:
    """Return a record of blanks with mention, probability and token accuracy."""
    items = [
        ItemResult(query="q", group=mention, metrics={"probability": value, "token_accuracy": right})
        for mention, value, right in values
    ]
    skipped = ItemResult(query="q", group="alias", skipped="the answer is empty")
    task = TaskResult(task="fb_mentions", split="forget", status="complete", skipped=1, items=[*items, skipped])
    return Record.model_construct(tasks=[task])


def test_items_by_form_and_mention_with_those_that_are_known() -> None:
    before = record(("alias", 0.8, 1), ("alias", 0.2, 0.5), ("full name", 0.5, 0))
    after = record(("alias", 0.4, 0), ("alias", 0.2, 0.5), ("full name", 0.1, 0))
    found = {key: group for key, group in collect([(before, after), (before, after)]).items() if group.targets}
    alias, full = Key("forget", "fb_mentions", "probability", "alias"), Key("forget", "fb_mentions", "probability", "full name")
    assert set(found) == {alias, full}
    assert found[alias].targets == [[(0.8, 0.4), (0.2, 0.2)]] * 2
    assert found[alias].known == [[(0.8, 0.4)]] * 2
    assert found[full].known == []
    split, form, mention, targets, items, known, with_known, old, new, whole, of_known = row(alias, found[alias])
    assert (split, form, mention) == ("forget", "Fill in the blank", "alias")
    assert (targets, items, known, with_known, old, new) == (2, 4, 2, 2, 0.5, 0.3)
    assert getattr(whole, "value", None) == pytest.approx(-40)
    assert getattr(of_known, "value", None) == pytest.approx(-50)
    assert row(full, found[full])[-1] is None


def test_a_change_is_that_of_the_mean_over_targets() -> None:
    before, after, estimate = change([[(0.9, 0.3), (0.1, 0.1)], [(0.1, 0.1)]])
    assert (before, after) == (0.3, 0.15)
    assert estimate is not None
    assert (estimate.value, estimate.ci) == (-50.0, (-60.0, 0.0))
    assert change([[(0.5, 0.1)]])[2] is None  # one target has no confidence interval
