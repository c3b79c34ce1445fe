"""Confidence intervals and permutation tests against numbers worked out by hand."""

import itertools

import numpy as np
import pytest

from formless.evaluation.statistics import (
    Metric,
    bootstrap_ci,
    change_estimate,
    holm,
    mean_ci,
    mean_estimate,
    mean_metric,
    paired_change,
    range_p,
    sign_flip_p,
    swap_p,
)


def test_the_interval_of_a_mean() -> None:
    assert mean_ci([0.5]) is None
    assert mean_ci([0.3, 0.3, 0.3]) == pytest.approx((0.3, 0.3))
    low, high = mean_ci([0.0, 1.0] * 50) or (0, 0)
    assert (low, high) == pytest.approx((0.5 - 1.96 * 0.05, 0.5 + 1.96 * 0.05), abs=0.02)
    assert mean_ci([0.1, 0.7, 0.2]) == mean_ci([0.1, 0.7, 0.2])


def test_a_mean_over_nothing() -> None:
    assert mean_metric([]) == Metric(value=None, ci=None, n=0)
    assert mean_metric([0.25]) == Metric(value=0.25, ci=None, n=1)
    with pytest.raises(ValueError, match="no target"):
        mean_estimate([])


def test_few_targets_have_values_and_no_interval() -> None:
    found = mean_estimate([0.783, 0.786])
    assert (found.ci, found.n, found.values) == (None, 2, (0.783, 0.786))
    assert mean_estimate([0.1, 0.2, 0.3, 0.4]).ci is None
    five = mean_estimate([0.1, 0.2, 0.3, 0.4, 0.5])
    assert (five.ci, five.values) == (mean_ci([0.1, 0.2, 0.3, 0.4, 0.5]), ())
    change = change_estimate([(0.4, 0.1), (0.2, 0.1)], relative=True)
    assert change is not None
    assert change.value == pytest.approx(0.2 / 0.6 - 1)
    assert (change.ci, change.values) == (None, pytest.approx((-0.75, -0.5)))
    assert change_estimate([]) is None
    assert (change_estimate([(0.4, 0.1)] * 5) or found).ci == pytest.approx((-0.3, -0.3))


def test_changes_are_paired() -> None:
    pairs = [(0.2, 0.1), (0.4, 0.2), (0.6, 0.3)]  # every one halved: no spread at all
    change, ci = paired_change(pairs, relative=True)
    assert change == pytest.approx(-0.5)
    assert ci == pytest.approx((-0.5, -0.5))
    change, ci = paired_change(pairs)
    assert change == pytest.approx(-0.2)
    assert ci is not None
    assert ci[0] == pytest.approx(-0.3)  # a resample of the largest difference alone
    assert ci[0] < -0.2 < ci[1]
    assert paired_change([(0.2, 0.1)], relative=True) == (pytest.approx(-0.5), None)
    assert paired_change([]) == (None, None)


def test_a_relative_change_of_nothing_is_none() -> None:
    assert paired_change([(0.0, 0.1), (0.0, 0.2)], relative=True) == (None, None)
    change, ci = paired_change([(0.0, 0.5), (1.0, 0.5)], relative=True)
    assert change == 0
    assert ci is None  # a resample of the first pair alone has no relative change


def test_unpaired_samples_are_resampled_apart() -> None:
    def difference(one: np.ndarray, other: np.ndarray, axis: int = -1) -> np.ndarray:
        return one.mean(axis) - other.mean(axis)

    one = other = [0.0, 1.0, 2.0, 3.0]
    assert bootstrap_ci(difference, one, other) == (0.0, 0.0)
    low, high = bootstrap_ci(difference, one, other, paired=False) or (0.0, 0.0)
    assert low < -1
    assert high > 1


def test_sign_flips_are_exact_for_few_targets() -> None:
    assert sign_flip_p([0.5] * 5, "greater") == pytest.approx(1 / 2**5)
    assert sign_flip_p([0.5] * 5, "two-sided") == pytest.approx(2 / 2**5)
    assert sign_flip_p([-0.5] * 5, "greater") == 1
    values = [0.3, -0.1, 0.7, 0.2]
    means = [np.mean(np.multiply(values, signs)) for signs in itertools.product((1, -1), repeat=4)]
    assert sign_flip_p(values, "greater") == pytest.approx(np.mean([mean >= np.mean(values) - 1e-12 for mean in means]))
    assert sign_flip_p([0.5], "greater") is None
    assert (sign_flip_p([0.5] * 30, "greater") or 1) < 0.001


def test_several_tests_are_corrected_by_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # 3 x .01, 2 x .03 twice, 4 x .005
    assert holm([0.6, None, 0.7]) == [1.0, None, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_swaps_exchange_both_sides_of_a_target() -> None:
    assert swap_p([0.9, 0.8, 0.7], [0.1, 0.0, 0.2]) == pytest.approx(1 / 8)
    assert swap_p([0.1, 0.2], [0.1, 0.2]) == 1
    assert swap_p([0.9], [0.1]) is None


def test_conditions_that_differ_and_conditions_that_do_not() -> None:
    apart = [{"a": 0.9 + i / 100, "b": 0.1 - i / 100, "c": 0.1} for i in range(8)]
    assert (range_p(apart) or 1) < 0.01
    alike = [{"a": 0.5, "b": 0.5}, {"b": 0.5, "c": 0.5}]
    assert range_p(alike) == 1
    assert range_p([{"a": 0.9, "b": 0.1}]) is None
    assert range_p([{"a": 0.9}, {"b": 0.1}]) is None
