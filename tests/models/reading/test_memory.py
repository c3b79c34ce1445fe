from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

import formless
from formless.models.lm import LM
from formless.models.reading import memory

Tiny = Callable[..., LM]


def mapped_files() -> str:
    return Path("/proc/self/maps").read_text()


@pytest.mark.parametrize(("free", "expected"), [(2**40, "memory"), (0, "mapped")])
def test_weights_are_read_into_memory_where_they_fit(
    folder: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, free: int, expected: str
) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: free)
    lm = formless.load(str(folder), device="cpu", progress=False)
    assert lm.weights_in == expected
    assert ("device=cpu, mapped," in repr(lm)) is (expected == "mapped")
    if Path("/proc/self/maps").exists():
        assert (str(folder) in mapped_files()) is (expected == "mapped")
    for name, parameter in tiny().model.named_parameters():
        assert torch.equal(parameter, lm.model.get_parameter(name))
    record = formless.evaluate(lm, formless.find_target("sample", "Marie Curie"), "statement", limit=1, progress=False)
    assert record.weights_in == expected


def test_a_quarter_of_the_free_memory_is_spared(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = sum(parameter.nbytes for parameter in formless.load(str(folder), device="cpu", progress=False).model.parameters())
    for free, expected in ((size * 4 // 3 + 1, "memory"), (size * 4 // 3 - 1, "mapped")):
        monkeypatch.setattr(memory, "free_memory", lambda free=free: free)
        assert formless.load(str(folder), device="cpu", progress=False).weights_in == expected


def test_weights_that_are_cast_lie_in_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: 0)
    assert formless.load(str(folder), device="cpu", dtype="bfloat16", progress=False).weights_in == "memory"


def test_absent_weights_lie_in_neither(folder: Path) -> None:
    assert formless.load(str(folder), device="cpu", layers=1, progress=False).weights_in is None


def test_an_edit_of_mapped_weights_leaves_the_file_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: 0)
    lm = formless.load(str(folder), device="cpu", progress=False)
    before = (folder / "model.safetensors").read_bytes()
    with formless.unlearn(lm, "Ada", "rocr", redirect="Bob", layers=[1], basis="none", progress=False).applied(lm):
        assert (folder / "model.safetensors").read_bytes() == before


def test_free_memory_is_that_of_the_container_where_it_has_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, parent = tmp_path / "group" / "own", tmp_path / "group"
    own.mkdir(parents=True)
    for folder, limit in ((own, "max"), (parent, "1000")):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text("700\n")
        (folder / "memory.stat").write_text("anon 400\nactive_file 200\ninactive_file 50\n")
    (tmp_path / "cgroup").write_text("3:cpu:/\n0::/group/own\n")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "OWN_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=5000))
    assert memory.free_memory() == 1000 - 700 + 250
    (parent / "memory.max").write_text("max\n")
    assert memory.free_memory() == 5000
    monkeypatch.setattr(memory, "OWN_CGROUP", tmp_path / "missing")
    assert memory.free_memory() == 5000
