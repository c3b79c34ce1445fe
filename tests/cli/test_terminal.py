"""What stands on a terminal."""

import io

import pytest
from rich.console import Console

from formless.cli import terminal


@pytest.mark.parametrize("keep_first", [True, False])
def test_the_line_that_says_what_work_costs_stays_on_a_terminal(monkeypatch: pytest.MonkeyPatch, keep_first: bool) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(terminal, "log", Console(file=shown, force_terminal=True, width=200, markup=False, highlight=False))
    with terminal.progress("rocr", keep_first=keep_first) as report:
        report("costs [much]", 0, 0)
        report("64 texts", 64, 128)
    assert ("rocr: costs [much]\n" in shown.getvalue()) == keep_first
    assert "64 texts\n" not in shown.getvalue()
