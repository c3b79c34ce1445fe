"""The noise floor of the form gap, by brute force and by simulation."""

import itertools

import numpy as np
import pytest

from formless.report.noise import Scored, gap_p, item_gap, permuted_gaps, permuted_item_gaps


def items(*values: tuple[float, float], answers: str = "") -> list[Scored]:
    return [Scored(answers[i] if answers else None, *pair) for i, pair in enumerate(values)]


def gap(forms: list[list[Scored]]) -> float:
    ratios = [sum(item.after for item in own) / sum(item.before for item in own) for own in forms]
    return max(ratios) - min(ratios)


def test_items_without_a_shared_fact_change_places_freely() -> None:
    fb, qa = items((0.4, 0.1), (0.8, 0.1)), items((0.5, 0.4), (0.2, 0.2), (0.6, 0.3))
    gaps = [gap([list(way[:2]), list(way[2:])]) for way in itertools.permutations([*fb, *qa])]
    found = permuted_gaps({"fb": fb, "qa": qa}, "1_Ada")
    assert set(np.round(found, 9)) == set(np.round(gaps, 9))
    assert np.mean(found) == pytest.approx(np.mean(gaps), abs=0.02)
    assert found == permuted_gaps({"fb": fb, "qa": qa}, "1_Ada")
    assert found != permuted_gaps({"fb": fb, "qa": qa}, "2_Bob")


def test_items_that_share_a_fact_change_places_with_each_other() -> None:
    fb, qa = items((0.4, 0.1), (0.8, 0.1), answers="xy"), items((0.2, 0.2), (0.5, 0.4), answers="yx")
    swaps = []
    for x, y in itertools.product([False, True], repeat=2):
        one, other = [list(own) for own in ([fb[0], fb[1]], [qa[1], qa[0]])]
        for place, swapped in enumerate((x, y)):
            if swapped:
                one[place], other[place] = other[place], one[place]
        swaps.append(gap([one, other]))
    found = permuted_gaps({"fb": fb, "qa": qa}, "1_Ada")
    assert set(np.round(found, 9)) == set(np.round(swaps, 9))
    assert np.mean(found) == pytest.approx(np.mean(swaps), abs=0.02)


def test_the_gap_by_items_weighs_every_item_alike() -> None:
    fb, qa = items((0.8, 0.4), (0.001, 0.0001), answers="xy"), items((0.4, 0.1), (0.01, 0.01), answers="xy")
    assert item_gap({"fb": fb, "qa": qa}) == pytest.approx(abs((0.5 * 0.1) ** 0.5 - (0.25 * 1) ** 0.5))
    assert item_gap({"fb": items((0.5, 0.0)), "qa": items((0.5, 0.5))}) == pytest.approx(1.0)
    first, second = (0.5, 0.25), (0.1, 1.0)  # the ratios of each fact, which change places or not
    ways = [(a[0] * b[0], a[1] * b[1]) for a in (first, first[::-1]) for b in (second, second[::-1])]
    gaps = [abs(one**0.5 - other**0.5) for one, other in ways]
    found = permuted_item_gaps({"fb": fb, "qa": qa}, "1_Ada")
    assert set(np.round(found, 9)) == set(np.round(gaps, 9))
    assert np.mean(found) == pytest.approx(np.mean(gaps), abs=0.02)


def test_a_form_without_knowledge_is_left_out_of_a_permutation() -> None:
    found = permuted_gaps({"a": items((0.3, 0.1)), "b": items((-0.1, 0.0))}, "1_Ada")
    assert set(found) == {0.0}


def forms(generator: np.random.Generator, shift: float) -> dict[str, list[Scored]]:
    """Two forms of 12 items; in half of the targets the first forgets more by `shift`, in the other half the second."""
    ratios = generator.uniform(0.1, 0.6, (2, 12))
    ratios[generator.integers(2)] += shift
    return {name: items(*((0.5, 0.5 * r) for r in own)) for name, own in zip(("fb", "qa"), ratios.tolist(), strict=True)}


@pytest.mark.parametrize(("shift", "small"), [(0.0, False), (0.2, True)])
def test_the_scatter_within_targets_is_tested(shift: float, small: bool) -> None:
    """Forms that differ in another direction in each target have equal means over targets, and still differ."""
    generator = np.random.default_rng(1)
    targets = {f"{number}_X": forms(generator, shift) for number in range(12)}
    actual = float(np.mean([gap(list(own.values())) for own in targets.values()]))
    p = gap_p(actual, [[permuted_gaps(own, name)] for name, own in targets.items()])
    assert (p < 0.01) == small
    assert p > 0.05 or small


def test_p_values_of_the_scatter_are_uniform_where_forms_forget_alike() -> None:
    generator = np.random.default_rng(2)
    found = []
    for trial in range(60):
        targets = {f"{trial}_{number}": forms(generator, 0.0) for number in range(4)}
        actual = float(np.mean([gap(list(own.values())) for own in targets.values()]))
        found.append(gap_p(actual, [[permuted_gaps(own, name)] for name, own in targets.items()]))
    assert 0.35 < np.mean(found) < 0.65
    assert np.mean(np.array(found) < 0.2) < 0.4
