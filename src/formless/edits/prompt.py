"""`PromptEdit`: a text before every user message; the weights stay as they are."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from formless import store
from formless.edits.edit import EditInfo, refuse_other_model
from formless.edits.summary import EditSummary
from formless.errors import EditError
from formless.models.lm import LM


@dataclass(frozen=True, repr=False)
class PromptEdit(EditSummary):
    """A text before every user message.

    Args:
        info: The provenance.
        prefix: The text; empty for an edit that changes nothing.
    """

    info: EditInfo
    prefix: str

    def applied(self, lm: LM) -> AbstractContextManager[LM]:
        """Apply the prefix to the model's `chat_prompt`; leaving the block removes it.

        Raises:
            EditError: The edit is for another model.
        """
        refuse_other_model(lm, self.info)
        return lm.prefixed(self.prefix, self.info.model_dump(mode="json"))

    def scaled(self, strength: float) -> PromptEdit:
        """Refuse: a text has no strength.

        Raises:
            EditError: Always.
        """
        what = f"an edit of {self.info.method} is a text before the user's message, which cannot have the strength {strength:g}"
        raise EditError(what, where=self.info.subject, remedy="use an edit of weights")

    def save(self, folder: str | Path, *, force: bool = False) -> None:
        """Write edit.json, which holds the prefix.

        Raises:
            OutputError: The folder exists and `force` is not set, or it cannot be written.
        """
        with store.new_folder(Path(folder), mark=store.EditFolder.INFO, force=force) as new:
            self.info.save(new)

    def _summary(self) -> dict[str, str]:
        return super()._summary() | {"prefix": f"{len(self.prefix)} characters"}
