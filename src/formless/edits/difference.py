"""`DifferenceEdit`: an edit of whole weights, the result of full fine-tuning."""

from __future__ import annotations

from pathlib import Path

from formless import store
from formless.edits import verification
from formless.edits.edit import EditInfo, WeightEdit
from formless.models.overlay import Difference


class DifferenceEdit(WeightEdit[Difference]):
    """Differences by parameter name, in the model's dtype on the CPU; as large as the weights that changed."""

    def save(self, folder: str | Path, *, force: bool = False) -> None:
        """Write differences.safetensors and edit.json, all or nothing; `save_merged` writes what a server loads.

        Raises:
            EditError: `info.layers` does not describe the updates.
            OutputError: The folder exists and `force` is not set, or it cannot be written.
        """
        verification.check_updates(self.info, self.updates, "updates")
        with store.new_folder(Path(folder), mark=store.EditFolder.INFO, force=force) as new:
            tensors = {name: change.values for name, change in self.updates.items()}
            path = store.EditFolder(new).differences
            store.write_tensors(path, tensors, {"format": "pt"}, with_hash=False)
            self.info.model_copy(update={"weights": verification.state_weights(path, self.updates)}).save(new)

    @classmethod
    def load(cls, folder: Path, info: EditInfo) -> DifferenceEdit:
        """Read the differences beside an edit.json, and compare them.

        Raises:
            EditError: The files do not hold what was saved.
            FileNotFoundError: A file is missing.
        """
        path = store.EditFolder(folder).differences
        updates = {name: Difference(tensor) for name, tensor in verification.read_tensors(path).items()}
        if info.weights is not None:
            verification.check_stated(path, info.weights, updates)
        verification.check_updates(info, updates, folder)
        return cls(updates, info.model_copy(update={"weights": None}))

    def _summary(self) -> dict[str, str]:
        size = sum(change.values.nbytes for change in self.updates.values())
        return super()._summary() | {"size": f"{size / 2**20:,.0f} MB"}
