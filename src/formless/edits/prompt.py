"""`PromptEdit`: an edit that leaves the weights alone and speaks before the user does."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from formless import store
from formless.edits.edit import INFO, EditInfo, refuse_other_model
from formless.models.lm import LM


@dataclass(frozen=True)
class PromptEdit:
    """A text before every user message.

    Args:
        info: What edit.json says.
        prefix: The text; empty for an edit that changes nothing.
    """

    info: EditInfo
    prefix: str

    def applied(self, lm: LM) -> AbstractContextManager[LM]:
        """The model with the prefix in its `chat_prompt`; leaving the block takes it off.

        Raises:
            EditError: The edit is for another model.
        """
        refuse_other_model(lm, self.info)
        return lm.prefixed(self.prefix, self.info.model_dump(mode="json"))

    def save(self, folder: str | Path, *, force: bool = False) -> None:
        """Write edit.json; there are no weights.

        Raises:
            OutputError: The folder exists and `force` is not set, or it cannot be written.
        """
        with store.new_folder(Path(folder), mark=INFO, force=force) as new:
            store.write_text(new / INFO, self.info.model_dump_json(indent=2) + "\n")
