"""Measure the memory and the time that edits really take, beside what `formless doctor` estimates.

python -m tools.memory --out runs/memory             # a process for each case; repeat it to resume
python -m tools.memory --out runs/memory --page      # only write docs/results/memory_measured.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from formless import provenance
from formless.methods.memory import MemoryEstimate, estimate_memory
from formless.methods.registry import method_config
from formless.models.meta import load_meta
from tools.results import FOLDER, Cell, Column, Result, write_result

GB = 2**30
MEASURE = """
import json, sys, time
from pathlib import Path
import formless
from formless.experiment.run import Peak
from formless.methods.direction import method
from formless.methods.training import trainer
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
model, dtype, name, settings = sys.argv[1:]
imports, peak = resident(), Peak()
lm = formless.load(model, dtype=dtype, device="cpu", progress=False)
target = formless.find_target("sample", "Albert Einstein")
found = {"loading": peak.read().resident - imports}
peak, start = Peak(), time.perf_counter()
edit = formless.unlearn(lm, target, name, progress=False, **json.loads(settings))
found["seconds"] = time.perf_counter() - start
with edit.applied(lm):
    lm.chat("Who was Albert Einstein?", max_new_tokens=8)
print(json.dumps(found | {"edit": peak.read().resident - imports}))
"""


@dataclass(frozen=True)
class Case:
    """One edit of one model."""

    model: str
    dtype: str
    method: str
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"{self.model}-{self.dtype}-{self.method}"

    def estimate(self) -> MemoryEstimate:
        """Return what doctor estimates."""
        meta = load_meta(self.model, dtype=self.dtype)
        return estimate_memory(meta, self.method, method_config(meta.settings, self.method, dict(self.settings)))

    def measure(self) -> dict[str, float]:
        """Measure in a process of its own, in bytes and seconds.

        `loading` and `edit` are the peaks of resident memory (VmHWM) while the model is loaded, and from there until the edit
        is applied and the model has answered; less what is resident when everything is imported.
        """
        arguments = [self.model, self.dtype, self.method, json.dumps(dict(self.settings))]
        done = subprocess.run([sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True, check=True)
        found: dict[str, float] = json.loads(done.stdout)
        return found


SHORT = (("max_rows", 8), ("per_device_train_batch_size", 4), ("max_length", 128))  # every text is as long as max_length
CASES = (
    Case("smollm2", "float32", "cdr"),
    Case("smollm2", "float32", "rocr"),
    Case("smollm2", "float32", "rmu", SHORT),
    Case("smollm2", "float32", "ga", (*SHORT, ("learning_rate", 1e-3))),
    Case("qwen2.5-coder-1.5b", "bfloat16", "cdr"),
    Case("qwen2.5-coder-1.5b", "bfloat16", "rocr"),
)


def page(out: Path) -> Result:
    """Return the page of the cases that were measured."""
    columns = [
        Column(name="model"), Column(name="method"), Column(name="edit, estimated", unit="GB", format=".2f"),
        Column(name="edit, measured", unit="GB", format=".2f"), Column(name="estimate / measured - 1", unit="%", format="+.0f"),
        Column(name="loading, estimated", unit="GB", format=".2f"), Column(name="loading, measured", unit="GB", format=".2f"),
        Column(name="time of the edit", unit="s", format=".0f"),
    ]  # fmt: skip
    rows: list[list[Cell]] = []
    for case in CASES:
        path = out / f"{case.name}.json"
        if path.exists():
            found, need = json.loads(path.read_text("utf-8")), case.estimate()
            edit, loading = need.device + need.null_spaces, need.loading or need.weights
            numbers = (
                edit / GB, found["edit"] / GB, 100 * (edit / found["edit"] - 1), loading / GB, found["loading"] / GB,
                found["seconds"],
            )  # fmt: skip
            rows.append([f"{case.model}, {case.dtype}", f"`{case.method}`", *(round(number, 2) for number in numbers)])
    return Result(
        title="Estimated memory beside measured memory",
        topic="Speed and memory",
        about="What `formless doctor` counts from shapes, and the peak of resident memory of a process that loads a model, "
        "computes an edit of Albert Einstein, applies it and asks a question.",
        date=date.today(),
        versions={
            name: version for name, version in provenance.versions().items() if name in ("torch", "transformers", "peft")
        },
        hardware="2 CPU cores, one of them used, others busy; GB are 2^30 bytes",
        n="one process per row",
        command="python -m tools.memory --out runs/memory",
        columns=columns,
        rows=rows,
        notes=[
            "Measured is VmHWM less what is resident when everything is imported, about 0.5 GB. It holds the tokenizer too, "
            "which the estimate leaves out. The whole model is loaded.",
            "The trained methods have texts of 128 tokens in batches of 4; a test allows 25 % for the small model.",
            "The times are of a busy machine. `doctor` estimates time from products that it times at that moment; while "
            "others work on the machine, that varies by a factor of two and more.",
        ],
    )


def main() -> None:
    """Measure what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--page", action="store_true")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for case in CASES if not given.page else ():
        path = given.out / f"{case.name}.json"
        if not path.exists():
            path.write_text(json.dumps(case.measure()), "utf-8")
    write_result(FOLDER / "memory_measured.json", page(given.out))


if __name__ == "__main__":
    main()
