"""The sweep of `formless tune`: windows, strengths, and what is refused."""

from __future__ import annotations

import pytest

from formless.errors import UserError
from formless.experiment.config import ModelChoice
from formless.experiment.tune import Tuning, label, windows


def tuning(layers: list[tuple[int, ...]], l2: list[float], settings: dict[str, object], targets: str = "1-2") -> Tuning:
    return Tuning(ModelChoice(name="smollm2"), layers, l2, settings, "sample", targets, "statement,qa", 12)


def test_windows_of_the_first_half() -> None:
    assert windows(8, 3) == [(0, 1, 2), (1, 2, 3)]
    assert windows(9, 3) == [(0, 1, 2), (1, 2, 3)]  # four layers are in the first half of nine
    assert len(windows(30, 3)) == 13
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


def test_labels_tell_strengths_apart() -> None:
    assert label((4, 5, 6), 1000000.0) != label((4, 5, 6), 1000000.5)
    tuning([(0,)], [1e-7, 1e30], {}).experiment()  # their labels are names of folders


@pytest.mark.parametrize(
    ("l2", "settings", "message"),
    [
        ([], {}, r"no strength is given \[--l2\]"),
        ([-1.0], {}, r"the strength -1 is not 0 or more \[--l2\]"),
        ([float("nan")], {}, r"the strength nan is not 0 or more"),
        ([1.0, 1.0], {}, r"the strength 1 is given twice"),
        ([1.0], {"l2": 2}, r"l2 is what is swept \[--set\]: choose it with --l2"),
        ([1.0], {"layers": [1]}, r"layers is what is swept \[--set\]: choose it with --window and --first-layers"),
    ],
)
def test_what_cannot_be_swept(l2: list[float], settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tuning([(0, 1)], l2, settings).experiment()
