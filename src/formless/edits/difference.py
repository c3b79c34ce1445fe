"""`DifferenceEdit`: an edit of whole weights, what full fine-tuning gives."""

from __future__ import annotations

from pathlib import Path

from formless import store
from formless.edits.edit import INFO, WeightEdit
from formless.models.overlay import Difference

DIFFERENCES = "differences.safetensors"


class DifferenceEdit(WeightEdit[Difference]):
    """Differences by parameter name, in the model's format on the CPU; as large as the weights that changed."""

    def save(self, folder: str | Path, *, force: bool = False) -> None:
        """Write differences.safetensors and edit.json, all or nothing; `save_merged` writes what a server loads.

        Raises:
            OutputError: The folder exists and `force` is not set, or it cannot be written.
        """
        with store.new_folder(Path(folder), mark=INFO, force=force) as new:
            tensors = {name: change.values for name, change in self.updates.items()}
            store.write_tensors(new / DIFFERENCES, tensors, {"format": "pt"})
            store.write_text(new / INFO, self.info.model_dump_json(indent=2) + "\n")
