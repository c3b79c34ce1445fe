"""`DifferenceEdit`: an edit of whole weights, what full fine-tuning gives."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from formless import storage
from formless.methods.base import INFO, EditInfo, refuse_other_model, save_merged
from formless.models.lm import LM
from formless.models.overlay import Difference

DIFFERENCES = "differences.safetensors"


@dataclass(frozen=True)
class DifferenceEdit:
    """Differences by parameter name; as large as the weights that changed.

    Args:
        updates: Parameter name -> difference, in the model's format on the CPU.
        info: What edit.json says.
    """

    updates: dict[str, Difference]
    info: EditInfo

    def applied(self, lm: LM) -> AbstractContextManager[LM]:
        """The model with the edit on its weights; leaving the block restores them bit for bit.

        Raises:
            EditError: The edit is for another model or active already, or something else changed the weights.
        """
        refuse_other_model(lm, self.info)
        return lm.overlaid(self.updates, self.info.model_dump(mode="json"))

    def save(self, folder: str | Path, *, force: bool = False) -> None:
        """Write differences.safetensors and edit.json, all or nothing; `save_merged` writes what a server loads.

        Raises:
            OutputError: The folder exists and `force` is not set, or it cannot be written.
        """
        with storage.new_folder(Path(folder), mark=INFO, force=force) as new:
            tensors = {name: change.values for name, change in self.updates.items()}
            storage.write_tensors(new / DIFFERENCES, tensors, {"format": "pt"})
            storage.write_text(new / INFO, self.info.model_dump_json(indent=2) + "\n")

    def save_merged(self, lm: LM, folder: str | Path, *, force: bool = False) -> None:
        """Write the whole edited model with its tokenizer.

        Raises:
            OutputError: The folder exists and `force` is not set, or it cannot be written.
        """
        save_merged(self, lm, folder, force=force)
