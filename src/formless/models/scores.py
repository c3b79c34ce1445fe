"""What a model is asked for and what it gives, beside the texts: plain data, importable without torch."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """The score of an answer given its prompt.

    Args:
        log_probabilities: Log-probability of each answer token given all tokens before it (nats).
        greedy: Whether each answer token is the most probable one.
        tokens: The text of each answer token.
    """

    log_probabilities: tuple[float, ...]
    greedy: tuple[bool, ...]
    tokens: tuple[str, ...] = ()

    @property
    def log_probability(self) -> float:
        """Log-probability of the whole answer (nats): the sum over its tokens."""
        return math.fsum(self.log_probabilities)

    @property
    def probability(self) -> float:
        """The geometric mean of the token probabilities, in [0, 1]."""
        return math.exp(sum(self.log_probabilities) / len(self.log_probabilities))

    @property
    def token_accuracy(self) -> float:
        """The share of answer tokens that greedy decoding would choose."""
        return sum(self.greedy) / len(self.greedy)

    def without_blanks(self) -> Score:
        """Return the score without white-space tokens, which need no knowledge; unchanged if there are no other tokens."""
        kept = [i for i, text in enumerate(self.tokens) if text.strip()] or list(range(len(self.tokens)))
        pick = [(self.log_probabilities[i], self.greedy[i], self.tokens[i]) for i in kept]
        return Score(*zip(*pick, strict=True))


@dataclass(frozen=True)
class TextScore:
    """The score of a text, for each token from the second on.

    Args:
        log_probabilities: Log-probability of each token given all tokens before it (nats).
        means: Expected log-probability under the model's distribution at that position, the negative entropy (nats).
        deviations: Standard deviation of the log-probability under that distribution (nats).
    """

    log_probabilities: tuple[float, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...]


@dataclass(frozen=True)
class Ending:
    """Where a continuation ends, if not by itself.

    Args:
        max_new_tokens: The most tokens.
        one_line: Whether it ends at its first newline.
        until: It ends once it matches.
    """

    max_new_tokens: int
    one_line: bool = False
    until: re.Pattern[str] | None = None


@dataclass(frozen=True)
class SuffixBudget:
    """How long a suffix is searched.

    Args:
        steps: Number of steps, each with one gradient.
        candidates: Suffixes that are scored in each step.
        top: Tokens with the steepest gradients from which each position draws.
        seed: Of the draws.
    """

    steps: int
    candidates: int
    top: int
    seed: int = 0


@dataclass(frozen=True)
class FoundSuffix:
    """A suffix of a user message that a search found.

    Args:
        text: The suffix.
        first_loss: Mean negative log-probability of a token of the target after the first suffix (nats).
        loss: The same after the found suffix.
        tokens: Tokens of all texts that went through the model in the search.
        answer: What the model writes after the suffix.
    """

    text: str
    first_loss: float
    loss: float
    tokens: int
    answer: str = ""


@dataclass(frozen=True)
class Skipped:
    """An item that has no score.

    Args:
        reason: Why it was skipped.
    """

    reason: str
