"""Render the measured numbers of `docs/results/*.json`: the pages of the site and the tables of the README.

    python -m tools.results              # check every file, and write the README's tables anew

The site renders the pages when it is built. No page under version control repeats a number by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "results"
README = ROOT / "README.md"
MARKS = "<!-- table: {name}, written by `python -m tools.results` -->\n", "<!-- end of table -->"

TOPICS = ("Forgetting and retention", "Training methods", "Speed and memory", "Data", "Robustness")


class Column(BaseModel):
    """One column of a table.

    Args:
        name: The heading.
        unit: The unit of its numbers, e.g. "%" or "s".
        format: A Python format of its numbers, e.g. "+.1f"; as they are in the file unless given.
        ci_format: The same for the ends of confidence intervals; `format` unless given.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    unit: str = ""
    format: str = ""
    ci_format: str | None = None


class Estimate(BaseModel):
    """A number with its 95 % confidence interval."""

    model_config = ConfigDict(extra="forbid")

    value: float | int
    ci: tuple[float | int, float | int]


Cell = Estimate | int | float | str | None


class Result(BaseModel):
    """One measurement: a table, what was measured with what, and the command that repeats it.

    Args:
        title: The heading of its page.
        topic: The group of pages that it stands in.
        about: What the table shows, in one or two sentences.
        date: The day of the measurement, or of the commit that brought it.
        versions: Package to version. Versions that were not recorded are left out.
        hardware: The machine, as far as it is known.
        n: What the numbers are taken over, with how many.
        command: One or several commands that repeat it.
        commit: The commit at which the command's tool stood, where it is not part of the project any more.
        columns: The columns.
        rows: Cells, one list per row; null is an empty cell.
        notes: Markdown paragraphs: the limits, and how to read the table.
        figure: A picture in the same folder.
    """

    model_config = ConfigDict(extra="forbid")

    title: str
    topic: Literal["Forgetting and retention", "Training methods", "Speed and memory", "Data", "Robustness"]
    about: str
    date: date
    versions: dict[str, str]
    hardware: str | dict[str, str]
    n: str
    command: str | list[str]
    commit: str | None = None
    columns: list[Column]
    rows: list[list[Cell]]
    notes: list[str] = []
    figure: str | None = None

    @model_validator(mode="after")
    def _rows_are_as_wide_as_the_columns(self) -> Result:
        for number, row in enumerate(self.rows, 1):
            if len(row) != len(self.columns):
                raise ValueError(f"row {number} has {len(row)} cells, not {len(self.columns)}")
        return self


def load_results(folder: Path = FOLDER) -> dict[str, Result]:
    """Return every result by the name of its file, in the order of topics and titles.

    Raises:
        ValueError: A file is not a result; the message names the file.
    """
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            found[path.stem] = Result.model_validate_json(path.read_text("utf-8"))
        except ValidationError as error:
            raise ValueError(f"{path}: {error}") from error
    return dict(sorted(found.items(), key=lambda pair: (TOPICS.index(pair[1].topic), pair[1].title)))


def write_result(path: Path, result: Result) -> None:
    """Write a result as JSON, one line per row, so that a change of a number shows as one line."""
    parts = []
    for name, value in result.model_dump(mode="json", exclude_defaults=True).items():
        text = json.dumps(value, ensure_ascii=False)
        if isinstance(value, list):
            text = "[\n" + ",\n".join(f"    {json.dumps(entry, ensure_ascii=False)}" for entry in value) + "\n  ]"
        parts.append(f"  {json.dumps(name)}: {text}")
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", "utf-8")


def render_page(name: str, result: Result) -> str:
    """Return the Markdown page of a result."""
    commands = [result.command] if isinstance(result.command, str) else result.command
    hardware = result.hardware if isinstance(result.hardware, str) else pairs(result.hardware)
    lines = [
        f"# {result.title}",
        "",
        result.about,
        "",
        "```bash",
        *commands,
        "```",
        "",
        f"- **n**: {result.n}",
        f"- **Date**: {result.date.isoformat()}",
        f"- **Versions**: {pairs(result.versions) or 'not recorded'}",
        f"- **Hardware**: {hardware}",
        f"- **Data of this page**: [{name}.json]({name}.json)",
        "",
        render_table(result.columns, result.rows),
    ]
    if result.commit:
        lines.insert(lines.index(f"- **n**: {result.n}"), f"- **Commit**: the commands run at `{result.commit}`")
    if any(isinstance(cell, Estimate) for row in result.rows for cell in row):
        lines += ["", "Brackets hold 95 % confidence intervals."]
    for note in result.notes:
        lines += ["", note]
    if result.figure:
        lines += ["", f"![{result.title}]({result.figure})"]
    return "\n".join(lines) + "\n"


