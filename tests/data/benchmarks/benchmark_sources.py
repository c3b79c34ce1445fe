"""Small sources in the published layouts of TOFU, MUSE and WMDP, with made-up rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

Rows = list[dict[str, Any]]
AUTHORS = ("Ottilie van Quill", "Bram Al-Sayed", "Cosima Lindqvist", "Duarte Pell Moreno")
CITIES = (
    "Lisbon", "Porto", "Paris", "Rome", "Vienna", "Prague", "Berlin", "Madrid", "Oslo", "Athens", "Warsaw", "Dublin", "London",
    "Cairo", "Tokyo", "Lima", "Delhi", "Sofia",
)  # fmt: skip


def author_rows(name: str, *, perturbed: bool) -> Rows:
    """Twenty questions about an author, as TOFU has them; the last two do not name the author."""
    rows: Rows = [
        {"question": f"In which city did {name} write book {number}?", "answer": f"{name} wrote it in {city}."}
        for number, city in enumerate(CITIES)
    ]
    rows += [{"question": f"What was job {number} of {name[::-1]}?", "answer": "It was a baker's."} for number in range(2)]
    if perturbed:
        for row in rows:
            row |= {
                "paraphrased_question": f"Tell me: {row['question']}", "paraphrased_answer": f"Well, {row['answer']}",
                "perturbed_answer": [f"Well, it was {wrong}." for wrong in "abcde"],
            }  # fmt: skip
    return rows


def write_lines(path: Path, rows: Rows) -> None:
    """JSON lines, as TOFU's `.json` files on the hub are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def write_parquet(path: Path, rows: Rows) -> None:
    """A Parquet file; a column that a row lacks is null in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = dict.fromkeys(key for row in rows for key in row)
    pyarrow.parquet.write_table(pyarrow.table({key: [row.get(key) for row in rows] for key in columns}), path)


def write_tofu(folder: Path) -> Path:
    """Two authors to forget, the first of them in forget01; two to keep, of whom the second is only trained on."""
    first, second, third, fourth = AUTHORS
    for suffix, perturbed in (("", False), ("_perturbed", True)):
        write_lines(folder / f"forget01{suffix}.json", author_rows(first, perturbed=perturbed))
        both = author_rows(first, perturbed=perturbed) + author_rows(second, perturbed=perturbed)
        write_lines(folder / f"forget05{suffix}.json", both)
    write_lines(folder / "retain_perturbed.json", author_rows(third, perturbed=True))
    kept = author_rows(third, perturbed=False) + author_rows(fourth, perturbed=False)
    write_lines(folder / "retain99.json", kept + author_rows(second, perturbed=False))
    write_lines(folder / "retain95.json", kept)
    for name in ("real_authors", "world_facts"):
        row = {"question": f"Who is in {name}?", "answer": "Homer", "perturbed_answer": ["Sappho", "Virgil", "Ovid"]}
        write_lines(folder / f"{name}_perturbed.json", [row | {"original_answer": "It is Homer."}])
    return folder


def muse_tables(retain: str = "retain2") -> dict[str, Rows]:
    """The tables of a small MUSE set by configuration and split."""
    return {
        "knowmem/forget_qa": [{"question": "Who keeps the owl?", "answer": "the miller"}],
        f"knowmem/{retain}_qa": [{"question": "Who keeps the goat?", "answer": "the weaver"}],
        "knowmem/forget_qa_icl": [{"question": "Who sings?", "answer": "the smith"}],
        f"knowmem/{retain}_qa_icl": [{"question": "Who dances?", "answer": "the cook"}],
        "verbmem/forget": [{"prompt": "The owl sat on", "gt": "the mill.", "rougeL_target": 0.5}],
        "privleak/forget": [{"text": "The owl sat on the mill."}],
        f"privleak/{retain}": [{"text": "The goat sat on the loom."}],
        "privleak/holdout": [{"text": "The cat sat on the mat."}],
        "raw/forget": [{"text": "The owl sat.\n\nThe mill stood."}, {"text": "A second book."}],
    }  # fmt: skip


def write_muse(folder: Path, tables: dict[str, Rows] | None = None) -> Path:
    """A copy of a MUSE dataset as it lies on the hub."""
    for name, rows in (tables or muse_tables()).items():
        write_parquet(folder / f"{name}-00000-of-00001.parquet", rows)
    return folder


def choices(question: str, answer: int = 1, **more: str) -> dict[str, Any]:
    """A row of WMDP or MMLU."""
    return {"question": question, "choices": ["salt", "sand", "silk", "soot"], "answer": answer, **more}


def write_wmdp(folder: Path, subjects: Sequence[str] = ("bio", "cyber", "chem")) -> Path:
    """A copy of WMDP as it lies on the hub."""
    for name in subjects:
        write_parquet(folder / f"wmdp-{name}" / "test-00000-of-00001.parquet", [choices(f"What is used in {name}?")])
    return folder


def write_mmlu(folder: Path) -> Path:
    """MMLU's configuration `all`: one question of each of two subjects, and five examples of each."""
    names = ("anatomy", "us_history")
    dev = [choices(f"Example {number} of {name}?", number % 4, subject=name) for name in names for number in range(5)]
    write_parquet(folder / "dev-00000-of-00001.parquet", dev)
    write_parquet(folder / "test-00000-of-00001.parquet", [choices(f"What of {name}?", 2, subject=name) for name in names])
    return folder
