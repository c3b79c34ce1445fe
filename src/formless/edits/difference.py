"""`DifferenceEdit`: an edit of whole weights, the result of full fine-tuning."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file

from formless import store
from formless.edits.edit import EditInfo, WeightEdit
from formless.models.overlay import Difference


class DifferenceEdit(WeightEdit[Difference]):
    """Differences by parameter name, in the model's dtype on the CPU; as large as the weights that changed."""

    def save(self, folder: str | Path, *, force: bool = False) -> None:
        """Write differences.safetensors and edit.json, all or nothing; `save_merged` writes what a server loads.

        Raises:
            OutputError: The folder exists and `force` is not set, or it cannot be written.
        """
        with store.new_folder(Path(folder), mark=store.EditFolder.INFO, force=force) as new:
            tensors = {name: change.values for name, change in self.updates.items()}
            store.write_tensors(store.EditFolder(new).differences, tensors, {"format": "pt"})
            self.info.save(new)

    @classmethod
    def load(cls, folder: Path, info: EditInfo) -> DifferenceEdit:
        """Read the differences beside an edit.json."""
        tensors = load_file(store.EditFolder(folder).differences)
        return cls({name: Difference(tensor) for name, tensor in tensors.items()}, info)

    def _summary(self) -> dict[str, str]:
        size = sum(change.values.nbytes for change in self.updates.values())
        return super()._summary() | {"size": f"{size / 2**20:,.0f} MB"}
