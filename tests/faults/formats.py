"""Every format of a file that Formless reads: which faults a file can have, and the commands that meet it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import yaml

from tests.faults import examples
from tests.faults.damages import Fault, file_faults, json_faults, tensor_faults
from tests.faults.examples import Step

IN_MODEL = ("[model", "model/")


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Args:
        name: For the table.
        file: The file to damage, in the folder of examples.
        needs: What else the commands read there.
        steps: Commands, run one after the other.
        faults: Yields the faults of the whole file.
        reports: Whether commands may tell of the damage and go on; the last one then shows that it was mended.
        names_field: Whether an error names the field; not if a hash shows the damage.
        said_as: What else an error may call the file.
    """

    name: str
    file: str
    needs: tuple[str, ...]
    steps: tuple[Step, ...]
    faults: Callable[[Path], Iterator[Fault]]
    reports: bool = False
    names_field: bool = True
    said_as: tuple[str, ...] = ()


def formats(folder: Path) -> list[Format]:
    """Return every format of which `examples.write_examples` wrote a file into a folder."""
    return [*_records_and_data(), *_edits(folder), *_models(), *_sweep(folder), *_unfinished(folder)]


def _records_and_data() -> Iterator[Format]:
    records, measured = (examples.summarize("original.json", "edited.json"),), ("model", "data", "cache")
    yield Format("record of an edit", "edited.json", ("original.json",), records, _own_json, names_field=False)
    yield Format("record of the original", "original.json", ("edited.json",), records, _own_json, names_field=False)
    steps = (examples.summarize("original.json", "no_hash.json"),)
    said = ("are not those of its original", "has its original beside it")
    yield Format("record without a hash", "no_hash.json", ("original.json",), steps, _foreign_json, said_as=said)
    for title, name, faults in (("blanks", "forget_level1", _rows), ("multiple choice", "forget_mcp", _optional_rows)):
        file = f"data/{examples.TARGET}/{name}.json"
        yield Format(title, file, measured, (examples.evaluate(),), faults)
        yield Format(f"{title}, checked", file, ("data",), (examples.check_data(),), faults, said_as=(name,))
    yield Format("training texts", f"data/{examples.TARGET}/positive.json", measured, (examples.train("new"),), _rows)
    yield Format("facts, JSON", "facts.json", (), (examples.make_data("facts.json"),), _rows)
    yield Format("facts, CSV", "facts.csv", (), (examples.make_data("facts.csv"),), _cut_text)
    yield Format("corpus, JSON", "corpus.json", ("model",), (examples.compute_statistics("new"),), _corpus)
    yield Format("experiment", "experiment.yaml", measured, (examples.sweep("experiment.yaml", "new"),), _settings)


def _edits(folder: Path) -> Iterator[Format]:
    for name in ("adapter", "difference", "prompt"):
        for path in _files(folder / name):
            steps = (examples.evaluate(name),)
            yield Format(
                f"{path.name} ({name})", _place(path, folder), ("model", "data", "cache"), steps, _own(path), names_field=False
            )
    for file, basis in (("nullspace/layer_1.safetensors", "nullspace"), ("null_space_project_layer_1.pt", ".")):
        faults = _own_tensors if basis != "." else _projection
        steps, said = (examples.edit_with(basis),), (f"[{basis}]",)
        title = f"null space, {Path(file).suffix}"
        yield Format(title, file, ("model", "data"), steps, faults, names_field=False, said_as=said)


def _models() -> Iterator[Format]:
    for name, faults in (
        ("config.json", _foreign_json),
        ("generation_config.json", _foreign_json),
        ("tokenizer_config.json", _foreign_json),
        ("tokenizer.json", _text),
        ("chat_template.jinja", _optional_text),
        ("model.safetensors", _foreign_tensors),
    ):
        yield Format(
            f"model, {name}",
            f"model/{name}",
            ("data", "cache"),
            (examples.evaluate(),),
            faults,
            names_field=False,
            said_as=IN_MODEL,
        )


def _sweep(folder: Path) -> Iterator[Format]:
    needs, again = ("model", "data", "cache", "runs", "experiment.yaml"), examples.sweep("experiment.yaml", "runs")
    steps = (examples.show_status(), examples.summarize("runs"), again, examples.summarize("runs"))
    said = ("[runs]",)
    yield Format("plan of a sweep", "runs/plan.json", needs, steps, _own_json, reports=True, said_as=said)
    for run in sorted((folder / "runs").glob("runs/*/*/*/*")):
        for path in (*_files(run), *_files(run / "edit")):
            title, own = f"{path.name} of a run ({run.parents[1].name})", _own(path)
            faults = own if path.name == "run.json" else partial(_some, own)
            yield Format(title, _place(path, folder), needs, steps, faults, reports=True, names_field=False, said_as=said)
        for path in _files(run / "attacks")[:1]:  # first beside another attack, then measured again
            title, faults = f"record of an attack ({run.parents[1].name})", partial(_some, _own_json)
            attacks = (examples.attack("q8_0"), examples.attack("q4_0", "q8_0"))
            yield Format(title, _place(path, folder), needs, attacks, faults, reports=True, names_field=False)
    for path in _files(folder / "cache" / "original")[:1]:
        beside, evaluation = ("model", "data", "adapter"), (examples.evaluate("adapter"),)
        yield Format("cached record", _place(path, folder), beside, evaluation, _own_json, reports=True)


