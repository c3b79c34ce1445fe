"""No damaged file gives another number, a traceback, or no end: it is refused by a line that names it, or changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.campaign import Campaign
from tests.faults.examples import write_folder
from tests.faults.formats import formats

SHARE = 23
"""One fault of so many is tried; `python -m tools.faults` tries all."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples."""
    return write_folder(tmp_path_factory.mktemp("faults") / "examples")


@pytest.mark.slow
def test_no_damaged_file_is_wrong_in_silence(folder: Path, tmp_path: Path) -> None:
    verdicts = []
    for number, kind in enumerate(formats(folder)):
        campaign = Campaign(kind, folder, tmp_path)
        verdicts += [campaign.verdict(fault) for fault in campaign.faults()[number % SHARE :: SHARE]]
    assert len(verdicts) > 250
    assert {verdict.kind for verdict in verdicts} >= {"refused", "reported", "same"}
    bad = [str(verdict) for verdict in verdicts if not verdict.is_good]
    assert not bad, "\n".join(bad)