def render_index(results: dict[str, Result]) -> str:
    """Return the page that lists all results."""
    lines = [
        "# Results",
        "",
        "These pages hold every measured number of the project. Each is rendered from a JSON file in `docs/results` when the",
        "site is built, and names the command that repeats it. `python -m tools.results` checks the files and writes the table",
        "of the README from them.",
    ]
    for topic in TOPICS:
        named = [(name, result) for name, result in results.items() if result.topic == topic]
        if named:
            lines += ["", f"## {topic}", "", *(f"- [{result.title}]({name}.md): {result.about}" for name, result in named)]
    return "\n".join(lines) + "\n"


def render_table(columns: list[Column], rows: list[list[Cell]]) -> str:
    """Return a Markdown table. Columns that hold numbers are aligned to the right."""
    heads = [f"{column.name}, {column.unit}" if column.unit else column.name for column in columns]
    numeric = [any(isinstance(row[i], Estimate | int | float) for row in rows) for i in range(len(columns))]
    lines = [_line(heads), _line(["---:" if is_number else "---" for is_number in numeric])]
    lines += [_line([format_cell(cell, column) for cell, column in zip(row, columns, strict=True)]) for row in rows]
    return "\n".join(lines)


def format_cell(cell: Cell, column: Column) -> str:
    """Return a cell as text, e.g. `-69.8 (-78 … -51)`."""
    if cell is None:
        return ""
    if isinstance(cell, str):
        return cell.replace("|", "\\|")
    if isinstance(cell, Estimate):
        ends = column.format if column.ci_format is None else column.ci_format
        low, high = (format(end, ends) for end in cell.ci)
        return f"{format(cell.value, column.format)} ({low} … {high})"
    return format(cell, column.format)


REMOVAL_COLUMNS = ("concept direction removal", "ROCR, one key", "neighbors: concept direction removal")


def removal_table(result: Result) -> str:
    """Return the README's table of what the default edit takes and costs, beside the published one."""
    names = [column.name for column in result.columns]
    shown = [
        names.index(name) for name in ("concept direction removal", "ROCR, one key", "neighbors: concept direction removal")
    ]
    rows = [[f"{row[0]}: {row[1]}" if row[1] else row[0], *(row[place] for place in shown)] for row in result.rows]
    return render_table([Column(name="asked as"), *(result.columns[place] for place in shown)], rows)


def whole_table(result: Result) -> str:
    """Return a result's table as its page shows it."""
    return render_table(result.columns, result.rows)


README_TABLES: Mapping[str, Callable[[Result], str]] = {
    "direction_removal_coder": removal_table,
    "direction_recall_coder": whole_table,
}
"""The tables of the README by the result that they are from."""


def with_readme_tables(page: str, results: Mapping[str, Result]) -> str:
    """Return the README with its tables as the results have them."""
    for name, table_of in README_TABLES.items():
        page = with_table(page, name, table_of(results[name]))
    return page


def with_table(text: str, name: str, table: str) -> str:
    """Return a page with the table between its marks replaced.

    Raises:
        ValueError: The page has no such marks.
    """
    begin, end = MARKS[0].format(name=name), MARKS[1]
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"no line {begin.strip()}")
    return pattern.sub(lambda _: f"{begin}\n{table}\n\n{end}", text)


def pairs(values: dict[str, str]) -> str:
    """Return `name value` pairs as one line."""
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Check every result and write the README's tables."""
    results = load_results()
    for name, result in results.items():
        render_page(name, result)
    README.write_text(with_readme_tables(README.read_text("utf-8"), results), "utf-8")
    print(f"{len(results)} results are valid; the tables of {README.name} are up to date")


if __name__ == "__main__":
    main()
