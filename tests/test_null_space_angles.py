"""The page about null spaces of sampled texts, in numbers worked out by hand."""

from pathlib import Path

import pytest
import torch

from tests.conftest import RWKU
from tools import null_space_angles
from tools.null_space_angles import HALVES, LAYERS, Moment, cosines, leak, rows, split


def test_a_moment_is_split_at_the_threshold() -> None:
    found = split(torch.diag(torch.tensor([3.0, 0.01, 1.0, 0.001])), 0.02)
    assert found.null.abs().tolist() == [[0, 0], [0, 1], [0, 0], [1, 0]]  # ascending eigenvalues
    assert found.kept.shape == (4, 2)


def test_principal_angles() -> None:
    plane, turned = torch.eye(3)[:, :2], torch.tensor([[1.0, 0.0], [0.0, 0.5**0.5], [0.0, 0.5**0.5]])
    assert cosines(plane, turned).tolist() == pytest.approx([1, 0.5**0.5])


def test_the_leak_is_the_share_of_the_energy_in_the_null_space() -> None:
    assert leak(torch.eye(3)[:, 1:], torch.diag(torch.tensor([6.0, 3.0, 1.0]))) == pytest.approx(0.4)


def test_each_null_space_is_compared_with_both_halves() -> None:
    first, second = HALVES
    halves = {
        name: Moment({layer: torch.diag(torch.tensor(values)) for layer in LAYERS}, 7)
        for name, values in {first: [2.0, 0.01, 0.01], second: [0.01, 2.0, 0.01]}.items()
    }
    sampled = dict.fromkeys(LAYERS, split(torch.diag(torch.tensor([1.0, 1.0, 0.0])), 0.5))
    found = rows(halves, sampled, 9)
    assert found[:3] == [
        [4, first, 7, 2, None, 0.0, 33.3, None, 0.99, 99.5],
        [4, second, 7, 2, 0.0, None, 33.3, 90, 99.5, 0.99],
        [4, "sampled", 9, 1, 100.0, 100.0, 66.7, 0, 0.5, 0.5],
    ]
    assert null_space_angles.mean_leaks(found).startswith(
        "Mean leak over layers and halves: 1 % into a half's own null space, 100 % into that of the other half, 0 % into"
    )
    assert [row[0] for row in found] == [4, 4, 4, 5, 5, 5, 6, 6, 6]


def test_the_halves_are_of_different_targets() -> None:
    first, second = map(set, HALVES.values())
    assert not first & second
    if RWKU.is_dir():
        there = {int(path.name.partition("_")[0]) for path in Path(RWKU).iterdir()}
        assert first | second <= there
