"""Give a damaged file to the commands that read it, and judge what they do: refuse it, or give the result of the whole file."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from formless.errors import DEFECT, INTERRUPTED
from tests.faults.attempt import Ended
from tests.faults.damages import Fault
from tests.faults.formats import Format

Kind = Literal["refused", "reported", "same", "vague", "wrong", "traceback", "hang"]
GOOD = ("refused", "reported", "same")


@dataclass(frozen=True)
class Verdict:
    """What became of one damaged file.

    Args:
        format: The kind of file.
        fault: What was wrong with it.
        kind: An error with the file's name and exit code 2, the damage reported and mended, or the whole file's result; or, all
            defects: an error that does not name the file and the field, another result, a traceback, no end.
        shown: The line of the error, or the first difference.
    """

    format: str
    fault: Fault
    kind: Kind
    shown: str

    @property
    def is_good(self) -> bool:
        """Whether nothing was wrong in silence, and the line helps."""
        return self.kind in GOOD

    def __str__(self) -> str:
        return f"{self.kind}: {self.format}, {self.fault}: {self.shown}"


class Campaign:
    """The faults of one format.

    Args:
        kind: The format.
        examples: The folder with the whole files, which stays as it is.
        scratch: A folder for damaged copies.
    """

    def __init__(self, kind: Format, examples: Path, scratch: Path) -> None:
        self.format, self.examples, self.scratch = kind, examples, scratch
        self.expected: list[Any] = []
        folder = self._copy()
        for step in kind.steps:
            outcome, result = step(folder)
            assert outcome.code == 0, (kind.name, outcome)
            self.expected.append(result)

    def faults(self) -> list[Fault]:
        """Return every fault of the file."""
        return list(self.format.faults(self.examples / self.format.file))

    def verdict(self, fault: Fault) -> Verdict:
        """Damage a copy of the file and run the commands."""
        folder = self._copy()
        fault.apply(folder / self.format.file)
        reported = ""
        for step, expected in zip(self.format.steps, self.expected, strict=True):
            outcome, result = step(folder)
            kind, shown = self._judge(outcome, result, expected, fault)
            if kind not in GOOD or kind == "refused":
                return Verdict(self.format.name, fault, kind, shown)
            reported = reported or shown
        if reported and outcome.code == 2:
            return Verdict(self.format.name, fault, "refused", reported)
        if not _equal(expected, result):  # what was reported is mended by the last command
            return Verdict(self.format.name, fault, "wrong", _difference(expected, result))
        return Verdict(self.format.name, fault, "reported" if reported else "same", reported)

    def _judge(self, outcome: Ended, result: Any, expected: Any, fault: Fault) -> tuple[Kind, str]:
        lines = outcome.err.splitlines()
        if outcome.hung:
            return "hang", ""
        if outcome.code in (None, DEFECT, INTERRUPTED) or "Traceback" in outcome.err:
            return "traceback", lines[-1] if lines else ""
        names = (Path(self.format.file).name, *self.format.said_as)
        lines += outcome.out.splitlines()
        said = next((line for line in lines if any(name in line for name in names)), "")
        if self.format.reports and said:
            return "reported", said
        if outcome.code == 0:
            return ("same", "") if _equal(expected, result) else ("wrong", _difference(expected, result))
        errors = [line for line in lines if line.startswith("error: ")]
        shown = errors[0] if errors else (lines or [""])[-1]
        helps = outcome.code == 2 and len(errors) == 1 and any(name in shown for name in names)
        if helps and fault.says and self.format.names_field:
            helps = any(word.removesuffix("s") in shown for word in fault.says)
        return ("refused" if helps else "vague"), shown

    def _copy(self) -> Path:
        """Return a folder with the file and what the commands need beside it."""
        folder = self.scratch / "case"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in dict.fromkeys((Path(self.format.file).parts[0], *self.format.needs)):
            source = self.examples / name
            if source.is_dir():
                shutil.copytree(source, folder / name, symlinks=True)
            else:
                shutil.copy2(source, folder / name)
        return folder


def _equal(expected: Any, found: Any) -> bool:
    """Return whether two results are the same but for rounding: sums depend on where in memory the numbers lie."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return expected.keys() == found.keys() and all(_equal(expected[key], found[key]) for key in expected)
    if isinstance(expected, list | tuple) and isinstance(found, list | tuple):
        return len(expected) == len(found) and all(map(_equal, expected, found))
    if isinstance(expected, float) and isinstance(found, float):
        return math.isclose(expected, found, rel_tol=1e-5, abs_tol=1e-8)
    return bool(expected == found)


def _difference(expected: Any, found: Any) -> str:
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted({*expected, *found}, key=str):
            if not _equal(expected.get(key), found.get(key)):
                return f"{key}: {str(expected.get(key))[:100]} became {str(found.get(key))[:100]}"
    return f"{str(expected)[:100]} became {str(found)[:100]}"
