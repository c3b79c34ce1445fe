"""What a model gives for an answer or a text: plain data, without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """How a model takes to an answer.

    Args:
        log_probabilities: Of each answer token given all before it (nats).
        greedy: For each answer token, whether it is the most probable one.
        tokens: The text of each answer token.
    """

    log_probabilities: tuple[float, ...]
    greedy: tuple[bool, ...]
    tokens: tuple[str, ...] = ()

    @property
    def log_probability(self) -> float:
        """Of the whole answer (nats): the sum over its tokens."""
        return math.fsum(self.log_probabilities)

    @property
    def probability(self) -> float:
        """exp(mean log-probability of the answer's tokens), in [0, 1]."""
        return math.exp(sum(self.log_probabilities) / len(self.log_probabilities))

    @property
    def token_accuracy(self) -> float:
        """The share of answer tokens that greedy decoding would choose."""
        return sum(self.greedy) / len(self.greedy)

    def without_blanks(self) -> Score:
        """The same without tokens of white space alone, which need no knowledge; unchanged where there is nothing else."""
        kept = [i for i, text in enumerate(self.tokens) if text.strip()] or list(range(len(self.tokens)))
        pick = [(self.log_probabilities[i], self.greedy[i], self.tokens[i]) for i in kept]
        return Score(*zip(*pick, strict=True))


@dataclass(frozen=True)
class TextScore:
    """How a model takes to a text, token by token from the second on.

    Args:
        log_probabilities: Of each token given all before it (nats).
        means: Expected log-probability under the model's own distribution at that place (minus its entropy, nats).
        deviations: Standard deviation of the log-probability under that distribution (nats).
    """

    log_probabilities: tuple[float, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...]


@dataclass(frozen=True)
class Skipped:
    """An answer that has no score, and why."""

    reason: str
