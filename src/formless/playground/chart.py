"""The chart of what is left of the knowledge, as an HTML table with bars: it follows the theme, and is read out as a table."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from formless.playground.ways import Bar, Way, bars_of

STYLE = """
body {background: var(--body-background-fill) !important; color: var(--body-text-color) !important}
.gradio-container {max-width: 1240px !important; margin: 0 auto !important}
#head {align-items: flex-start; flex-wrap: nowrap}
#head h1 {margin: 0 0 4px}
.fl-status {padding: 10px 14px; border-radius: 8px; border: 1px solid var(--border-color-primary);
  border-left: 4px solid #5b7db1; overflow-wrap: anywhere}
.fl-status.failed {border-left-color: #d9485f}
#note:empty, #note p {margin: 0}
.fl-chart {width: 100%; border-collapse: collapse; font-size: .92rem; color: var(--body-text-color)}
.fl-chart caption {text-align: left; padding: 0 0 8px; color: var(--body-text-color-subdued)}
.fl-chart th, .fl-chart td {text-align: left; padding: 5px 8px; vertical-align: middle; font-weight: normal}
.fl-chart tr {border-top: 1px solid var(--border-color-primary)}
.fl-chart thead th, .fl-chart .section th {font-weight: 600}
.fl-chart .section th {padding-top: 14px}
.fl-chart td.bars {width: 56%}
.fl-chart td:last-child {white-space: nowrap}
.fl-bar {display: flex; align-items: center; gap: 6px; line-height: 1.25}
.fl-bar i {display: block; height: 9px; min-width: 1px; border-radius: 2px}
.fl-bar .track {flex: 1; min-width: 0}
.fl-bar b {width: 2.6em; text-align: right; font-weight: normal; font-variant-numeric: tabular-nums}
.fl-before i, .fl-key.before {background: #5b7db1}
.fl-after i, .fl-key.after {background: #e08a2e}
.fl-key {display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin-right: 4px}
.fl-out {color: #b3261e; font-weight: 600}
.dark .fl-out {color: #ff9c92}
.fl-hidden {position: absolute; clip-path: inset(50%); width: 1px; height: 1px; overflow: hidden}
@media (max-width: 640px) {
  .fl-chart {font-size: .84rem}
  .fl-chart th, .fl-chart td {padding: 4px 3px}
  .fl-chart td.bars {width: 44%}
  .fl-chart td:last-child {white-space: normal}
}
"""
"""The page's style sheet."""


def chart(ways: Sequence[Way]) -> str:
    """Return the chart; a line of text where nothing was measured."""
    bars = bars_of(ways)
    if not bars:
        return "<p>Nothing has been measured yet. The chart needs a concept with known facts.</p>"
    rows = []
    section = ""
    for bar in bars:
        if bar.section != section:
            section = bar.section
            title = "Neighbors, which should stay" if section == "Neighbors" else section
            rows.append(f'<tr class="section"><th colspan="3" scope="rowgroup">{escape(title)}</th></tr>')
        rows.append(_row(bar))
    caption = (
        '<span class="fl-key before"></span>original &nbsp; <span class="fl-key after"></span>unlearned. '
        "Mean probability of the right answer, over the facts that the original model knows. "
        "&#9888; The unlearned model still says the right answer."
    )
    titles = "".join(
        f'<th scope="col">{title}</th>' for title in ("Asked by", "Probability", "Said in words, before &rarr; now")
    )
    head = f"<caption>{caption}</caption><thead><tr>{titles}</tr></thead>"
    return f'<table class="fl-chart">{head}<tbody>{"".join(rows)}</tbody></table>'


def _row(bar: Bar) -> str:
    if bar.before is None or bar.after is None:
        bars = f"no fact known to the original, of {bar.asked}"
    else:
        bars = _bar("before", "original", bar.before) + _bar("after", "unlearned", bar.after)
    said = ""
    if bar.said is not None:
        text = f"{bar.said_before} &rarr; {bar.said} / {bar.asked}"
        out = '<span class="fl-out">&#9888; {}<span class="fl-hidden">, still comes out</span></span>'
        said = out.format(text) if bar.said else text
    return f'<tr><th scope="row">{escape(bar.name)}</th><td class="bars">{bars}</td><td>{said}</td></tr>'


def _bar(kind: str, name: str, value: float) -> str:
    return (
        f'<div class="fl-bar fl-{kind}" role="img" aria-label="{name} {value:.2f}">'
        f'<span class="track"><i style="width:{100 * value:.1f}%"></i></span><b>{value:.2f}</b></div>'
    )
