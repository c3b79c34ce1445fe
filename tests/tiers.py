"""The two tiers: what starts processes or servers, or loads the real model, is slow, and is found to be so by itself."""

from __future__ import annotations

import inspect
import multiprocessing.process
import socketserver
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parent
MODULES = (
    "subprocess",
    "multiprocessing",
    "http.server",
    "socketserver",
    "ray",
    "playwright",
    "formless.models.sources.bundled",
)
REAL_MODELS = ("smollm2", "qwen2.5-coder-1.5b")


def is_slow(item: pytest.Function) -> bool:
    """Whether a test, one of its fixtures, or a helper that they call names one of `MODULES` or loads a real model."""
    fixtures = item._fixtureinfo.name2fixturedefs
    functions = [item.function, *(definition.func for found in fixtures.values() for definition in found)]
    return any(map(_is_slow_function, functions))


@cache
def _is_slow_function(function: Any) -> bool:
    return reaches(function, set())


def reaches(value: Any, seen: set[object]) -> bool:
    """Whether a function or class of tests/, or what it calls there, names something slow; `seen` has been looked at."""
    if isinstance(value, ModuleType):
        return _is_listed(value.__name__)
    module = getattr(value, "__module__", None)
    if not isinstance(module, str) or not isinstance(value, FunctionType | type):
        return False
    if _is_listed(module):
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    if value in seen or file is None or ROOT not in Path(file).parents:
        return False
    seen.add(value)
    if isinstance(value, type):
        return any(reaches(part, seen) for part in (*value.__bases__, *vars(value).values()))
    value = inspect.unwrap(value)
    names, constants = _contents(value.__code__)
    if "load" in names and not constants.isdisjoint(REAL_MODELS):
        return True
    return any(_is_listed(name) or reaches(value.__globals__.get(name), seen) for name in names)


def _is_listed(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in MODULES)


def _contents(code: CodeType) -> tuple[set[str], set[str]]:
    """The names and the strings of a function, those of the functions within it too."""
    names, constants = set(code.co_names), {constant for constant in code.co_consts if isinstance(constant, str)}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            inner = _contents(constant)
            names, constants = names | inner[0], constants | inner[1]
    return names, constants


def stay_fast(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Let a test fail that starts Python or a server, or asks for the real model, without being marked slow."""
    start = subprocess.Popen.__init__

    def popen(self: Any, args: Any, *rest: Any, **options: Any) -> None:
        program = args if isinstance(args, str | Path) else next(iter(args))
        if Path(str(program).split(maxsplit=1)[0]).name.startswith(("python", "formless")):
            refuse()
        start(self, args, *rest, **options)

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("a test that starts Python or a server, or loads the real model, needs @pytest.mark.slow")

    monkeypatch.setattr(subprocess.Popen, "__init__", popen)
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", refuse)
    monkeypatch.setattr(socketserver.TCPServer, "server_bind", refuse)
    monkeypatch.setenv("FORMLESS_CACHE", str(cache))  # nothing is there: the real model would be fetched, by pip
