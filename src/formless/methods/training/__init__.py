"""Methods that train: one loop, and the losses of each family beside their settings and registry entries.

A method is read in four files: its family (`ascent`, `preference`, `refusal`, `distillation`, `representation`), `method.py`
from the target's file to the edit, `collator.py` from texts to what a loss is computed from, and `trainer.py`, the loop.
"""
