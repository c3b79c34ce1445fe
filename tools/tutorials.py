"""Run the Python of the tutorials and write what it prints below each block.

    python -m tools.tutorials             # a few minutes; writes the `text` blocks of docs/tutorials/*.md anew

So a tutorial shows what its code prints, and nothing else.
"""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "docs" / "tutorials"
BLOCKS = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?", re.DOTALL | re.MULTILINE)


def with_outputs(page: str, name: str) -> str:
    """Return a page with the output of each block of Python in the `text` block behind it.

    The blocks of a page run in order and share their names, as the cells of a notebook do.
    """
    names: dict[str, Any] = {}

    def run(block: re.Match[str]) -> str:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block["code"], name, "exec"), names)
        output = "".join(f"{line.rstrip()}\n" for line in printed.getvalue().splitlines())
        if bool(output) != (block["output"] is not None):
            raise ValueError(f"{name}: a block prints something without a `text` block behind it, or the reverse")
        return f"```python\n{block['code']}```\n" + (f"\n```text\n{output}```\n" if output else "")

    return BLOCKS.sub(run, page)


def main() -> None:
    """Write every tutorial anew."""
    for path in sorted(FOLDER.glob("*.md")):
        path.write_text(with_outputs(path.read_text("utf-8"), path.name), "utf-8")
        print(path.name)


if __name__ == "__main__":
    main()
