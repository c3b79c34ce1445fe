"""The page of a takedown check: one self-contained HTML file."""

from __future__ import annotations

from pathlib import Path

from formless import store
from formless.evaluation.prompts import RECALL
from formless.evaluation.record import Record
from formless.report.answers import redirects_of
from formless.report.comparison import compare
from formless.report.examples import asked_in_words
from formless.report.form_tables import unknown_text
from formless.report.independence import independence
from formless.report.items import expected
from formless.report.mentions import comparison_maps
from formless.report.page import edit_facts, mention_plots, report_environment
from formless.report.side_effects import side_effects
from formless.report.tables import task_title
from formless.report.takedown import Ruling
from formless.report.verdict import ci_words, share


def write_takedown_page(path: Path, original: Record, edited: Record, ruling: Ruling, *, command: str = "") -> None:
    """Write the page about what an edited model still says.

    Args:
        path: The HTML file.
        original: The untouched model's record.
        edited: The edited model's record.
        ruling: Of these records.
        command: How to repeat it.
    """
    comparison = compare(original, edited)
    leaks = [one for one in asked_in_words(original, edited) if one.is_said_after]
    items = [item for result in edited.tasks if result.split == "forget" for item in result.items]
    said = sum(item.metrics.get(RECALL.name) == 1 for item in items)
    environment = report_environment(
        facts=edit_facts, task=task_title, expected=expected, share=share, ci_words=ci_words, redirects=redirects_of
    )
    page = environment.get_template("takedown.html.j2").render(
        edited=edited, ruling=ruling, leaks=leaks, others=said - len(leaks), ways=ruling.table(), command=command,
        unknown=unknown_text(independence([(original, edited)])), maps=mention_plots(comparison_maps(comparison)),
        side_effects=side_effects(comparison.changes),
    )  # fmt: skip
    store.write_text(path, page)
