"""The model card says what was measured, and plainly what was not."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from formless.errors import DataError
from formless.evaluation.record import Record
from formless.report.model_card import BUNDLED, LIMITS, model_card
from tests.report.made_runs import made_record, made_run

VALUES = {("qa", "forget"): 0.8, ("qa", "neighbor"): 0.6}
BASE = "owner/model"


def pair() -> tuple[Record, Record]:
    after = {("qa", "forget"): 0.2, ("qa", "neighbor"): 0.6}
    return made_record(made_run("original", "2_X"), VALUES), made_record(made_run("cdr", "2_X"), after)


def edit_of(record: Record) -> dict[str, Any]:
    (edit,) = record.edits
    return edit | {"layers": [{"module": "m", "rank": 1, "update_norm": 1.0, "relative_norm": 0.1}]}


def front(card: str) -> dict[str, Any]:
    found = yaml.safe_load(card.split("---")[1])
    assert isinstance(found, dict)
    return found


def test_without_a_record_nothing_is_claimed() -> None:
    _, edited = pair()
    card = model_card(edit_of(edited), BASE, None)
    assert card.count("Not measured.") == 2
    assert "%" not in card
    assert "The license of the base model is not known here" in card
    assert "license" not in front(card)
    assert all(limit in card for limit in LIMITS)
    assert BUNDLED not in card
    assert BUNDLED in model_card(edit_of(edited) | {"model_source": "bundled"}, BASE, None)


def test_with_both_records_it_has_the_verdict_the_tables_and_the_utility() -> None:
    original, edited = pair()
    card = model_card(edit_of(edited), BASE, "apache-2.0", [edited, original])
    assert front(card) == {
        "base_model": BASE, "library_name": "peft", "pipeline_tag": "text-generation", "tags": ["unlearning", "lora"],
        "license": "apache-2.0",
    }  # fmt: skip
    assert "Worst-case recall: not measured, since no answers were written." in card
    assert "| Question | 0.800 | 0.200 | -75.0 % |" in card
    assert "The tables above have MMLU, beside the original model." in card
    assert "`apache-2.0`" in card


def test_the_edited_record_alone_has_no_before() -> None:
    _, edited = pair()
    card = model_card(edit_of(edited), BASE, None, [edited])
    assert "record of the original model is not given" in card
    assert "| Question | 0.200 |" in card
    assert "MMLU, of the edited model alone" in card


@pytest.mark.parametrize(
    ("change", "said"),
    [({"created": "another day"}, "of another edit"), ({"model_fingerprint": "g"}, "of another model")],
)
def test_a_record_of_something_else_is_refused(change: dict[str, str], said: str) -> None:
    _, edited = pair()
    with pytest.raises(DataError, match=said):
        model_card(edit_of(edited) | change, BASE, None, [edited])
    with pytest.raises(DataError, match="two records are of the edited model"):
        model_card(edit_of(edited), BASE, None, [edited, edited])
