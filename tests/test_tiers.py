"""What is slow is found, and what is not marked so may not do it."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

import formless
from tests import tiers


def starts_python() -> None:
    subprocess.run([sys.executable, "-V"], check=True, capture_output=True)


def starts_a_process() -> None:
    multiprocessing.get_context("spawn").Process(target=os.getpid).start()


def starts_a_server() -> None:
    HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler).server_close()


def loads_the_real_model() -> None:
    formless.load("smollm2")


class Helper:
    def call(self) -> None:
        for start in (starts_python, os.getpid):
            start()


def calls_a_helper() -> None:
    Helper().call()


def imports_inside() -> None:
    import playwright.sync_api  # noqa: F401


def is_fast(tiny: Any) -> None:
    assert tiny() is not formless.load("elsewhere")


@pytest.mark.parametrize(
    "function",
    [starts_python, starts_a_process, starts_a_server, loads_the_real_model, calls_a_helper, imports_inside],
)  # fmt: skip
def test_what_is_slow_is_found(function: Any) -> None:
    assert tiers.reaches(function, set())
    assert not tiers.reaches(is_fast, set())


@pytest.mark.parametrize("function", [starts_python, starts_a_process, starts_a_server, loads_the_real_model])
def test_an_unmarked_test_may_not_do_it(function: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tiers.stay_fast(monkeypatch, tmp_path / "cache")
    with pytest.raises(pytest.fail.Exception, match="slow"):
        function()
    subprocess.run(["true"], check=True)
