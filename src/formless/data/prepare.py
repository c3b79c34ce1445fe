"""`prepare`: convert a data set to the ORT layout, with a manifest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from formless import provenance, store
from formless.data.formats import DATA_FORMATS, Prepared, Selection, format_of
from formless.data.ort import SAMPLE, data_folder
from formless.errors import DataError, OutputError, UnknownNameError
from formless.progress import Progress

MANIFEST = "manifest.json"
TRAIN = ("llama3", "phi3", "none")


def prepare(
    source: str,
    out: Path,
    *,
    numbers: Sequence[range] | None = None,
    train: str = "llama3",
    force: bool = False,
    progress: Progress | None = None,
) -> Prepared:
    """Write a data set in the ORT layout with a manifest, completely or not at all; every row is validated.

    Args:
        source: The name or hub id of a data set on the hub (`rwku`, `locuslab/TOFU`), or a folder in a known format.
        out: The new folder.
        numbers: Ranges of target numbers; by default the first 100 of RWKU on the hub, else all.
        train: The model that wrote the training texts, or `none` to leave them out.
        force: Replace an older data set that this function wrote.
        progress: Called with the file or target, the work done and all work.

    Raises:
        DataError: The source cannot be read, lacks a required file, or has a row that does not fit its format.
        OutputError: The output exists, cannot be written, or overlaps with the source.
    """
    if train not in TRAIN:
        raise UnknownNameError("training texts", train, TRAIN, where="--train")
    by_hub = {name: row for row in DATA_FORMATS.values() if row.hub for name in (row.name, row.hub)}
    folder = None if source in by_hub else _source_folder(source, [row.name for row in by_hub.values()])
    if folder and (out.resolve().is_relative_to(folder) or folder.is_relative_to(out.resolve())):
        raise OutputError("the output and the source overlap", where=out, remedy="choose another --out")
    data_format = format_of(folder) if folder else by_hub[source]
    if force:
        _refuse_foreign_files(out)
    with store.new_folder(out, mark=MANIFEST, force=force) as new:
        prepared = Prepared(folder.name if folder else str(data_format.hub), new)
        data_format.write(folder, prepared, Selection(numbers, train, progress))
        (new / MANIFEST).write_text(_manifest(prepared, train if data_format.model_written else "none"), "utf-8")
    return prepared


def _source_folder(source: str, names: Sequence[str]) -> Path:
    """Return the folder of a source that is no data set on the hub."""
    try:
        return data_folder(source).resolve()
    except DataError as error:
        remedy = f"give a folder, or one of {', '.join(sorted({*names, SAMPLE}))}"
        raise DataError(error.what, where=error.where, remedy=remedy) from None


def _manifest(prepared: Prepared, train: str) -> str:
    """Return the text of the manifest."""
    packages = {name: version(name) for name in ("datasets", "pyarrow")}
    entries = {
        "source": prepared.source,
        "revisions": sorted(prepared.revisions),
        "train": train,
        "created": provenance.now(),
        "versions": provenance.versions() | packages,
        "targets": prepared.files,
        "absent": {f"{file}.json": folders for file, folders in prepared.absent.items()},
        "unlisted": dict(sorted(prepared.unlisted.items())),
        "dropped": prepared.dropped,
        "notes": prepared.notes,
    }
    return json.dumps(entries, ensure_ascii=False, indent=2) + "\n"


def _refuse_foreign_files(out: Path) -> None:
    """Stop before a folder is replaced that contains files which its manifest does not list."""
    present = {str(path.relative_to(out)) for path in out.rglob("*") if not path.is_dir()} if out.is_dir() else set()
    if not present:
        return
    try:
        listed = json.loads(store.read_file(out / MANIFEST))["targets"]
        known = {f"{folder}/{file}" for folder, files in listed.items() for file in files} | {MANIFEST}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        known = set()
    if foreign := sorted(present - known):
        what = f"{foreign[0]} is there, which `data prepare` did not write"
        raise OutputError(what, where=out, remedy="move it away, or choose another --out")
