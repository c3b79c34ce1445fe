"""The page of redirects, from made-up measurements, and one measurement of a tiny model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from formless.data.target import Target
from formless.models.lm import LM
from tools import redirects


@pytest.mark.parametrize(
    ("answer", "redirect", "expected"),
    [
        ("I'm sorry, I can't talk about that.", "Zeus", "refusal"),
        ("I don't know who that is.", "Zeus", "does not know"),
        ("Albert Zeus was a Greek god.", "Zeus", "redirect"),
        ("Albert Ruth played baseball.", "Babe Ruth", "redirect"),
        ("He was born in Ulm.", "Babe Ruth", "other"),
        ("Nothing is known.", "a person of whom nothing is known", "other"),
    ],
)
def test_the_kind_of_an_answer(answer: str, redirect: str, expected: str) -> None:
    assert redirects.kind(answer, redirect) == expected


def keep(folder: Path, redirect: str, full: float, neighbors: float, answers: list[str], after: str = "same") -> None:
    changes = [("full name", 0.8, 0.8 * full), ("full name", 0.2, 0.2 * full), ("neighbors", 0.5, 0.5 * neighbors)]
    found = {
        "subject": folder.name, "redirect": redirect, "seconds": 1.0, "answers": answers, "before": ["same"], "after": [after],
        "changes": [{"about": about, "before": before, "after": left} for about, before, left in changes],
    }  # fmt: skip
    (folder / f"redirect_{redirect}.json").write_text(json.dumps(found))


def test_the_page_has_a_row_for_each_redirect_and_one_for_what_auto_chose(tmp_path: Path) -> None:
    for name, chosen in {"Ada": "Zeus", "Bob": "Homer"}.items():
        folder = tmp_path / "small" / name
        folder.mkdir(parents=True)
        (folder / "auto.json").write_text(json.dumps({"subject": name, "redirect": chosen}))
        keep(folder, "Zeus", 0.2, 1.0, ["A Greek god, Zeus.", "I don't know."], "other")
        keep(folder, "Homer", 0.6, 0.9, ["He was a poet.", "I can't help."])
    keep(folder, "Cleopatra", 0.0, 0.0, ["A queen."])  # of one concept alone
    page = redirects.page(tmp_path)
    assert [column.name for column in page.columns[3:5]] == ["full name", "neighbors"]  # no other mention was asked
    assert page.rows == [
        ["small", "auto", 2, -60.0, -5.0, 25.0, 25.0, 25.0, 25.0, 50.0, None],
        ["small", "Homer", 2, -40.0, -10.0, 50.0, 0.0, 0.0, 50.0, 0.0, "Bob"],
        ["small", "Zeus", 2, -80.0, 0.0, 0.0, 50.0, 50.0, 0.0, 100.0, "Ada"],
    ]


def test_a_measurement_resumes(
    tiny: Callable[..., LM], target_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redirects, "REDIRECTS", ("Zeus",))
    monkeypatch.setattr(redirects, "SETTINGS", {"layers": [1, 2], "basis": "none"})
    monkeypatch.setattr(redirects, "SUITE", "fb,qa")
    lm, target = tiny(), Target("Ada Lovelace", target_folder)
    redirects.measure(lm, [target], tmp_path, limit=2)
    folder = tmp_path / lm.name / "Ada_Lovelace"
    auto = json.loads((folder / "auto.json").read_text())
    assert auto["redirect"] == next(iter(auto["scores"]))
    assert len([*folder.glob("redirect_*.json")]) == len({auto["redirect"], "Zeus"})
    found: dict[str, Any] = json.loads((folder / "redirect_Zeus.json").read_text())
    assert [len(found[name]) for name in ("answers", "before", "after")] == [5, 5, 5]
    (folder / "redirect_Zeus.json").write_text("kept")
    redirects.measure(lm, [target], tmp_path, limit=2)
    assert (folder / "redirect_Zeus.json").read_text() == "kept"
