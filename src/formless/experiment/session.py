"""What a process keeps from one run to the next: one loaded model, one target."""

from __future__ import annotations

from typing import Any

from accelerate.utils.memory import clear_device_cache

from formless.data.ort import find_target
from formless.data.target import Target
from formless.errors import UserError
from formless.experiment.config import ModelChoice
from formless.experiment.runs import Run
from formless.models.lm import LM
from formless.models.loading import load
from formless.models.settings import prompt_style


class Session:
    """One load per model for runs that come model by model, one reading of files for runs that come target by target."""

    def __init__(self) -> None:
        self._model: tuple[tuple[Any, ...], LM] | None = None
        self._target: tuple[tuple[str, str], Target] | None = None
        self._refused: dict[tuple[Any, ...], UserError] = {}

    def model(self, run: Run) -> LM:
        """The run's model, without any edit; the one before it is let go first.

        Raises:
            UserError: It cannot be loaded; that is not tried again.
        """
        key = (run.model, *sorted(run.style.items()))
        if self._model and self._model[0] == key:
            return self._model[1]
        if key in self._refused:
            raise self._refused[key].with_traceback(None)
        self.forget_model()
        try:
            lm = _loaded(run.model)
            lm.style = prompt_style(lm.style, run.style)
        except UserError as error:
            self._refused[key] = error
            raise
        self._model = key, lm
        return lm

    def target(self, run: Run) -> Target:
        """The run's target."""
        key = (run.data, run.target)
        if not self._target or self._target[0] != key:
            self._target = key, find_target(run.data, run.target)
        return self._target[1]

    def forget_model(self) -> None:
        """Free the model's memory; the next run loads anew."""
        if self._model:
            self._model = None
            clear_device_cache(garbage_collection=True)


def _loaded(choice: ModelChoice) -> LM:
    options: dict[str, Any] = {"revision": choice.revision, "trust_remote_code": choice.trust_remote_code}
    if choice.device == "spread":
        return load(choice.name, dtype=choice.dtype, device_map="auto", **options)
    return load(choice.name, dtype=choice.dtype, device=choice.device, **options)