def _unfinished(folder: Path) -> Iterator[Format]:
    sums, steps = ".resumed.partial.safetensors", (examples.compute_statistics("resumed"),)
    yield Format("unfinished statistics", sums, ("model", "corpus.json"), steps, _own_tensors, names_field=False)
    checkpoints = folder / ".trained.training"
    for path in sorted(path for path in checkpoints.rglob("*") if path.is_file()):
        needs, steps = (checkpoints.name, "model", "data"), (examples.train("trained"),)
        is_text = path.name == "training.json"  # one line, a hash
        faults, said = _text if is_text else _own(path), (checkpoints.name,) if is_text else ()
        title = f"checkpoint, {path.name}"
        yield Format(title, _place(path, folder), needs, steps, faults, names_field=False, said_as=said)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.*") if path.suffix in (".json", ".safetensors"))


def _place(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder))


def _own(path: Path) -> Callable[[Path], Iterator[Fault]]:
    """Return the faults of a file that Formless wrote, by its name."""
    return {".safetensors": _own_tensors, ".json": _own_json}.get(path.suffix, _binary)


def _some(faults: Callable[[Path], Iterator[Fault]], path: Path) -> Iterator[Fault]:
    """Yield every tenth fault: run.json has a hash of the whole file, so that its content does not matter."""
    yield from islice(faults(path), 0, None, 10)


def _own_json(path: Path) -> Iterator[Fault]:
    yield from file_faults(binary=False)
    content = _content(path)
    yield from json_faults(content, newest=isinstance(content, dict) and "format" in content, values=True)


def _own_tensors(path: Path) -> Iterator[Fault]:
    yield from file_faults(binary=True)
    yield from tensor_faults(path)


def _foreign_json(path: Path) -> Iterator[Fault]:
    """Yield faults of a file of a model; another value of the right type, a missing or a further field is another model."""
    yield from file_faults(binary=False, optional=path.name != "config.json")
    yield from json_faults(_content(path), foreign=False)


def _foreign_tensors(path: Path) -> Iterator[Fault]:
    """Yield faults of a model's weights; with a changed bit, or with zeros, they are another model's."""
    yield from (fault for fault in file_faults(binary=True) if not re.search("bit|zeros", fault.place))
    yield from tensor_faults(path, values=False)


def _rows(path: Path) -> Iterator[Fault]:
    """Yield faults of rows that a user wrote; further fields are allowed there."""
    yield from file_faults(binary=False)
    yield from json_faults(_content(path), foreign=False)


def _corpus(path: Path) -> Iterator[Fault]:
    """Yield faults of texts; a row may be a text, and a text may hold anything."""
    yield from (fault for fault in _rows(path) if fault.kind != "text" and not fault.place.endswith((": a text", ": null")))


def _optional_rows(path: Path) -> Iterator[Fault]:
    yield from file_faults(binary=False, optional=True)
    yield from json_faults(_content(path), foreign=False)


def _settings(path: Path) -> Iterator[Fault]:
    yield from json_faults(_content(path), foreign=False)


def _text(path: Path) -> Iterator[Fault]:
    yield from file_faults(binary=False)


def _cut_text(path: Path, optional: bool = False) -> Iterator[Fault]:
    """Yield faults of a text; one that is cut at its very end is another text."""
    yield from (fault for fault in file_faults(binary=False, optional=optional) if fault.place != "to 99 %")


def _optional_text(path: Path) -> Iterator[Fault]:
    yield from _cut_text(path, optional=True)


def _binary(path: Path) -> Iterator[Fault]:
    yield from file_faults(binary=True)


def _projection(path: Path) -> Iterator[Fault]:
    """Yield faults of a matrix that torch.save wrote."""
    yield from file_faults(binary=True)
    matrix = torch.load(path, weights_only=True)
    for kind, what, changed in (
        ("reshaped", "a row fewer", matrix[:-1]),
        ("reshaped", "flat", matrix.flatten()),
        ("retyped", "int32", matrix.to(torch.int32)),
        ("retyped", "complex64", matrix.to(torch.complex64)),
        ("retyped", "sparse", matrix.to_sparse()),
        ("retyped", "a mapping", {"P": matrix}),
        ("retyped", "a number", 1),
        ("retyped", "an object of a class", Path("code")),
        ("zeroed", "", matrix * 0),
        ("scaled", "2", matrix * 2),
        ("scaled", "-1", matrix * -1),
        ("not finite", "", matrix / 0),
    ):
        yield Fault(kind, what, partial(torch.save, changed))


def _content(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8")) if path.suffix == ".yaml" else json.loads(path.read_bytes())
