"""Methods: each computes an `Edit` from a model and a target.

- `base.py`: settings, the registry entry, and what a method object promises.
- `registry.py`: all methods by name, and `unlearn`.
- `rocr/`: Rank-one Concept Redirection.
- `training/`: one training loop; the losses of a family beside their settings and entries.
- `icu.py`: in-context unlearning, and the original model.
- `memory.py`: estimates of the memory that a method needs.
"""
