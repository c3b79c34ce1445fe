"""A second device that computes on hidden CPU tensors and refuses what CUDA refuses.

A tensor of `fake:0` is a wrapper of PyTorch's PrivateUse1 backend. Its values are real, so that methods and tasks decide as on
any device. Each operation is checked before it runs, and what CUDA waits for is counted with the function that asked.

What it cannot show:

- training in half precision: autocast has kernels for real devices alone, and chooses the dtypes there;
- checkpoints of a training run: PyTorch pickles no wrapper so that it is read again with `weights_only`;
- several devices in one model, since a Python backend is one device;
- memory that runs out, and time.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

import pytest
import torch
from accelerate import PartialState
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

import formless

aten = torch.ops.aten
NAME = "fake"
ROOT = Path(formless.__file__).parent
TORCH = Path(torch.__file__).parent

COPIES = {aten.copy_, aten._to_copy}
INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index, aten._unsafe_index_put}
"""CUDA takes index tensors of the CPU here, and nowhere else."""

WAITING = {
    aten._local_scalar_dense, aten.equal, aten.is_nonzero, aten.nonzero, aten.masked_select, aten._unique2, aten._unique,
    aten.unique_dim, aten.unique_consecutive, aten.bincount, aten.linalg_cholesky_ex, aten._linalg_solve_ex, aten._linalg_eigh,
    aten._linalg_svd, aten.linalg_qr,
}  # fmt: skip
"""Here CUDA waits for the device, since the result or its shape is needed by the program."""

HALF, WIDE = (torch.float16, torch.bfloat16), (torch.float32, torch.float64)
PRODUCTS = {
    aten.mm, aten.addmm, aten.bmm, aten.baddbmm, aten.addbmm, aten.mv, aten.addmv, aten.dot,
}  # fmt: skip
"""Products of matrices, whose dtype decides their speed. Attention is two of them here."""


class WrongDeviceError(RuntimeError):
    """Tensors of two devices in one operation."""


class FakeTensor(Tensor):
    """A tensor of the fake device."""

    hidden: Tensor

    @staticmethod
    def __new__(cls, hidden: Tensor) -> FakeTensor:
        """Wrap a tensor of the CPU."""
        made: Any = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, hidden.size(), strides=hidden.stride(), storage_offset=hidden.storage_offset(), dtype=hidden.dtype,
            device=torch.device(NAME, 0),
        )  # fmt: skip
        made.hidden = hidden
        return made  # type: ignore[no-any-return]

    @classmethod
    def __torch_dispatch__(cls, operation: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(operation, args, kwargs or {})

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        """The values without gradient; setting them exchanges the hidden tensor too."""
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        if not isinstance(value, FakeTensor):
            raise NotImplementedError("a parameter leaves the fake device by .data")
        Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.hidden = value.hidden

    def tolist(self) -> Any:
        """Return the values; PyTorch refuses it to wrappers."""
        return self.cpu().tolist()

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"FakeTensor({self.hidden!r})"


@dataclass
class Trace:
    """What happened on the device since the trace began, by the function that asked.

    Args:
        waits: How often the program waited for the device.
        copies: How often values of the CPU were copied to the device.
        largest_copy: Numbers in the largest of these.
        products: Matrix products, with their operation and dtype.
        promotions: Operations that made float32 or float64 of half precision.
    """

    waits: Counter[str] = field(default_factory=Counter)
    copies: Counter[str] = field(default_factory=Counter)
    largest_copy: dict[str, int] = field(default_factory=dict)
    products: Counter[tuple[str, str, torch.dtype]] = field(default_factory=Counter)
    promotions: Counter[str] = field(default_factory=Counter)

    current: ClassVar[list[Trace]] = []


@contextmanager
def trace() -> Iterator[Trace]:
    """Count what happens inside."""
    found = Trace()
    Trace.current.append(found)
    try:
        yield found
    finally:
        Trace.current.remove(found)


class FakeMode(TorchDispatchMode):
    """Sends every operation here, those without a tensor of the fake device too: they may make one."""

    def __torch_dispatch__(self, operation: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(operation, args, kwargs or {})


def computed(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Check an operation, compute it on the hidden tensors, and return tensors of the device that CUDA's would be on."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    ours = [one for one in tensors if isinstance(one, FakeTensor)]
    named = kwargs.get("device")
    place = named and torch.device(named)
    if ours:
        check(operation, args, kwargs, tensors)
    on_device = place.type == NAME if place else bool(ours)
    if Trace.current:
        record(operation, args, tensors, bool(ours), on_device)
    if on_device and place:
        kwargs = kwargs | {"device": torch.device("cpu")}
    result = operation(*tree_map(hidden, args), **{name: tree_map(hidden, value) for name, value in kwargs.items()})
    known = {id(one.hidden): one for one in ours}  # what was changed in place is returned itself

    def wrapped(value: Any) -> Any:
        if not isinstance(value, Tensor) or isinstance(value, FakeTensor):
            return value
        found = known.get(id(value))
        if found is not None and found.shape != value.shape:
            raise NotImplementedError(f"{operation} changes the shape of a tensor in place")
        return found if found is not None else FakeTensor(value) if on_device and not is_given(value, tensors) else value

    found = tree_map(wrapped, result)
    if Trace.current and _is_promoted(ours, found):
        for own in Trace.current:
            own.promotions[asker()] += 1
    return found


def is_given(value: Tensor, tensors: list[Tensor]) -> bool:
    """Whether a result is an argument itself, as the destination of a copy to the CPU is."""
    return any(value is one for one in tensors)


def hidden(value: Any) -> Any:
    """Return the tensor that a tensor of the device wraps; anything else as it is."""
    return value.hidden if isinstance(value, FakeTensor) else value


def check(operation: Any, args: Any, kwargs: dict[str, Any], tensors: list[Tensor]) -> None:
    """Refuse tensors of the CPU beside those of the device, as CUDA does.

    CUDA takes a CPU tensor without dimensions as a number, index tensors of the CPU, and copies.
    """
    generator = kwargs.get("generator")
    if generator is not None and generator.device.type != NAME:
        raise WrongDeviceError(f"{operation}: expected a generator of {NAME}, found one of {generator.device}")
    if operation.overloadpacket in COPIES:
        return
    if operation.overloadpacket in INDEXED:
        if not isinstance(args[0], FakeTensor):
            raise WrongDeviceError(f"{operation}: indices should be on the CPU or with the indexed tensor (cpu)")
        tensors = [args[0], *(one for one in args[2:] if isinstance(one, Tensor))]
    wrong = [one for one in tensors if not isinstance(one, FakeTensor) and one.dim() > 0]
    if wrong:
        shapes = ", ".join(f"{tuple(one.shape)} on {one.device}" for one in tensors)
        raise WrongDeviceError(f"{operation}: expected all tensors to be on the same device, found {shapes} in {asker()}")


def record(operation: Any, args: Any, tensors: list[Tensor], from_device: bool, to_device: bool) -> None:
    """Count a wait, a copy to the device, or a product."""
    packet = operation.overloadpacket
    if packet is aten.copy_:
        from_device, to_device = (isinstance(one, FakeTensor) for one in (args[1], args[0]))
    if packet in COPIES and from_device != to_device:
        kind = "waits" if from_device else "copies"
    elif from_device and (packet in WAITING or (packet in INDEXED and _has_mask(args[1]))):
        kind = "waits"
    elif from_device and packet in PRODUCTS:
        site = asker()
        for own in Trace.current:
            own.products[site, packet.__name__, tensors[-1].dtype] += 1
        return
    else:
        return
    site = asker()
    for own in Trace.current:
        getattr(own, kind)[site] += 1
        if kind == "copies":
            own.largest_copy[site] = max(own.largest_copy.get(site, 0), tensors[-1].numel())


def _is_promoted(inputs: list[FakeTensor], result: Any) -> bool:
    made = [one for one in tree_leaves(result) if isinstance(one, FakeTensor) and one.dim() > 0]
    return any(one.dtype in HALF and one.dim() > 0 for one in inputs) and any(one.dtype in WIDE for one in made)


def _has_mask(indices: Any) -> bool:
    return any(isinstance(one, FakeTensor) and one.dtype in (torch.bool, torch.uint8) for one in indices)


def asker() -> str:
    """Return the function of Formless that the program is in, and the library's file that it called, if any.

    The thread that computes gradients has no such function: there it is `autograd`.
    """
    frame: FrameType | None = sys._getframe(1)
    library = ""
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if file.is_relative_to(ROOT):
            code: Any = frame.f_code
            name = re.sub(r"\.<\w+>", "", getattr(code, "co_qualname", code.co_name))  # the first is new in Python 3.11
            place = f"{file.relative_to(ROOT)}:{name}"
            return f"{place} > {library}" if library else place
        if not library and "site-packages" in file.parts and not file.is_relative_to(TORCH):
            library = "/".join(file.parts[file.parts.index("site-packages") + 1 :])
        frame = frame.f_back
    return library or "autograd"


class _Module:
    """What `torch.fake` holds. The device is there only while a test uses it: libraries ask the backend."""

    is_used = False

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return _Module.is_used

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return int(_Module.is_used)

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, _seed: int) -> None:
        """Random numbers come from the CPU's generator."""

    def get_rng_state(self, _device: object = 0) -> Tensor:
        return torch.empty(0, dtype=torch.uint8)

    def set_rng_state(self, _state: Tensor, _device: object = 0) -> None:
        """There is no state."""


class _Hook(torch._C._acc.PrivateUse1Hooks):
    def is_available(self) -> bool:
        return _Module.is_used

    def has_primary_context(self, _device: int) -> bool:
        return _Module.is_used

    def is_built(self) -> bool:
        return True


_setup_privateuseone_for_python_backend(NAME, backend_module=_Module(), hook=_Hook())


@contextmanager
def fake_device() -> Iterator[torch.device]:
    """Make the device available, to PyTorch and to accelerate."""
    _Module.is_used = True
    in_high_precision = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)  # CUDA's kernels take half precision as it is
    # Then `Module.to` exchanges a parameter in place, as it does for CUDA, and tied weights stay tied.
    swaps = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    only_lift = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) makes a tensor of the CPU and copies it
    try:
        with FakeMode(), pytest.MonkeyPatch.context() as patch:
            patch.setenv("ACCELERATE_TORCH_DEVICE", f"{NAME}:0")
            yield torch.device(NAME, 0)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swaps)
        torch._C._set_only_lift_cpu_tensors(only_lift)
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(in_high_precision)
        PartialState._reset_state()
        _Module.is_used = False
