"""Edits: what changed, apart from the model, and how it is stored.

- `edit.py`: the protocol `Edit`, its provenance `EditInfo` (edit.json), and what all edits of weights share.
- `summary.py`: the summary that notebooks show.
- `adapter.py`: low-rank updates, saved as a PEFT LoRA adapter; `stack` joins two of them.
- `difference.py`: differences of whole weights.
- `prompt.py`: a text before every user message.
- `verification.py`: what a saved edit states about its files, and the comparison when it is loaded.
- `versions.py`: edit.json of earlier versions.
- `foreign.py`: edits that other tools made: PEFT adapters and whole models.
- `export/`: an edit in the form that another tool loads.
- `loading.py`: `load_edit` reads any of them.
"""
