"""The methods without weights: in-context unlearning (ICU), and the original model."""

from __future__ import annotations

from dataclasses import dataclass

from formless.data.target import Target
from formless.edits.adapter import edit_info
from formless.edits.prompt import PromptEdit
from formless.methods.base import MethodConfig
from formless.models.lm import LM

# The published wording, kept letter for letter so that results can be compared.
INSTRUCTION = (
    "You are an AI Assistant who is supposed to unlearn about {subject} and provide answers without its knowledge as if you "
    "never knew about it. Don't tell anyone that you unlearned anything.\n"
)


@dataclass(frozen=True)
class Icu:
    """In-context unlearning, as the paper (arXiv 2506.07795) compares it: the model is told to know nothing."""

    config: MethodConfig

    def unlearn(self, lm: LM, target: Target) -> PromptEdit:
        """The published instruction before every user message."""
        return _prompt_edit(lm, "icu", target, self.config, INSTRUCTION.format(subject=target.subject))


@dataclass(frozen=True)
class Original:
    """The model as it is, in the form of a method."""

    config: MethodConfig

    def unlearn(self, lm: LM, target: Target) -> PromptEdit:
        """An edit that changes nothing."""
        return _prompt_edit(lm, "original", target, self.config, "")


def _prompt_edit(lm: LM, method: str, target: Target, config: MethodConfig, prefix: str) -> PromptEdit:
    return PromptEdit(edit_info(lm, method, target.subject, config, 0.0, layers=[], facts={}, prefix=prefix), prefix)
