"""The fake device itself: it refuses what CUDA refuses, takes what CUDA takes, and counts what CUDA waits for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.devices.fake import FakeTensor, WrongDeviceError, fake_device, trace


@pytest.fixture(autouse=True)
def device() -> Iterator[torch.device]:
    with fake_device() as found:
        yield found


REFUSED: dict[str, Callable[[Tensor], object]] = {
    "sum": lambda x: x + torch.ones(3),
    "product": lambda x: x @ torch.ones(3, 2),
    "join": lambda x: torch.cat([x, torch.ones(2, 3)]),
    "gather": lambda x: x.gather(1, torch.zeros(2, 1, dtype=torch.long)),
    "select": lambda x: x.index_select(0, torch.tensor([0])),
    "mask": lambda x: x.masked_fill(torch.ones(2, 3, dtype=torch.bool), 0.0),
    "embedding": lambda x: nn.functional.embedding(torch.tensor([1]), x),
    "values": lambda x: x.index_put((torch.tensor([0, 1]),), torch.ones(2, 3)),
    "index of the device": lambda x: torch.ones(2, 3)[x[0, :1].long()],
    "generator": lambda x: x.uniform_(generator=torch.Generator()),
    "in place": lambda x: torch.ones(2, 3).add_(x),
    "gradient": lambda x: nn.Linear(3, 3)(x),
}

TAKEN: dict[str, Callable[[Tensor], Any]] = {
    "number": lambda x: x * torch.tensor(2.0),
    "index": lambda x: x[torch.tensor([0, 1]), torch.tensor([0, 2])],
    "copy": lambda x: x.copy_(torch.ones(2, 3)),
    "assignment": lambda x: x.__setitem__(torch.tensor([0]), 1.0),
}

WAITS: dict[str, tuple[int, Callable[[Tensor], object]]] = {
    "item": (1, lambda x: x[0, 0].item()),
    "float": (1, lambda x: float(x.sum())),
    "if": (1, lambda x: 1 if x.any() else 0),
    "list": (1, lambda x: x.tolist()),
    "cpu": (1, lambda x: x.cpu()),
    "copy": (1, lambda x: torch.empty(2, 3).copy_(x)),
    "equal": (1, lambda x: torch.equal(x, x)),
    "mask": (1, lambda x: x[x > 0]),
    "nonzero": (1, lambda x: x.nonzero()),
    "none": (0, lambda x: (x @ x.T).softmax(-1).argmax(-1)),
    "to the device": (0, lambda x: x.copy_(torch.ones(2, 3))),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(device: torch.device, name: str) -> None:
    with pytest.raises(WrongDeviceError):
        REFUSED[name](torch.ones(2, 3, device=device))


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_taken(device: torch.device, name: str) -> None:
    expected = torch.ones(2, 3)
    found = torch.ones(2, 3, device=device)
    results = [TAKEN[name](one) for one in (found, expected)]
    assert found.tolist() == expected.tolist()
    assert results[0] is None or (results[0].device, results[0].tolist()) == (device, results[1].tolist())


@pytest.mark.parametrize("name", WAITS)
def test_what_is_waited_for(device: torch.device, name: str) -> None:
    waits, work = WAITS[name]
    x = torch.ones(2, 3, device=device)
    with trace() as found:
        work(x)
    assert found.waits.total() == waits


def test_an_array_needs_a_copy_first(device: torch.device) -> None:
    with pytest.raises((TypeError, RuntimeError)):
        np.asarray(torch.ones(2, device=device))


def test_tied_weights_stay_tied(device: torch.device) -> None:
    embedding, head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
    head.weight = embedding.weight
    model = nn.Sequential(embedding, head).to(device)
    assert model[0].weight is model[1].weight
    assert isinstance(model[0].weight, FakeTensor)
    model(torch.tensor([1], device=device)).sum().backward()
    assert model[0].weight.grad.device == device


def test_promotions_are_noted(device: torch.device) -> None:
    x = torch.ones(2, 3, device=device, dtype=torch.bfloat16)
    with trace() as found:
        _ = x @ x.T, x.sum()
        assert not found.promotions
        _ = x + torch.ones(3, device=device)
        _ = x.float().double() @ torch.ones(3, 2, device=device, dtype=torch.float64)
    assert found.promotions.total() == 2
    assert {dtype for _, _, dtype in found.products} == {torch.bfloat16, torch.float64}
