"""The sweep of `formless tune`: windows, strengths, and what is refused."""

from __future__ import annotations

import pytest

from formless.errors import UserError
from formless.experiment.config import ModelChoice
from formless.experiment.tune import Tuning, label, tuned_setting, windows
from formless.methods.registry import METHODS, method_config
from formless.models.settings import ModelSettings


def tuning(layers: list[tuple[int, ...]], values: list[float], settings: dict[str, object], method: str = "rocr") -> Tuning:
    return Tuning(ModelChoice(name="smollm2"), method, layers, values, settings, "sample", "1-2", "statement,qa", 12)


def test_windows_of_the_first_half() -> None:
    assert windows(11, 3) == [(0, 1, 2), (2, 3, 4)]  # five layers are in the first half of eleven
    assert windows(8, 3) == [(0, 1, 2)]
    assert len(windows(30, 3)) == 7
    assert windows(30, 3)[-1] == (12, 13, 14)
    assert windows(28, 3, [6, 2, 6]) == [(2, 3, 4), (6, 7, 8)]
    assert windows(2, 1) == [(0,)]


@pytest.mark.parametrize(
    ("depth", "size", "firsts", "message"),
    [
        (4, 3, None, r"a window of 3 layers does not fit into the first half of 4 layers \[--window\]: give 1 to 2"),
        (4, 0, None, "--window"),
        (1, 1, None, "choose a deeper model"),
        (8, 3, [2], r"a window from layer 2 does not fit .* 8 layers \[--first-layers\]: give 0 to 1"),
        (8, 3, [-1], "--first-layers"),
    ],
)
def test_windows_that_do_not_fit(depth: int, size: int, firsts: list[int] | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        windows(depth, size, firsts)


def test_the_sweep_has_the_original_once_and_every_setting_once() -> None:
    made = tuning([(0, 1), (1, 2)], [0.1, 10.0], {"basis": "none"}).experiment()
    first, *others = made.methods
    assert (first.method, first.settings) == ("original", {})
    assert [method.label for method in others] == [
        "layers_0-1_l2_0.1", "layers_0-1_l2_10.0", "layers_1-2_l2_0.1", "layers_1-2_l2_10.0",
    ]  # fmt: skip
    assert others[3].settings == {"layers": [1, 2], "l2": 10.0, "basis": "none"}
    assert (made.targets, made.suite, made.limit, made.save_edits) == ("1-2", "statement,qa", 12, False)


def test_a_method_brings_its_own_setting() -> None:
    _, *made = tuning([(6, 7, 8)], [0.02, 0.04], {"ridge": 0.1}, "cdr").experiment().methods
    assert [method.label for method in made] == ["layers_6-8_budget_0.02", "layers_6-8_budget_0.04"]
    assert (made[1].method, made[1].settings) == ("cdr", {"layers": [6, 7, 8], "budget": 0.04, "ridge": 0.1})


def test_the_usual_values_fit_their_method_and_go_from_weak_to_strong() -> None:
    tuned = {name: entry.tuned for name, entry in METHODS.items() if entry.tuned}
    assert list(tuned) == ["cdr", "rocr"]
    for method, setting in tuned.items():
        for value in setting.values:
            method_config(ModelSettings(name="m", source="m"), method, {"layers": [1, 2, 3], setting.name: value})
        assert sorted(setting.values, key=setting.weakest_first) == list(setting.values)


def test_a_method_without_layers_cannot_be_tuned() -> None:
    with pytest.raises(UserError, match=r"ga has no layers to tune \[--method\]: choose from cdr, rocr"):
        tuned_setting("ga")


def test_labels_tell_values_apart() -> None:
    assert label((4, 5, 6), "l2", 1000000.0) != label((4, 5, 6), "l2", 1000000.5)
    tuning([(0,)], [1e-7, 1e30], {}).experiment()  # their labels are names of folders


@pytest.mark.parametrize(
    ("values", "settings", "message"),
    [
        ([], {}, r"no l2 is given \[--values\]"),
        ([1.0, 1.0], {}, r"the l2 1 is given twice \[--values\]"),
        ([1.0], {"l2": 2}, r"l2 is what is swept \[--set\]: choose it with --values"),
        ([1.0], {"layers": [1]}, r"layers is what is swept \[--set\]: choose it with --window and --first-layers"),
    ],
)
def test_what_cannot_be_swept(values: list[float], settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tuning([(0, 1)], values, settings).experiment()
