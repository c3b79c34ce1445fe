"""An interrupt at any moment leaves the model as it was: weights bit for bit, hooks, modules, prefixes and settings."""

from __future__ import annotations

import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from peft import get_peft_model
from pydantic_core import PydanticSerializationError

import formless
from formless.data.target import Target
from formless.interrupts import uninterrupted
from formless.methods.training import lora
from formless.models.lm import LM

SOURCE = str(Path(formless.__file__).parent)
FACTS = formless.find_target("sample", "Albert Einstein")
INTERRUPTS = KeyboardInterrupt, PydanticSerializationError  # pydantic wraps one that comes while it calls Python


def state(lm: LM) -> dict[str, Any]:
    """Everything that an edit, a method or an evaluation touches while it works."""
    return {
        "weights": {name: parameter.detach().clone() for name, parameter in lm.model.named_parameters()},
        "modules": [(name, type(module), module.training) for name, module in lm.model.named_modules()],
        "hooks": sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in lm.model.modules()),
        "gradients": [parameter.requires_grad for parameter in lm.model.parameters()],
        "config": lm.model.config.to_dict(),
        "edits": list(lm.edits),
        "prefixes": lm.prefixes,
        "overlay": lm.overlay.is_empty,
    }


def is_same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    weights, after = one["weights"], other["weights"]
    bits = weights.keys() == after.keys() and all(torch.equal(value, after[name]) for name, value in weights.items())
    return bits and all(one[key] == other[key] for key in one if key != "weights")


@contextmanager
def interrupted_after(lines: int) -> Iterator[None]:
    """Send this process an interrupt once that many lines of the package have run."""
    left = lines

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith(SOURCE):
            return None
        if event == "line":
            left -= 1
            if left == 0:
                signal.raise_signal(signal.SIGINT)
        return trace

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(None)


def count_lines(work: Callable[[], object]) -> int:
    """Return how many lines of the package the work runs."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.startswith(SOURCE):
            return None
        count += event == "line"
        return trace

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)
    return count


TRAINING = {
    "max_rows": 3, "max_length": 16, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1, "num_train_epochs": 1,
    "warmup_steps": 0, "learning_rate": 1e-2,
}  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {
    "cdr": {"layers": [1, 2], "budget": 1},
    "rocr": {"layers": [1, 2], "basis": "none"},
    "npo": TRAINING,
    "ga": TRAINING | {"full": True},
}


@pytest.mark.parametrize("method", ["cdr", "npo", "ga"])
@pytest.mark.parametrize("after", [1, 2])
def test_an_interrupt_while_a_method_works(tiny: Callable[..., LM], method: str, after: int) -> None:
    """From its own progress callback."""
    lm = tiny()
    before, calls = state(lm), 0

    def interrupt(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        formless.unlearn(lm, FACTS, method, progress=interrupt, **METHODS[method])
    assert is_same(before, state(lm))


def test_an_interrupt_while_an_edited_model_is_evaluated(tiny: Callable[..., LM]) -> None:
    lm = tiny()
    before = state(lm)
    edit = formless.unlearn(lm, FACTS, progress=False, **METHODS["cdr"])

    def interrupt(*_: object) -> None:
        assert not is_same(before, state(lm))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), edit.applied(lm):
        formless.evaluate(lm, FACTS, "fb", limit=1, progress=interrupt)
    assert is_same(before, state(lm))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["cdr", "rocr", "icu"])
def test_an_interrupt_at_any_line(tiny: Callable[..., LM], method: str) -> None:
    lm = tiny()
    before = state(lm)

    def work() -> None:
        edit = formless.unlearn(lm, FACTS, method, progress=False, **METHODS.get(method, {}))
        with edit.applied(lm):
            lm.score([("Albert Einstein was born in the country of", " Germany")])

    work()  # what is cached is cached
    lines = count_lines(work)
    moments = random.Random(0).sample(range(1, lines), 10)
    for moment in moments:
        with pytest.raises(INTERRUPTS), interrupted_after(moment):
            work()
        assert is_same(before, state(lm)), f"line {moment} of {lines}"


@pytest.mark.parametrize("moment", range(1, 60, 2))
def test_an_interrupt_at_the_border_of_an_applied_edit(tiny: Callable[..., LM], moment: int) -> None:
    """Where the weights are changed and restored."""
    lm = tiny()
    before = state(lm)
    edit = formless.unlearn(lm, FACTS, progress=False, **METHODS["cdr"])
    with suppress(*INTERRUPTS), interrupted_after(moment), edit.applied(lm):
        pass
    assert is_same(before, state(lm))


@contextmanager
def interrupting(number: int) -> Iterator[Callable[..., None]]:
    """Let a signal interrupt, as a command does with SIGTERM."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(number, interrupt)
    try:
        yield interrupt
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_must_happen_as_a_whole_does(number: int) -> None:
    done = []

    def work() -> None:
        with uninterrupted(), uninterrupted():
            signal.raise_signal(number)
            done.append("all of it")

    with interrupting(number) as handler:
        with pytest.raises(KeyboardInterrupt):
            work()
        assert signal.getsignal(number) is handler
    assert done == ["all of it"]


@pytest.mark.parametrize("moment", ["when signals are put off", "when they are no longer"])
def test_a_signal_at_the_border_leaves_the_other_one_working(monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    set_handler, calls = signal.signal, 0

    def interrupted(number: int, handler: Any) -> Any:
        nonlocal calls
        calls += 1
        found = set_handler(number, handler)
        if calls == (1 if moment == "when signals are put off" else 3):  # of SIGINT; SIGTERM's comes next
            raise KeyboardInterrupt
        return found

    def work() -> None:
        with uninterrupted():
            pass

    with interrupting(signal.SIGINT), interrupting(signal.SIGTERM):
        monkeypatch.setattr(signal, "signal", interrupted)
        with pytest.raises(KeyboardInterrupt):
            work()
        for number in (signal.SIGINT, signal.SIGTERM):
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
        monkeypatch.undo()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_an_adapter_is_added(tiny: Callable[..., LM], monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    lm = tiny()
    before = state(lm)

    def added(*arguments: Any) -> Any:
        wrapped = get_peft_model(*arguments)
        signal.raise_signal(number)
        return wrapped

    monkeypatch.setattr(lora, "get_peft_model", added)
    with interrupting(number), pytest.raises(KeyboardInterrupt):
        formless.unlearn(lm, FACTS, "npo", progress=False, **METHODS["npo"])
    assert is_same(before, state(lm))


def test_another_thread_is_never_interrupted() -> None:
    done = []

    def work() -> None:
        with uninterrupted():
            done.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [signal.default_int_handler]


def test_a_target_without_files_can_be_interrupted_too(tiny: Callable[..., LM]) -> None:
    lm = tiny()
    before = state(lm)
    with pytest.raises(KeyboardInterrupt), interrupted_after(400):
        formless.unlearn(lm, Target("Albert Einstein"), progress=False, layers=[1, 2], budget=1)
    assert is_same(before, state(lm))
