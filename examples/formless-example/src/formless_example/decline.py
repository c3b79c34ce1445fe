"""`decline`: the model is instructed to answer with one sentence whenever the concept comes up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from formless.methods.base import MethodConfig, MethodEntry

if TYPE_CHECKING:
    from formless.data.target import Target
    from formless.edits.prompt import PromptEdit
    from formless.models.lm import LM


class DeclineConfig(MethodConfig):
    """Settings of the method.

    Args:
        answer: The sentence that the model is to answer with.
    """

    answer: str = "I cannot help with that."


@dataclass(frozen=True)
class Decline:
    """The method with its settings."""

    config: DeclineConfig

    def unlearn(self, lm: LM, target: Target) -> PromptEdit:
        """Return an edit that writes the instruction before every user message."""
        from formless.edits.edit import edit_info
        from formless.edits.prompt import PromptEdit

        prefix = f'If a question is about {target.subject}, answer only: "{self.config.answer}"\n'
        info = edit_info(lm, "decline", target.subject, self.config, 0.0, layers=[], facts={}, prefix=prefix)
        return PromptEdit(info, prefix)


DECLINE = MethodEntry(
    name="decline",
    about="an instruction to answer with one sentence",
    paper="none",
    config=DeclineConfig,
    build=Decline,
    cost="none",
)
