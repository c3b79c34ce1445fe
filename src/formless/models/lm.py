"""`LM`: one model with its tokenizer, scored exactly at token level."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel

from formless.models import generation, scoring
from formless.models.architecture import Architecture
from formless.models.batching import Progress
from formless.models.families import architecture_of
from formless.models.overlay import Overlay, Updates
from formless.models.reader import Reader
from formless.models.scores import Score, Skipped, TextScore
from formless.models.settings import ModelSettings, PromptStyle, default_style


@dataclass
class LM(Reader):
    """A causal language model that methods edit and evaluations question.

    Args:
        model: The transformers model.
        tokenizer: Its fast tokenizer.
        name: As the user asked for it.
        token_budget: Padded tokens per batch; found by the free memory unless given, and halved when memory runs out.
        settings: What configs/models says about it.
        fingerprint: Known beforehand, or else taken from the weights as they are.
    """

    settings: ModelSettings = field(kw_only=True)
    fingerprint: str = field(default="", kw_only=True)
    architecture: Architecture = field(init=False)
    style: PromptStyle = field(init=False)
    overlay: Overlay = field(init=False, repr=False)
    edits: list[dict[str, Any]] = field(init=False, repr=False, default_factory=list)

    def __post_init__(self) -> None:
        """Find the family, the prompt style and the fingerprint of the untouched weights."""
        super().__post_init__()
        self.architecture = architecture_of(self.model.config)
        self.style = self.settings.prompt or default_style(str(self.model.config.model_type))
        self.overlay = Overlay(self.model)
        self.fingerprint = self.fingerprint or fingerprint(self.model)

    @contextmanager
    def overlaid(self, updates: Updates, info: dict[str, Any]) -> Iterator[LM]:
        """The model with low-rank updates on its weights; leaving the block takes them off bit for bit.

        Args:
            updates: By module name.
            info: What they are, for the records of evaluations made meanwhile (`edits`).
        """
        self.overlay.add(updates)
        self.edits.append(info)
        try:
            yield self
        finally:
            self.edits[:] = [active for active in self.edits if active is not info]
            self.overlay.remove(updates)

    @contextmanager
    def prefixed(self, prefix: str, info: dict[str, Any]) -> Iterator[LM]:
        """The model with a text before every user message that `chat_prompt` renders; leaving the block takes it off.

        Args:
            prefix: The text.
            info: As in `overlaid`.
        """
        self.prefixes = (prefix, *self.prefixes)
        self.edits.append(info)
        try:
            yield self
        finally:
            self.edits[:] = [active for active in self.edits if active is not info]
            left = list(self.prefixes)
            left.remove(prefix)
            self.prefixes = tuple(left)

    @property
    def unprefixed(self) -> LM:
        """The same model without what edits put before its messages: the prompts as they are asked."""
        bare = copy.copy(self)
        bare.prefixes = ()
        return bare

    def score(self, queries: Sequence[tuple[str, str]], *, progress: Progress | None = None) -> list[Score | Skipped]:
        """Score each answer given its prompt; an item's result does not depend on its batch.

        What prompts begin with alike is encoded once, one-token answers to one prompt share a pass, and logits are computed
        where answers stand only.

        Args:
            queries: Prompts and answers.
            progress: Called with the queries done and all queries.

        Returns:
            One entry per query, in order: `Skipped` where the answer has no token of its own, nothing stands before it,
            or the text is longer than the model's context.

        Raises:
            ModelError: The model gives NaN, or memory runs out for a single text.
        """
        return scoring.score(self, queries, progress)

    def score_texts(self, texts: Sequence[str], *, progress: Progress | None = None) -> list[TextScore | Skipped]:
        """Score every token of plain texts from the second on (the first where the model has a BOS), cut at the context.

        Raises:
            ModelError: The model gives NaN, or memory runs out for a single text.
        """
        return scoring.score_texts(self, texts, progress)

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int = 30,
        one_line: bool = False,
        until: re.Pattern[str] | None = None,
        progress: Progress | None = None,
    ) -> list[str]:
        """Greedy continuations, in order, without special tokens and surrounding white space.

        Args:
            prompts: What to continue.
            max_new_tokens: At most so many tokens each.
            one_line: Stop at the first newline.
            until: Stop a text once it matches.
            progress: Called with the prompts done and all prompts.

        Raises:
            ModelError: A prompt is empty or leaves no room in the context, or memory runs out for a single text.
        """
        texts = generation.generate(
            self, prompts, max_new_tokens=max_new_tokens, one_line=one_line, until=until, progress=progress
        )
        return [text.strip() for text in texts]

    def sample(
        self, prompts: Sequence[str], *, max_new_tokens: int, seed: int, temperature: float = 0.8, top_p: float = 0.95
    ) -> list[str]:
        """Sampled continuations, in order, without special tokens; the same for one seed, prompts and machine.

        Raises:
            ModelError: As `generate`.
        """
        return generation.sample(self, prompts, max_new_tokens=max_new_tokens, seed=seed, temperature=temperature, top_p=top_p)

    def chat(self, message: str, *, max_new_tokens: int = 128) -> str:
        """The model's greedy answer to one user message."""
        return self.generate([self.chat_prompt(message)], max_new_tokens=max_new_tokens)[0]


def fingerprint(model: PreTrainedModel) -> str:
    """A hash over 64 evenly spaced values of every parameter, in bfloat16: the same for float32 and bfloat16 weights.

    Offloaded parameters are left out, so that a model with some is known as another one.
    """
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            continue
        flat = parameter.detach().flatten()
        sample = flat[:: max(1, flat.numel() // 64)][:64].to(torch.bfloat16).float().cpu()
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()[:16]
