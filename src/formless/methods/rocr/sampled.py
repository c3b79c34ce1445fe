"""Null spaces from texts that the model samples: made at their first use, with a line that says what that costs, and kept."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import torch

from formless import store
from formless.errors import EditError, OutputError
from formless.methods.keys.closed_form import Projection
from formless.methods.rocr.nullspace import load_projection
from formless.methods.rocr.statistics import SecondMoments, compute_statistics
from formless.models.families import projection_shape
from formless.models.lm import LM
from formless.models.sampled_texts import LENGTH, TOGETHER, SampledTexts
from formless.progress import Progress

SAMPLES = 512
"""Texts of a null space that is made at its first use."""

CHECKPOINT_EVERY = 256
TRIAL_TOKENS = 8
EIGEN_SECONDS = 6e-11
"""Seconds per d^3 that the eigenvectors of a layer take on one CPU core, from docs/results/nullspace.json."""

CACHE_REMEDY = "free space, or set FORMLESS_CACHE to another folder"


def kept_folder(lm: LM, layers: Sequence[int], threshold: float) -> Path:
    """Return the folder of the cache where null spaces of sampled texts are kept; it may not be there yet."""
    parts = [
        lm.fingerprint, lm.setup_hash, str(lm.model.dtype), list(layers), threshold, SampledTexts(lm).corpus, SAMPLES, LENGTH,
    ]  # fmt: skip
    return store.sampled_null_spaces_folder(hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32])


def sampled_projections(lm: LM, layers: Sequence[int], threshold: float, report: Progress) -> dict[int, Projection]:
    """Return the projection of each layer from texts that the model samples; make and keep them if they are not there.

    Of several processes, one makes them and the others wait. If it is stopped, the next call goes on. Kept files that cannot
    be read are made again, with a warning.

    Args:
        lm: The model, unedited.
        layers: The layers.
        threshold: Eigenvalues under it span the null space.
        report: Called first with what it costs.

    Raises:
        EditError: They cannot be computed, as for `compute_statistics`, or the cache cannot be written.
    """
    folder = kept_folder(lm, layers, threshold)

    def kept() -> dict[int, Projection]:
        return {layer: load_projection(lm, folder, layer, threshold) for layer in layers}

    def waiting() -> None:
        report("waiting for another process that makes the null spaces", 0, 0)

    try:
        return kept()
    except EditError as error:
        if folder.exists():
            warnings.warn(f"the kept null spaces are made again: {error}", stacklevel=2)
    try:
        with store.locked(store.lock_path(folder), waiting):
            try:
                return kept()
            except EditError:
                _make(lm, layers, threshold, folder, report)
    except OutputError as error:
        raise EditError(f"the null spaces cannot be kept: {error.what}", where=folder, remedy=CACHE_REMEDY) from error
    except OSError as error:
        raise EditError(f"the null spaces cannot be kept: {error}", where=folder, remedy=CACHE_REMEDY) from error
    return kept()


def _make(lm: LM, layers: Sequence[int], threshold: float, folder: Path, report: Progress) -> None:
    texts = SampledTexts(lm)
    widths = [projection_shape(lm.architecture.down_projection(lm.model, layer))[1] for layer in layers]
    size = sum(width**2 for width in widths) / 1e6  # of the smaller side of each layer's space in float16, at most
    report(f"{cost(lm, layers, texts, SAMPLES)}, once; kept in {folder.parent} (at most {size:,.0f} MB)", 0, 0)
    compute_statistics(
        lm, layers, texts, corpus=texts.corpus, out=folder, samples=SAMPLES, threshold=threshold, dtype=torch.float16,
        checkpoint_every=CHECKPOINT_EVERY, force=True, progress=report,
    )  # fmt: skip


def cost(lm: LM, layers: Sequence[int], texts: SampledTexts, samples: int) -> str:
    """Say what the null spaces of sampled texts cost, after a trial with a few tokens of the first texts.

    Args:
        lm: The model.
        layers: The layers.
        texts: The texts; none of them is taken.
        samples: Number of texts.
    """
    list(islice(SampledTexts(lm, max_tokens=1), TOGETHER))  # the first pass of a model takes longer than any other
    start = time.perf_counter()
    SecondMoments(lm, layers, {}).add(list(islice(SampledTexts(lm, max_tokens=TRIAL_TOKENS), TOGETHER)), LENGTH)
    trial = time.perf_counter() - start
    widths = [projection_shape(lm.architecture.down_projection(lm.model, layer))[1] for layer in layers]
    seconds = trial * texts.max_tokens / TRIAL_TOKENS * samples / TOGETHER + EIGEN_SECONDS * sum(width**3 for width in widths)
    what = f"null spaces of {samples:,} texts that the model samples, at most {samples * texts.max_tokens:,} tokens"
    return f"{what}: about {seconds:,.0f} s"
