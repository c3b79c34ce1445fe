"""`EditSummary`: what notebooks and the terminal show of an edit."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from formless.edits.edit import EditInfo


class EditSummary:
    """A one-line `repr` and an HTML table for notebooks, from the edit's provenance."""

    info: EditInfo

    def __repr__(self) -> str:
        found = self._summary()
        first = f"{found.pop('method')}: {found.pop('subject')}"
        return f"{type(self).__name__}({', '.join([first, *(f'{name} {text}' for name, text in found.items())])})"

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in self._summary().items())
        return f"<table><caption>{type(self).__name__}</caption>{rows}</table>"

    def _summary(self) -> dict[str, str]:
        """Return what both forms show, as name -> text."""
        info, found = self.info, {"method": self.info.method, "subject": self.info.subject}
        if info.strength != 1:
            found["strength"] = f"{info.strength:g}"
        if info.layers:
            ranks = {layer.rank for layer in info.layers}
            shown = f"{min(ranks)} to {max(ranks)}" if len(ranks) > 1 else f"{min(ranks)}"
            norms = sorted({f"{100 * layer.relative_norm:.1f}" for layer in info.layers}, key=float)
            found["rank"] = f"{shown} in {len(info.layers)} weights"
            found["update norms"] = f"{' to '.join(dict.fromkeys([norms[0], norms[-1]]))} % of the weights'"
        if chosen := dict.fromkeys(each["redirect"] for each in info.facts.get("targets", ()) if "redirect" in each):
            found["redirected to"] = ", ".join(chosen)
        if "residual_reduction" in info.facts:
            found["residual reduction"] = f"{100 * info.facts['residual_reduction']:.1f} %"
        if "last_loss" in info.facts:
            found["loss"] = f"{info.facts['first_loss']:.3f} to {info.facts['last_loss']:.3f}"
        return found
