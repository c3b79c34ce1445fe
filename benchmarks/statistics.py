"""Second moments of three layers over encyclopaedia passages, beside one whole pass for each layer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

from torch import Tensor

import formless
from benchmarks.edit import relative
from benchmarks.evaluation import RWKU
from benchmarks.plain_statistics import plain_second_moment
from benchmarks.timing import Row, check, in_turns
from formless.data.corpus import corpus_texts
from formless.methods.rocr.statistics import CHUNK, SecondMoments
from formless.models.lm import LM

SAMPLE = Path(formless.__file__).parent / "data" / "sample"
LAYERS, BATCH, MAX_TOKENS, CLOSE, ROUNDS = (4, 5, 6), 8, 1024, 1e-5, 3


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
    lm = formless.load("smollm2", dtype="float32", device="cpu")
    texts = passages(4 if quick else 60)

    def plain() -> list[Tensor]:
        return [plain_second_moment(lm, texts, layer, batch=BATCH, max_tokens=MAX_TOKENS) for layer in LAYERS]

    moments = our_moments(lm, texts)
    error = max(relative(moments.mean(layer), expected) for layer, expected in zip(LAYERS, plain(), strict=True))
    check(error < CLOSE, f"the second moments differ by {error:.1e} of their norm")
    times = in_turns(lambda: our_moments(lm, texts), plain, rounds=1 if quick else ROUNDS, clock=time.process_time)
    what = f"statistics of 3 layers, {len(texts)} passages ({moments.tokens:,} tokens), CPU seconds"
    note = "one pass through 7 of 30 layers and no head; the layers themselves take it"
    return [Row(what, *times, 3, f"moments differ by {error:.0e} of their norm", note)]
