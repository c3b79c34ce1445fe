"""Export: an edit in the form that another tool loads.

- `target.py`: `ExportTarget`, one row of the registry, and what every target is given.
- `registry.py`: the targets by name; ONE ROW PER TARGET.
- `stacking.py`: several edits as one.
- `peft.py`, `hub.py`, `merged.py`, `diff.py`: the targets, a file each; `gguf.py`: two for llama.cpp.
- `gguf_tensors.py`: an edit in llama.cpp's names and layout.
"""
