"""`formless probe`: what it prints, what it writes, and how it exits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

import formless as package
from formless.cli import terminal
from formless.experiment import measure
from formless.experiment.measure import Measurement
from formless.models.lm import LM
from tests.cli.conftest import Formless
from tests.report.test_edit_page import answered

PROBE = ("probe", "--edit", "edits/einstein", "--target", "Albert Einstein")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Sequence[str]:
    """Three facts of which the edited model says one; gives the suites that were asked."""
    suites: list[str] = []

    def measure_edit(_lm: object, _edit: object, _target: object, suite: str, **_keys: object) -> Measurement:
        suites.append(suite)
        return Measurement(*answered("abc", "abc", "b"))

    monkeypatch.setattr(measure, "measure_edit", measure_edit)
    monkeypatch.setattr(terminal, "load_model", lambda *_: None)
    monkeypatch.setattr("formless.edits.loading.load_edit", lambda _: None)
    return suites


@pytest.mark.parametrize(("limit", "code", "ruling"), [(("--max-recall", "50"), 0, "PASSED"), ((), 1, "NOT PASSED")])
def test_the_limit_decides_the_exit_code(
    formless: Formless, measured: Sequence[str], limit: tuple[str, ...], code: int, ruling: str
) -> None:
    found, out, _ = formless(*PROBE, *limit)
    assert found == code
    lines = out.splitlines()
    assert lines[0].startswith(f"{ruling}: worst-case recall 33 % (1 of 3 known facts, 95 % CI ")
    assert lines[1] == "Still comes out, known facts by way of asking: Question, in words, full name 1 of 3."
    assert lines[2].startswith("Not measured, so not passed: Question, in words, lower case, ")
    assert lines[-1] == "page: probe.html"
    assert len(lines) == 5
    assert ruling in Path("probe.html").read_text("utf-8")
    assert measured == ["takedown"]


def test_strict_fails_where_too_few_facts_were_asked(formless: Formless, measured: Sequence[str]) -> None:
    code, out, _ = formless(*PROBE, "--max-recall", "50", "--strict", "--also", "jailbreak", "--out", "strict.html")
    assert code == 1
    assert "NOT PASSED: worst-case recall 33 %" in out
    assert "too few to be sure" in out
    assert measured == ["takedown,jailbreak"]


@pytest.mark.usefixtures("measured")
def test_with_nothing_measured_there_is_no_page(formless: Formless, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "measure_edit", lambda *_, **__: Measurement(*answered("", "abc", "")))
    code, out, errors = formless(*PROBE)
    assert (code, out) == (2, "")
    assert "error: nothing about Ada could be measured, so nothing is passed" in errors
    assert not Path("probe.html").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("shared_edits")
def test_an_edit_of_the_small_model(lm: LM, formless: Formless, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FORMLESS_CACHE")  # the built-in model is there
    package.unlearn(lm, package.find_target("sample", "Albert Einstein")).save("edits/einstein")
    code, out, _ = formless(*PROBE, "--limit", "2", "--max-recall", "100")
    assert code == 0
    assert out.startswith("PASSED: worst-case recall ")
    page = Path("probe.html").read_text("utf-8")
    assert "A quick look: at most 2 rows of each file were asked." in page
    assert "Reverse question" in page
    assert "Form by mention, about its neighbors (to keep)" in page
