"""Heat maps of a comparison, as notebooks show them."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from formless.report.mentions import MentionMap


@dataclass(frozen=True, repr=False)
class HeatMaps:
    """Heat maps of form by mention and by kind: inline SVG, one below the other.

    Args:
        maps: What they show.
    """

    maps: tuple[MentionMap, ...]

    def __repr__(self) -> str:
        return f"HeatMaps({'; '.join(found.title for found in self.maps)})"

    def _repr_html_(self) -> str:
        from formless.report.plots import mention_plot

        return "".join(
            f"<figure><figcaption>{escape(found.title)}</figcaption>{mention_plot(found)}</figure>" for found in self.maps
        )
