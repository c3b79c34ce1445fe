"""The methods without weights: in-context unlearning (ICU), and the original model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from formless.methods.base import MethodConfig, MethodEntry

if TYPE_CHECKING:
    from formless.data.target import Target
    from formless.edits.edit import Edit
    from formless.edits.prompt import PromptEdit
    from formless.models.lm import LM

# The published wording, letter for letter, so that results can be compared.
INSTRUCTION = (
    "You are an AI Assistant who is supposed to unlearn about {subject} and provide answers without its knowledge as if you "
    "never knew about it. Don't tell anyone that you unlearned anything.\n"
)


class IcuConfig(MethodConfig):
    """ICU has no settings."""

    def check_targets(self, targets: Sequence[Target], keep: Edit | None) -> None:  # noqa: ARG002 - no edit is kept
        """Refuse a question set that does not name its concepts.

        Raises:
            DataError: It does not.
        """
        for target in targets:
            _ = target.concepts


@dataclass(frozen=True)
class Icu:
    """In-context unlearning, as the paper (arXiv 2506.07795) compares it: an instruction not to know the concept."""

    config: MethodConfig

    def unlearn(self, lm: LM, target: Target) -> PromptEdit:
        """Return an edit that puts the published instruction before every user message.

        Of a question set, the instruction names every concept.

        Raises:
            DataError: A question set does not name its concepts.
        """
        names = [concept.subject for concept in target.concepts]
        named = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
        facts = {"subjects": names} if target.is_question_set else {}
        return _prompt_edit(lm, "icu", target, self.config, INSTRUCTION.format(subject=named), facts)


@dataclass(frozen=True)
class Original:
    """The model as it is, in the form of a method."""

    config: MethodConfig

    def unlearn(self, lm: LM, target: Target) -> PromptEdit:
        """Return an edit that changes nothing."""
        return _prompt_edit(lm, "original", target, self.config, "")


def _prompt_edit(
    lm: LM, method: str, target: Target, config: MethodConfig, prefix: str, facts: dict[str, Any] | None = None
) -> PromptEdit:
    from formless.edits.edit import edit_info
    from formless.edits.prompt import PromptEdit

    return PromptEdit(edit_info(lm, method, target.subject, config, 0.0, layers=[], facts=facts or {}, prefix=prefix), prefix)


ICU = MethodEntry(
    name="icu",
    about="in-context unlearning: a line before every message",
    paper="arXiv 2506.07795",
    config=IcuConfig,
    build=Icu,
    edits_weights=False,
    cost="none",
)
ORIGINAL = MethodEntry(
    name="original",
    about="the model as it is, to compare with",
    paper="none",
    config=MethodConfig,
    build=Original,
    edits_weights=False,
    cost="none",
)
