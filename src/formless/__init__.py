"""Make a language model forget a concept in every form a question can take, and measure that it did."""

from formless.data.ort import find_target, targets
from formless.data.target import Target
from formless.errors import UserError
from formless.evaluation.evaluate import evaluate
from formless.evaluation.record import Record, load_record
from formless.methods.adapter import load_edit
from formless.methods.base import Edit
from formless.methods.registry import unlearn
from formless.models.lm import LM
from formless.models.loading import load

__version__ = "0.1.0"

__all__ = [
    "LM",
    "Edit",
    "Record",
    "Target",
    "UserError",
    "evaluate",
    "find_target",
    "load",
    "load_edit",
    "load_record",
    "targets",
    "unlearn",
]
