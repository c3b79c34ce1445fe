"""A saved tiny model, and a process from which commands are forked."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from formless.models.lm import LM
from tests.faults.commands import save_model
from tests.faults.processes import fork_server


@pytest.fixture(scope="module")
def model(tiny: Callable[..., LM], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tiny, tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def server() -> ForkServerContext:
    return fork_server()
