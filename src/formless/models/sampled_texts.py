"""Texts that a model samples: a corpus for a model of which no other is at hand."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from formless.errors import UserError
from formless.models.generation import SEEDS_APART, continuations
from formless.models.scores import Ending
from formless.models.tokenized import TokenizedModel

SAMPLED = "sampled"
LENGTH = 128
"""Most tokens that a text is continued by."""

TOGETHER = 64
"""Texts that are sampled at a time."""

OPENINGS = (
    "The", "In", "A", "It", "This", "I", "As", "When", "There", "He", "For", "We", "On", "She", "If", "At",
    "They", "After", "To", "By", "You", "One", "With", "From", "Most", "How", "During", "His", "Some", "What", "My", "Not",
)  # fmt: skip
"""Where the texts of a model begin, in turn, if its tokenizer adds no BOS token."""


def sampled_seed(corpus: str) -> int | None:
    """Return the seed in the name of a sampled corpus, `sampled` or `sampled:SEED`; None for the name of any other corpus.

    Raises:
        UserError: The seed is no whole number from 0 to 4,294,967,295.
    """
    name, colon, seed = corpus.partition(":")
    if name != SAMPLED:
        return None
    if colon and not (seed.isascii() and seed.isdigit() and len(seed) <= 10 and int(seed) < 2**32):
        remedy = f"write {SAMPLED}, or {SAMPLED}:1 with a whole number from 0 to 4,294,967,295"
        raise UserError(f"{seed[:100]!r} is no seed", where=corpus[:100], remedy=remedy)
    return int(seed or 0)


class SampledTexts:
    """The texts of a sampled corpus, without end: drawn at temperature 1 from the BOS token, or from `OPENINGS` without one.

    On one machine, a text depends on the model, the seed, its number and the maximum length alone.

    Args:
        lm: The model.
        seed: Seed of the sampling.
        max_tokens: Most tokens that a text is continued by; at most `LENGTH`.
    """

    def __init__(self, lm: TokenizedModel, seed: int = 0, max_tokens: int = LENGTH) -> None:
        self.corpus = f"{SAMPLED}:{seed}"
        self._lm, self._seed, self._next = lm, seed, 0
        self._ready: deque[str] = deque()
        self._openings = ("",) if lm.encode("").ids else OPENINGS
        longest = max(len(lm.encode(opening).ids) for opening in self._openings)
        self.max_tokens = min(max_tokens, LENGTH, lm.context_length - longest)

    def __iter__(self) -> SampledTexts:
        return self

    def __next__(self) -> str:
        if not self._ready:
            self._ready.extend(self._sampled(range(self._next, self._next + TOGETHER)))
            self._next += TOGETHER
        return self._ready.popleft()

    def skip_to(self, number: int) -> None:
        """Go on with the text of that number, without sampling those before it."""
        self._ready.clear()
        self._next = number

    def _sampled(self, numbers: range) -> list[str]:
        generators = [torch.Generator().manual_seed(self._seed * SEEDS_APART + number) for number in numbers]

        def choose(logits: Tensor, rows: Sequence[int]) -> Tensor:
            # One uniform number per token: torch.multinomial and a sort of a large vocabulary take longer than the model.
            sums = logits.float().softmax(-1).cumsum(-1)  # [rows, vocab]
            draws = torch.cat([torch.rand(1, generator=generators[row]) for row in rows])[:, None].to(sums)
            return torch.searchsorted(sums, draws * sums[:, -1:])[:, 0]

        openings = [self._openings[number % len(self._openings)] for number in numbers]
        continued = continuations(self._lm, openings, [Ending(self.max_tokens)] * len(openings), choose=choose)
        return [opening + one.text for opening, one in zip(openings, continued, strict=True)]
