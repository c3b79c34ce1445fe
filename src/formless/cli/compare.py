"""`formless compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from formless.cli import terminal
from formless.report.differences import Shared, compare_folders
from formless.report.text import difference, interval, percent, probability

_SHOWN = 20
_CUT = 60


def compare_command(
    first: Annotated[Path, typer.Argument(help="A folder that `formless run --out` wrote.")],
    second: Annotated[Path, typer.Argument(help="Another one.")],
) -> None:
    """Say what differs between two folders of runs: settings, figures over the targets and runs that both have, other runs.

    Example: formless compare runs/a runs/b
    """
    found = compare_folders(first, second)
    names = (str(first), str(second))
    rows = [(name, _cut(one), _cut(other)) for name, one, other in found.settings]
    terminal.show_table(("setting", *names), rows, "settings that differ")
    if not rows:
        terminal.out.print("no setting differs")
    for shared in found.shared:
        _show(shared, names)
    if not found.shared:
        terminal.out.print("they share no complete run of one model, method, target and seed")
    for name, only, failures in zip(names, found.only, found.failures, strict=True):
        for what, titles in (("only in", only), ("failed in", [failure.title for failure in failures])):
            if titles:
                more = f" and {len(titles) - _SHOWN} more" if len(titles) > _SHOWN else ""
                shown = "; ".join(titles[:_SHOWN])
                terminal.out.print(f"{what} {name}: {len(titles)} runs: {shown}{more}", soft_wrap=True, markup=False)


def _show(shared: Shared, names: tuple[str, str]) -> None:
    """One model and method."""
    same = [name for name, mean in shared.means.items() if mean.difference == 0 and mean.difference_interval in (None, (0, 0))]
    rows = [
        (name, probability(mean.baseline), probability(mean.value), difference(mean.difference),
         interval(mean.difference_interval), percent(mean.relative), str(mean.targets))
        for name, mean in shared.means.items() if name not in same and mean.baseline is not None
    ]  # fmt: skip
    title = f"{shared.group.title}: {len(shared.targets)} targets, {shared.runs} runs in both"
    if rows:
        terminal.show_table(("figure", *names, "difference", "95 % interval", "change", "targets"), rows, title)
    else:
        terminal.out.print(title, soft_wrap=True, markup=False)
    if same:
        terminal.out.print(f"the same in both: {', '.join(same)}", soft_wrap=True, markup=False)
    if shared.unlike:
        note = f"{shared.unlike} of these runs asked other probes, or another model, than those that they stand beside"
        terminal.out.print(note, soft_wrap=True, markup=False)


def _cut(text: str) -> str:
    return text if len(text) <= _CUT else f"{text[:_CUT]} …"
