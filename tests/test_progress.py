"""Bars where somebody looks, nothing elsewhere, and a caller's callback in place of either."""

from __future__ import annotations

import io
import subprocess
import sys
from types import SimpleNamespace

import pytest

from formless.progress import is_notebook, progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def a_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Called by the test itself: pytest sets standard error anew after the fixtures."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_a_bar_in_a_terminal_names_label_step_and_work(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = a_terminal(monkeypatch)
    with progress_bar(True, "Paris") as report:
        report("blanks", 0, 40)
        report("blanks", 40, 40)
        report("next model", 10, 20)
    shown = terminal.getvalue()
    assert "Paris: blanks" in shown
    assert "0/40" in shown
    assert "Paris: next model:  50%" in shown
    assert "10/20" in shown


def test_work_of_unknown_size_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = a_terminal(monkeypatch)
    with progress_bar(True) as report:
        report("texts", 7, 0)
    assert "texts: 7" in terminal.getvalue()


def test_false_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = a_terminal(monkeypatch)
    with progress_bar(False, "Paris") as report:
        report("blanks", 1, 2)
    assert terminal.getvalue() == ""


def test_true_shows_nothing_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(True, "Paris") as report:
        report("blanks", 1, 2)
    assert capsys.readouterr() == ("", "")


def test_a_callback_replaces_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = a_terminal(monkeypatch)
    seen: list[tuple[str, int, int]] = []
    with progress_bar(lambda *call: seen.append(call), "Paris") as report:
        report("blanks", 1, 2)
    assert seen == [("blanks", 1, 2)]
    assert terminal.getvalue() == ""


def test_a_jupyter_kernel_is_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_notebook()
    kernel = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: kernel))
    assert is_notebook()


def test_the_module_imports_nothing_large() -> None:
    code = "import sys, formless.progress; print({'torch', 'tqdm', 'rich'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_a_disabled_bar_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    a_terminal(monkeypatch)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    with progress_bar(True, "Paris") as report:
        report("blanks", 1, 10)
        report("blanks", 2, 10)


def test_a_step_of_unknown_length_follows_one_of_known_length(monkeypatch: pytest.MonkeyPatch) -> None:
    import tqdm

    a_terminal(monkeypatch)
    resets: list[object] = []
    real = tqdm.tqdm.reset
    monkeypatch.setattr(tqdm.tqdm, "reset", lambda bar, total=None: resets.append(total) or real(bar, total))
    with progress_bar(True, "Paris") as report:
        report("blanks", 10, 10)
        for done in (1, 2, 3):
            report("texts", done, 0)
    assert len(resets) == 2  # one for each step
