"""A playground on a tiny random model, which lies in a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from formless.models.lm import LM
from formless.playground.host import Host
from formless.playground.session import Session
from formless.playground.work import Playground
from tests.conftest import tiny_model


@pytest.fixture(scope="session")
def folder(letters: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model with eight layers."""
    return save(tiny_model(letters, num_hidden_layers=8, context=1024), tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def other_folder(letters: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one."""
    return save(tiny_model(letters, num_hidden_layers=8, context=1024, seed=1), tmp_path_factory.mktemp("models") / "other")


def save(lm: LM, folder: Path) -> Path:
    """Save a model whose weights are so large that a small edit changes what it says."""
    for parameter in lm.model.parameters():
        parameter.data *= 4 if parameter.dim() > 1 else 1
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def playground() -> Playground:
    return Playground(Host(device="cpu", max_new_tokens=24), per_group=1)


@pytest.fixture
def session(folder: Path) -> Iterator[Session]:
    found = Session(model=str(folder), method="rocr")
    yield found
    found.close()


Do = Callable[[Iterator[None]], list[tuple[str, str, str]]]


@pytest.fixture
def do(session: Session) -> Do:
    """Do some work to its end; the original's answer, the unlearned one and the status after each change."""

    def run(work: Iterator[None]) -> list[tuple[str, str, str]]:
        return [(session.original, session.unlearned, session.status) for _ in work]

    return run


@pytest.fixture
def edited(playground: Playground, session: Session, do: Do) -> Session:
    """A session with one edit."""
    do(playground.unlearn(session, "Ada", "Bob", "rocr"))
    assert not session.failed, session.status
    return session
