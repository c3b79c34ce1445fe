"""Fine-tuning on the questions of a set: how a model comes to know made-up facts, and how a retain model is made."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field

from formless import provenance, store
from formless.data.target import Target
from formless.edits.edit import refuse_applied_edits
from formless.methods.training import losses
from formless.methods.training.collator import Objective
from formless.methods.training.config import TrainingConfig
from formless.methods.training.preprocessing import load_training_set, question_answer
from formless.methods.training.trainer import Checkpoints, train
from formless.models.lm import LM
from formless.models.overlay import Updates
from formless.progress import Progress

PARTS: Mapping[str, str] = {"forget": "forget_qa", "retain": "neighbor_qa"}
"""By the part of a question set: its file."""

SAVE_STEPS = 14


class FinetuningConfig(TrainingConfig):
    """Settings of fine-tuning; by the defaults a model of 135 million parameters learns 440 questions of TOFU by heart.

    TOFU itself trains for 5 epochs at 1e-5, which is enough for models of billions of parameters.
    """

    learning_rate: float = Field(default=2e-4, gt=0, le=1)
    num_train_epochs: int = Field(default=10, ge=1, le=100_000)
    per_device_train_batch_size: int = Field(default=16, ge=1, le=65_536)
    gradient_accumulation_steps: int = Field(default=1, ge=1, le=65_536)
    full: bool = True


@dataclass(frozen=True)
class Finetuning:
    """What a model learned.

    Args:
        lm: The model, which is as before.
        updates: What was added to its weights.
        facts: Where from, how and how well: the content of finetuning.json.
    """

    lm: LM
    updates: Updates
    facts: dict[str, Any]

    def save(self, folder: str | Path, *, force: bool = False) -> None:
        """Write the whole trained model with its tokenizer and finetuning.json, all or nothing.

        Raises:
            OutputError: The folder exists and `force` is not set, or it cannot be written.
        """
        with store.new_folder(Path(folder), mark=store.FINETUNING, force=force) as new:
            with self.lm.overlaid(self.updates, {"method": "finetune", "subject": self.facts["subject"]}):
                self.lm.model.save_pretrained(new)
            self.lm.tokenizer.save_pretrained(new)
            store.write_document(new / store.FINETUNING, self.facts)


def finetune(
    lm: LM,
    target: Target,
    parts: Sequence[str],
    config: FinetuningConfig,
    *,
    work: Path | None = None,
    report: Progress | None = None,
) -> Finetuning:
    """Train a model to answer the questions of a set; the answer and the token that ends it are learned.

    Args:
        lm: The model; it stays as it is.
        target: A question set.
        parts: Some of `PARTS`. Without `forget`, the result is a retain model.
        config: The settings. A retain loss makes no sense here and is not added.
        work: A folder for checkpoints, from which a killed training run continues; the caller removes it.
        report: Progress callback.

    Raises:
        DataError: A file is missing, broken or empty, or a question has no answer within `max_length` tokens.
        EditError: The model has an edit on it, or the training run fails (see `trainer.train`).
    """
    start = time.perf_counter()
    refuse_applied_edits(lm)
    sets = [
        load_training_set(
            lm, target, PARTS[part], partial(question_answer, seed=config.seed),
            max_rows=config.max_rows, max_length=config.max_length, seed=config.seed,
        )
        for part in parts
    ]  # fmt: skip
    examples = [example for found in sets for example in found.examples]
    files = {found.file: {"rows": len(found.examples), "sha256": found.digest} for found in sets}
    settings = config.model_dump(mode="json")
    identity = json.dumps(["finetune", settings, files, lm.fingerprint, str(lm.model.dtype)])
    checkpoints = Checkpoints(work, SAVE_STEPS, hashlib.sha256(identity.encode()).hexdigest()) if work else None
    objective = Objective(lambda batch: losses.cross_entropy(batch.policy, batch.labels))
    result = train(lm, examples, objective, config, checkpoints=checkpoints, report=report)
    facts = {
        "model": lm.name, "model_fingerprint": lm.fingerprint, "dtype": lm.dtype_name,
        "subject": target.subject, "files": files, "tokens": sum(len(text.ids) for (text,) in examples), "settings": settings,
        **{name: value for name, value in result.curves.facts.items() if name != "probabilities"},
        "seconds": time.perf_counter() - start + result.curves.seconds, "created": provenance.now(),
        "versions": provenance.versions(), "hardware": provenance.hardware(),
    }  # fmt: skip
    return Finetuning(lm, result.updates, facts)
