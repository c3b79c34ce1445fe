"""What reads files and lists names starts at once: no torch, transformers or datasets."""

from __future__ import annotations

import subprocess
import sys

LIGHT = (
    "errors", "progress", "registry", "store",
    "data.check", "data.corpus", "data.formats", "data.ort", "data.retain", "data.rwku", "data.target",
    "data.questions.facts", "data.questions.new_target", "data.questions.probes", "data.synthetic.training_files",
    "models.families", "models.scores", "models.settings", "models.sources.bundled",
)  # fmt: skip
HEAVY = ("torch", "transformers", "datasets", "peft", "scipy", "matplotlib", "pandas", "openai")


def test_light_modules_import_nothing_heavy() -> None:
    code = f"""
import importlib, sys
for name in {LIGHT}:
    importlib.import_module(f"formless.{{name}}")
    found = [package for package in {HEAVY} if package in sys.modules]
    assert not found, f"formless.{{name}} imports {{found}}"
"""
    subprocess.run([sys.executable, "-c", code], check=True)
