"""Every setting that is a number has a finite range, and a value outside it is refused with the setting's name and range."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formless.errors import UserError
from formless.methods.base import MethodConfig
from formless.methods.registry import METHODS, method_config
from formless.models.settings import ModelSettings

PLAIN = ModelSettings(name="plain", source="plain")
NUMBERS = [
    (entry.name, setting)
    for entry in METHODS.values()
    for setting, field in entry.config.model_fields.items()
    if field.annotation in (int, float, int | None, float | None)
]
LAYERS = [(entry.name, "layers") for entry in METHODS.values() if "layers" in entry.config.model_fields]
ABOVE = 10.0**10


def test_every_number_has_a_lowest_and_a_highest_value() -> None:
    assert len(NUMBERS) > 100
    for method, setting in NUMBERS:
        allowed = METHODS[method].config.allowed_range(setting)
        assert allowed is not None, (method, setting)
        assert re.fullmatch(r"(greater than|at least) \S+, (less than|at most) \S+", allowed), (method, setting, allowed)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, "nan", ".inf", -1, -1e300, 1e300, 10**400, True, False, [1]])
def test_a_value_outside_the_range_is_refused_by_name_and_range(value: Any) -> None:
    for method, setting in NUMBERS:
        with pytest.raises(UserError) as caught:
            method_config(PLAIN, method, {setting: value})
        said = str(caught.value)
        assert f"[{setting}]" in said, said
        assert f"; allowed: {METHODS[method].config.allowed_range(setting)})" in said, said
        assert "\n" not in said


@given(st.sampled_from(NUMBERS), st.one_of(st.floats(max_value=0, exclude_max=True), st.floats(min_value=ABOVE)))
def test_no_number_beyond_the_ranges_is_taken(named: tuple[str, str], value: float) -> None:
    method, setting = named
    with pytest.raises(UserError, match=rf"\[{setting}\]"):
        method_config(PLAIN, method, {setting: value})


@given(st.sampled_from(LAYERS), st.lists(st.integers(-3, 40), max_size=5))
def test_layers_are_ascending_and_each_once(named: tuple[str, str], layers: list[int]) -> None:
    method, setting = named
    if layers and layers == sorted(set(layers)) and layers[0] >= 0:
        found: Any = method_config(PLAIN, method, {setting: layers})
        assert list(found.layers) == layers
    else:
        with pytest.raises(UserError, match=r"\[layers"):
            method_config(PLAIN, method, {setting: layers})


@pytest.mark.parametrize("layers", [True, [True, 2], [1, math.inf], [1.5], "one"])
def test_layers_are_whole_numbers(layers: Any) -> None:
    for method, setting in LAYERS:
        with pytest.raises(UserError, match=r"\[layers"):
            method_config(PLAIN, method, {setting: layers})


def test_a_switch_takes_true_and_false() -> None:
    for value in (True, False):
        assert METHODS["ga"].config.model_validate({"full": value}).model_dump()["full"] is value


def test_a_threshold_of_zero_is_refused() -> None:
    for value in (0, 0.0, -0.0):
        with pytest.raises(UserError, match=r"allowed: greater than 0, at most 1,000,000\) \[threshold\]"):
            method_config(PLAIN, "rocr", {"threshold": value})


def test_settings_that_are_no_number_have_no_range() -> None:
    assert METHODS["rocr"].config.allowed_range("mode") is None
    assert MethodConfig.allowed_range("none_such") is None
