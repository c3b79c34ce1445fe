"""Each public name has an example in its docstring, and the example gives what it says."""

from __future__ import annotations

import doctest
import inspect
from pathlib import Path

import pytest

import formless
from formless.models import loading
from formless.models.lm import LM

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.slow
@pytest.mark.usefixtures("shared_edits")
@pytest.mark.parametrize("name", formless.__all__)
def test_each_public_name_has_an_example_that_runs(
    name: str, lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = inspect.getdoc(getattr(formless, name)) or ""
    assert "\nExamples:\n" in text
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loading, "load", lambda *_, **__: lm)  # once for all examples; tests/models load it truly
    example = doctest.DocTestParser().get_doctest(text, {}, name, None, None)
    assert example.examples
    result = doctest.DocTestRunner(optionflags=FLAGS).run(example)
    assert result.failed == 0, capsys.readouterr().out
