"""The export targets by name: ONE ROW PER TARGET."""

from __future__ import annotations

from formless.edits.export import diff, gguf, hub, merged, peft
from formless.edits.export.target import ExportTarget
from formless.registry import Registry

EXPORTS: Registry[ExportTarget] = Registry(
    "export target",
    "formless.exports",
    ExportTarget,
    (
        ExportTarget("peft", "a PEFT LoRA adapter, several edits as one", peft.write),
        ExportTarget("hub", "a PEFT LoRA adapter with a model card", hub.write),
        ExportTarget("merged", "a whole edited model", merged.write, needs_model=True),
        ExportTarget("gguf-lora", "llama.cpp's LoRA adapter", gguf.write_adapter, needs_model=True, mark=None),
        ExportTarget("gguf-merged", "the model's GGUF file, edited", gguf.write_model, needs_model=True, mark=None),
        ExportTarget("diff", "the differences of whole weights", diff.write, needs_model=True),
    ),
)
