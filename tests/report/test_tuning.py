"""The rule by which `formless tune` chooses, in numbers worked out by hand."""

from __future__ import annotations

import pytest
import yaml

from formless.errors import DataError
from formless.evaluation.known import Known
from formless.models.settings import ModelSettings
from formless.report.ratios import KnownItems, Place, Ratios
from formless.report.tuning import RULE, Tried, choose, concept_means, recipe, tuning_table
from tests.experiment.conftest import made_ratios


def tried(
    first: int,
    value: float,
    forgetting: float | None,
    retention: float | None,
    missing: str | None = None,
    method: str = "rocr",
) -> Tried:
    return Tried(method, (first, first + 1, first + 2), value, forgetting, retention, 4, missing)


def test_the_means_of_a_concept() -> None:
    found = concept_means(made_ratios({"statement": 0.2, "qa": 0.6}, {"statement": 1.5, "qa": 0.8}))
    assert found == pytest.approx((0.6, 0.9))  # (0.8 + 0.4) / 2; (1 + 0.8) / 2: what a form gains does not hide a loss
    assert concept_means(made_ratios({"statement": 0.2}, {})) is None
    assert concept_means(made_ratios({}, {"qa": 1.0})) is None


def test_mentions_and_reverse_questions_count_like_forms() -> None:
    known = Known(1, 1, 1 / 6)
    values: dict[Place, float] = {
        ("qa", None): 0.2, ("qa_mentions", "alias"): 0.6, ("qa_mentions", "lower case"): 0.2, ("reverse", None): 0.9,
    }  # fmt: skip
    items = {place: KnownItems([(1.0, ratio)], known) for place, ratio in values.items()}
    found = concept_means(Ratios({"forget": items, "neighbor": {("reverse", None): KnownItems([(1.0, 0.7)], known)}}))
    assert found == pytest.approx((0.5, 0.7))  # (0.8 + (0.4 + 0.8) / 2 + 0.1) / 3


def test_the_largest_forgetting_among_those_that_retain_enough() -> None:
    strong, mild, weak = tried(0, 0.1, 0.9, 0.94), tried(1, 1, 0.5, 0.95), tried(2, 10, 0.3, 0.99)
    assert choose([strong, mild, weak]) is mild


def test_retention_counts_to_three_decimals() -> None:
    assert choose([tried(0, 1, 0.9, 0.9494), tried(1, 1, 0.1, 0.96)]).layers == (1, 2, 3)
    assert choose([tried(0, 1, 0.9, 0.9496), tried(1, 1, 0.1, 0.96)]).layers == (0, 1, 2)


def test_the_largest_harmonic_mean_if_none_retains_enough() -> None:
    # 2 * 0.9 * 0.5 / 1.4 = 0.643; 2 * 0.7 * 0.8 / 1.5 = 0.747; 2 * 0.2 * 0.9 / 1.1 = 0.327
    strong, middle, weak = tried(0, 0.1, 0.9, 0.5), tried(1, 1, 0.7, 0.8), tried(2, 10, 0.2, 0.9)
    assert [one.harmonic for one in (strong, middle, weak)] == pytest.approx([0.642857, 0.746667, 0.327273], abs=1e-6)
    assert choose([strong, middle, weak]) is middle


def test_a_setting_that_forgets_nothing_has_a_harmonic_mean_of_0() -> None:
    assert tried(0, 1, -0.2, 0.9).harmonic == 0
    assert tried(0, 1, 0.5, 0.0).harmonic == 0
    assert tried(0, 1, None, None).harmonic is None


def test_among_equal_ones_earlier_layers_then_the_weaker_edit() -> None:
    later, early, early_weak = tried(3, 100, 0.5, 0.97), tried(1, 1, 0.5004, 0.96), tried(1, 10, 0.4996, 0.99)
    assert choose([later, early, early_weak]) is early_weak
    assert choose([later, early]) is early
    strong, weak = (tried(1, budget, 0.5, 0.97, method="cdr") for budget in (0.08, 0.04))
    assert choose([strong, weak]) is weak


def test_a_setting_that_is_not_complete_is_never_chosen() -> None:
    partial, whole = tried(0, 1, 0.9, 0.99, "2 of 4 concepts are measured"), tried(1, 1, 0.1, 0.99)
    assert choose([partial, whole]) is whole
    with pytest.raises(DataError, match="no setting is measured on every concept"):
        choose([partial])


def test_the_recipe_keeps_the_rest_and_names_what_is_missing() -> None:
    own = ModelSettings(name="mine", source="models/mine", methods={"ga": {"r": 4}, "rocr": {"redirect": "Elon Musk"}})
    every = [tried(0, 1.0, 0.51251, 0.97), tried(1, 1.0, None, None, "failed: a key vanishes")]
    text = recipe(own, every[0], every, {"basis": "stats/mine"}, {"concepts": ["Ada", "Bob"]})
    found = yaml.safe_load(text)
    settings = ModelSettings.model_validate(found)
    assert (settings.name, settings.source) == ("mine", "models/mine")
    assert settings.methods["rocr"] == {"redirect": "Elon Musk", "basis": "stats/mine", "layers": [0, 1, 2], "l2": 1.0}
    assert settings.methods["ga"] == {"r": 4}
    evidence = settings.evidence
    assert (evidence["rule"], evidence["concepts"]) == (RULE, ["Ada", "Bob"])
    assert evidence["rows"] == [["0-2", 1.0, 0.513, 0.97, 0.671, 4], ["1-3", 1.0, None, None, None, 4]]
    assert evidence["not complete"] == {"1-3, l2 1": "failed: a key vanishes"}
    assert evidence["chosen"] == {"layers": "0-2", "l2": 1.0, "forgetting": 0.513, "retention": 0.97}


def test_the_recipe_of_another_method() -> None:
    own = ModelSettings(name="mine", source="models/mine", methods={"cdr": {"budget": 0.16, "ridge": 0.1}, "rocr": {"l2": 7}})
    one = tried(2, 0.04, 0.5, 0.97, method="cdr")
    settings = ModelSettings.model_validate(yaml.safe_load(recipe(own, one, [one], {}, {})))
    assert settings.methods == {"cdr": {"layers": [2, 3, 4], "budget": 0.04, "ridge": 0.1}, "rocr": {"l2": 7}}
    assert settings.evidence["chosen"] == {"layers": "2-4", "budget": 0.04, "forgetting": 0.5, "retention": 0.97}
    assert settings.evidence["columns"][1] == tuning_table([one]).columns[2] == "budget"


def test_the_table_marks_the_chosen_one() -> None:
    every = [tried(0, 1, 0.5, 0.97), tried(1, 10, None, None, "1 of 4 concepts are measured")]
    table = tuning_table(every, every[0])
    assert table.rows[0] == ("0-2", "chosen", "1", "0.500", "0.970", "0.660", "4")
    assert table.rows[1][:4] == ("1-3", "1 of 4 concepts are measured", "10", "–")
