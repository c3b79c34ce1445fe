"""Methods: each computes an `Edit` from a model and a target.

- `base.py`: settings, the registry entry, and what a method object promises.
- `registry.py`: all methods by name, and `unlearn`.
- `keys/`: what closed-form edits of names share.
- `direction/`: Concept Direction Removal, the default.
- `rocr/`: Rank-one Concept Redirection.
- `training/`: one training loop; the losses of a family beside their settings and entries.
- `icu.py`: in-context unlearning, and the original model.
- `memory.py`: estimates of the memory that a method needs.
"""

from typing import Final

DEFAULT_METHOD: Final = "cdr"
"""The method of `formless.unlearn` and of the commands where none is named."""
