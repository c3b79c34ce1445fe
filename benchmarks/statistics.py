"""Second moments of three layers over encyclopaedia passages, beside one whole pass for each layer, and their limit."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import torch
from torch import Tensor

import formless
from benchmarks.edit import relative
from benchmarks.evaluation import RWKU
from benchmarks.limit import find_limit, needed, operations
from benchmarks.models import first_model, label, other_models
from benchmarks.plain_statistics import plain_second_moment
from benchmarks.timing import Clock, Row, check, in_turns, repeated, seconds
from formless.data.corpus import corpus_texts
from formless.methods.rocr.statistics import CHUNK, SecondMoments
from formless.models.lm import LM

SAMPLE = Path(formless.__file__).parent / "data" / "sample"
LAYERS, BATCH, MAX_TOKENS, CLOSE, ROUNDS, GOAL = (4, 5, 6), 8, 1024, 1e-5, 3, 0.8


def passages(count: int) -> list[str]:
    """Return `count` passages of RWKU if it is beside the project, else of the sample, repeated if there are fewer."""
    found = list(corpus_texts(str(RWKU if RWKU.is_dir() else SAMPLE), pattern="*/passage.json", samples=count))
    return list(islice(cycle(found), count))


def our_moments(lm: LM, texts: Sequence[str]) -> SecondMoments:
    """Sum the moments as `formless stats` does."""
    moments = SecondMoments(lm, LAYERS, {})
    for start in range(0, len(texts), CHUNK):
        moments.add(texts[start : start + CHUNK], MAX_TOKENS)
    return moments


def rows(*, quick: bool = False) -> list[Row]:
    """Time the sums alone, in CPU seconds, without reading the texts and without the eigenvectors."""
    lm = first_model()
    texts = passages(4 if quick else 60)

    def plain() -> list[Tensor]:
        return [plain_second_moment(lm, texts, layer, batch=BATCH, max_tokens=MAX_TOKENS) for layer in LAYERS]

    moments = our_moments(lm, texts)
    error = max(relative(moments.mean(layer), expected) for layer, expected in zip(LAYERS, plain(), strict=True))
    check(error < CLOSE, f"the second moments differ by {error:.1e} of their norm")
    times = in_turns(lambda: our_moments(lm, texts), plain, rounds=1 if quick else ROUNDS, clock=time.process_time)
    what = f"statistics of 3 layers, {len(texts)} passages ({moments.tokens:,} tokens), CPU seconds"
    note = "one pass through 7 of 30 layers and no head; the layers themselves take it"
    found = [Row(what, *times, 3, f"moments differ by {error:.0e} of their norm", note, label(lm), limit(lm, texts), GOAL)]
    for other in () if quick else other_models():
        our_moments(other, texts[:BATCH])
        ours = repeated(partial(our_moments, other, texts), rounds=ROUNDS, clock=time.process_time)
        found.append(Row(what, ours, None, None, "", "", label(other), limit(other, texts), GOAL))
    return found


def limit(lm: LM, texts: Sequence[str], clock: Clock = time.process_time) -> float:
    """Seconds of the layers without the last down-projection, and of the products k k^T, which are symmetric.

    Both are taken at the rate that this machine multiplies with in the dtype that they are computed in.
    """
    found = find_limit(lm, layers=LAYERS[-1] + 1, clock=clock)
    work = needed((ids, len(ids)) for ids in (lm.encode(text).ids[:MAX_TOKENS] for text in texts))
    spared = work.tokens * operations(lm.architecture.down_projection(lm.model, LAYERS[-1])) / found.body
    keys = torch.randn(work.tokens, lm.model.config.intermediate_size, device=lm.device)
    keys.T @ keys
    product = min(seconds(lambda: keys.T @ keys, clock) for _ in range(ROUNDS))
    return found.seconds(work) - spared + len(LAYERS) * product / 2
