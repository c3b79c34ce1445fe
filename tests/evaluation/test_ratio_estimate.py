"""The geometric mean of ratios over targets, with a hierarchical bootstrap: by hand, and against what it must cover."""

import numpy as np
import pytest

from formless.evaluation.statistics import Pairs, complement, ratio_estimate


def target(*pairs: tuple[float, float]) -> list[Pairs]:
    return [list(pairs)]


def test_the_value_is_the_geometric_mean_of_ratios_of_means() -> None:
    found = ratio_estimate([target((0.8, 0.4), (0.2, 0.1)), target((0.5, 1.0), (0.5, 1.0))])
    assert found.value == pytest.approx(1.0)  # half and twice
    assert found.values == pytest.approx((0.5, 2.0))
    assert (found.ci, found.n) == (None, 2)
    assert complement(found).values == pytest.approx((0.5, -1.0))
    assert ratio_estimate([target((0.5, 0.0))]).value == pytest.approx(0.01)  # never less
    with pytest.raises(ValueError, match="no target"):
        ratio_estimate([])


def test_seeds_of_a_target_are_averaged_by_their_logarithms() -> None:
    seeds: list[Pairs] = [[(0.4, 0.1), (0.4, 0.1)], [(0.4, 0.4), (0.4, 0.4)]]
    assert ratio_estimate([seeds]).value == pytest.approx(0.5)


def test_seeds_may_have_other_items() -> None:
    """An edit is not asked about neighbors that it was trained on, which differ from seed to seed."""
    seeds: list[Pairs] = [[(0.4, 0.1), (0.4, 0.1)], [(0.4, 0.4)]]
    found = ratio_estimate([seeds] * 5)
    assert found.value == pytest.approx(0.5)
    assert found.ci == pytest.approx((0.5, 0.5))


def test_the_interval_widens_with_few_items_where_targets_are_alike() -> None:
    generator = np.random.default_rng(1)

    def targets(items: int) -> list[list[Pairs]]:
        """Ten targets of one ratio whose items scatter much."""
        return [[[(0.5, float(share)) for share in generator.uniform(0, 0.5, items)]] for _ in range(10)]

    few, many = (ratio_estimate(targets(items)) for items in (4, 400))
    assert few.ci is not None
    assert many.ci is not None
    assert many.ci[1] - many.ci[0] < 0.1 < few.ci[1] - few.ci[0]
    same = targets(4)
    assert ratio_estimate(same) == ratio_estimate(same)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator, covered = np.random.default_rng(2), 0
    for _ in range(60):
        logs = generator.normal(-1.0, 0.3, 12)
        data = [[[(1.0, float(np.exp(log + generator.normal(0, 0.3) - 0.045))) for _ in range(10)]] for log in logs]
        found = ratio_estimate(data)
        assert found.ci is not None
        covered += found.ci[0] <= np.exp(-1.0) <= found.ci[1]
    assert 50 <= covered <= 60


def test_the_ends_of_a_complement_change_places() -> None:
    found = ratio_estimate([target((0.5, 0.1 * place)) for place in range(1, 7)])
    other = complement(found)
    assert found.ci is not None
    assert other.ci == pytest.approx((1 - found.ci[1], 1 - found.ci[0]))
    assert other.value == pytest.approx(1 - found.value)
