"""Make a language model forget a concept, and measure what it still tells in each form of question.

Examples:
    >>> lm = formless.load("smollm2")
    >>> target = formless.find_target("sample", "Marie Curie")
    >>> edit = formless.unlearn(lm, target)
    >>> with edit.applied(lm):
    ...     record = formless.evaluate(lm, target)
    >>> edit.save("edits/marie_curie")
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from formless.data.ort import find_target, targets
    from formless.data.target import Target
    from formless.edits.edit import Edit
    from formless.edits.loading import load_edit
    from formless.errors import UserError
    from formless.evaluation.evaluate import evaluate
    from formless.evaluation.loading import load_record
    from formless.evaluation.record import Record
    from formless.methods.registry import unlearn
    from formless.models.lm import LM
    from formless.models.loading import load
    from formless.report.comparison import Comparison, compare
    from formless.report.results import results

__version__ = "0.1.0"

for _name in ("bitsandbytes", "torchao", "torch.utils._pytree"):  # their imports write lines where there is no GPU
    logging.getLogger(_name).setLevel(logging.ERROR)

__all__ = [
    "LM",
    "Comparison",
    "Edit",
    "Record",
    "Target",
    "UserError",
    "compare",
    "evaluate",
    "find_target",
    "load",
    "load_edit",
    "load_record",
    "results",
    "targets",
    "unlearn",
]

_HOME = {
    "LM": "models.lm",
    "Comparison": "report.comparison",
    "Edit": "edits.edit",
    "Record": "evaluation.record",
    "Target": "data.target",
    "UserError": "errors",
    "compare": "report.comparison",
    "evaluate": "evaluation.evaluate",
    "find_target": "data.ort",
    "load": "models.loading",
    "load_edit": "edits.loading",
    "load_record": "evaluation.loading",
    "results": "report.results",
    "targets": "data.ort",
    "unlearn": "methods.registry",
}


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Import a public name at its first use, since torch and transformers take seconds to import."""
        if name not in _HOME:
            raise AttributeError(f"module 'formless' has no attribute {name!r}")
        return getattr(import_module(f"formless.{_HOME[name]}"), name)

    def __dir__() -> list[str]:
        """Return all names, imported or not."""
        return sorted({*globals(), *__all__})
