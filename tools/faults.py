"""Try every fault of every file that Formless reads, and write the table of docs/results.

python -m tools.faults     # ten minutes of two CPU cores; writes docs/results/faults.json, exits with 1 if anything is wrong
python -m tools.faults --every 4     # a part of it
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from formless import provenance
from tests.faults.campaign import GOOD, Campaign, Verdict
from tests.faults.examples import write_folder
from tests.faults.formats import formats
from tools.results import FOLDER, Cell, Column, Result, write_result

WORKERS = 2
SHOWN = ("refused", "reported", "same", "vague", "wrong", "traceback", "hang")


def verdicts(folder: Path, every: int, number: int) -> list[tuple[str, str, str]]:
    """Return format, verdict and a line for the faults of one format, in a folder of this process."""
    with tempfile.TemporaryDirectory() as scratch:
        own = Path(scratch) / "examples"
        shutil.copytree(folder, own, symlinks=True)
        campaign = Campaign(formats(own)[number], own, Path(scratch))
        found: Iterable[Verdict] = map(campaign.verdict, campaign.faults()[number % every :: every])
        return [(verdict.format, verdict.kind, str(verdict)) for verdict in found]


def main() -> None:
    """Run the campaign and write its table."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="try one fault of so many")
    every = parser.parse_args().every
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_folder(Path(scratch) / "examples")
        numbers = range(len(formats(folder)))
        with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
            found = [row for rows in pool.map(partial(verdicts, folder, every), numbers) for row in rows]
    counts: dict[str, Counter[str]] = {}
    for name, kind, _ in found:
        counts.setdefault(name, Counter())[kind] += 1
    total = sum(counts.values(), Counter[str]())
    rows: list[list[Cell]] = [
        [name, counted.total(), *(counted[kind] for kind in SHOWN)] for name, counted in (*counts.items(), ("all", total))
    ]
    part = f", one of {every}" if every > 1 else ""
    bad = [line for _, kind, line in found if kind not in GOOD]
    result = Result(
        title="Damaged files", topic="Robustness", date=date.today(), versions=provenance.versions(),
        about="What the commands do with files in which one thing is wrong: every field removed, retyped, out of range, not "
        "finite, given twice or of a newer version; every tensor removed, reshaped, retyped, zeroed or scaled; every file cut, "
        "emptied, missing, recoded, or replaced by a folder, a named pipe or a link.",
        hardware=provenance.hardware(), n=f"{total.total():,} generated faults of {len(counts)} kinds of files{part}",
        command="python -m tools.faults" + (f" --every {every}" if every > 1 else ""),
        columns=[Column(name=name) for name in ("file", "faults", "refused", "reported and mended", "same result",
                                                "unclear error", "another result", "traceback", "hang")],
        rows=rows,
        notes=[
            "Refused: exit code 2 with one line that names the file, and the field where no hash shows the damage. Reported "
            "and mended: a command names the file, and the next `formless run` does that run again. Same result: every "
            "number equals that of the whole file. The other four columns are defects.",
            "A valid change of a user's own file, such as another number in a model's config.json, is another input and no "
            "fault: it cannot be told. Of records of attacks, and of the files whose hash run.json states, every "
            "tenth fault is tried.",
        ],
    )  # fmt: skip
    write_result(FOLDER / "faults.json", result)
    print("\n".join([*bad, f"{total.total()} faults: {dict(total)}"]))
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
