"""The model card of an exported edit: what was measured, plainly what was not, and the limits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from formless.errors import DataError
from formless.evaluation.record import Record
from formless.report.comparison import compare
from formless.report.mentions import comparison_maps
from formless.report.recall import worst_case_recall
from formless.report.tables import as_markdown, comparison_tables, record_tables, task_title
from formless.report.verdict import share, verdict

NOT_MEASURED: Final = "Not measured."

LIMITS: Final = (
    "The base model still holds everything: whoever disables or removes the adapter has it back.",
    "A few steps of fine-tuning, or prompts that nobody tried, can bring forgotten facts back.",
    "Numbers hold for the base model in the dtype of the measurement. Merging and quantizing change them.",
    "What was not asked was not measured. Other facts, languages and ways of asking may be as before.",
)

BUNDLED: Final = "The edit was made on weights that had been quantized to 4 bits, not on those of the hub."

_USE: Final = """```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, "THIS_REPOSITORY")
```"""


def model_card(edit: Mapping[str, Any], base: str, license_id: str | None, records: Sequence[Record] = ()) -> str:
    """Return the README.md of an adapter for the hub.

    Args:
        edit: The content of its edit.json.
        base: The hub id of the base model.
        license_id: The license of the base model as the hub writes it; None if it is not known.
        records: What `formless eval --out` wrote of the edited model, and of the original model for a comparison.

    Raises:
        DataError: A record is of another edit or model, or there are several of one kind.
    """
    original, edited = _sorted(edit, records)
    head = {"base_model": base, "library_name": "peft", "pipeline_tag": "text-generation", "tags": ["unlearning", "lora"]}
    if license_id:
        head["license"] = license_id
    ranks = sorted({layer["rank"] for layer in edit["layers"]})
    front = ["---", *(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in head.items()), "---"]
    body = [
        f"# {base} without {edit['subject']}",
        f"A LoRA adapter that makes [{base}](https://huggingface.co/{base}) forget {edit['subject']}. The method is "
        f"`{edit['method']}`. The number of weights it changes is {len(edit['layers'])}, at rank {', '.join(map(str, ranks))}. "
        "`edit.json` has all settings, and the fingerprint of the weights that it was made for.",
        "## What was forgotten",
        *_forgotten(original, edited),
        "## Utility",
        *_utility(original, edited),
        "## Limits",
        "\n".join(f"- {limit}" for limit in (*LIMITS, *([BUNDLED] if edit["model_source"] == "bundled" else []))),
        "## License",
        f"The license of the base model is `{license_id}`; it holds for what is made from it."
        if license_id
        else "The license of the base model is not known here. Look it up, and state it before you publish this.",
        "## Use",
        _USE.format(base=base),
    ]
    return "\n".join(front) + "\n\n" + "\n\n".join(body) + "\n"


def _sorted(edit: Mapping[str, Any], records: Sequence[Record]) -> tuple[Record | None, Record | None]:
    """Return the original model's record and the edited one's, as far as they are given."""
    found: dict[bool, Record] = {}
    for record in records:
        if bool(record.edits) in found:
            kind = "edited" if record.edits else "original"
            raise DataError(f"two records are of the {kind} model", where="--record", remedy="give one of each")
        if record.model_fingerprint != edit["model_fingerprint"]:
            raise DataError("the record is of another model", where="--record", remedy="evaluate this edit")
        names = ("method", "subject", "created")
        if record.edits and [[each[name] for name in names] for each in record.edits] != [[edit[name] for name in names]]:
            raise DataError("the record is of another edit", where="--record", remedy="evaluate this edit")
        found[bool(record.edits)] = record
    return found.get(False), found.get(True)


def _forgotten(original: Record | None, edited: Record | None) -> list[str]:
    if edited is None:
        return [NOT_MEASURED]
    asked = f"Measured on {edited.subject} in {edited.dtype}, suite `{edited.suite}`."
    if original is None:
        unknown = "Worst-case recall: not measured, since the record of the original model is not given."
        return [asked, unknown, as_markdown(record_tables(edited)).strip()]
    comparison = compare(original, edited)
    before, after = (worst_case_recall(original, record) for record in (original, edited))
    recall = "not measured, since no answers were written"
    if before and after:
        recall = (
            f"{share(after.value)} of the known facts are said in at least one way of asking; before, {share(before.value)}"
        )
    tables = [*comparison_tables(comparison), *(found.table() for found in comparison_maps(comparison))]
    return [f"{asked} {verdict(original, edited)}", f"Worst-case recall: {recall}.", as_markdown(tables).strip()]


def _utility(original: Record | None, edited: Record | None) -> list[str]:
    """Say which tasks about neither the concept nor its neighbors were asked; their numbers stand in the tables above."""
    tasks = [task_title(result.task) for result in edited.tasks if result.split is None and result.metrics] if edited else []
    if not tasks:
        return [NOT_MEASURED]
    beside = "beside the original model" if original else "of the edited model alone"
    return [f"The tables above have {', '.join(tasks)}, {beside}."]
