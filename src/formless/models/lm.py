"""`LM`: a causal language model with its tokenizer, scored exactly at token level."""

from __future__ import annotations

import copy
import hashlib
import html
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from formless.interrupts import uninterrupted
from formless.models import generation, gradients, layers, scoring, suffix_search
from formless.models.families import Architecture, architecture_of
from formless.models.generation import Continuation
from formless.models.overlay import Overlay, Updates
from formless.models.quantized import dtype_name, prepare_packed
from formless.models.reading.fingerprint import fingerprint
from formless.models.reading.memory import WeightsPlace
from formless.models.reading.partial import absent_layers
from formless.models.scores import Ending, FoundSuffix, Score, Skipped, SuffixBudget, TextScore
from formless.models.settings import ModelSettings, PromptStyle, default_style
from formless.models.tokenized import TokenizedModel
from formless.progress import WorkProgress

OPEN_UNLEARNING_DATE = "10 Apr 2025"
"""The date in the prompts of its configurations of Llama 3."""


@dataclass(repr=False)
class LM(TokenizedModel):
    """A causal language model that methods edit and evaluations question.

    Args:
        model: The transformers model.
        tokenizer: Its fast tokenizer.
        name: The model's name as the user gave it.
        token_budget: Padded tokens per batch; by default it depends on the free memory. It is halved when memory runs out.
        settings: The model's entry in configs/models.
        fingerprint: The hash of the original weights; by default it is computed from the weights as they are.
        checkpoint: The folder of the files that the model was read from; None if it is not known.
        loaded_layers: How many layers, from the first on, are in memory; None if it is the whole model.
        weights_in: Where the weights lay when they were loaded, in memory or in a mapped file; None if it is not known.

    Examples:
        >>> import formless
        >>> lm = formless.load("smollm2", progress=False)
        >>> lm.score([("The capital of France is", " Paris")])[0].probability > 0.3
        True
    """

    settings: ModelSettings = field(kw_only=True)
    fingerprint: str = field(default="", kw_only=True)
    checkpoint: Path | None = field(default=None, kw_only=True)
    loaded_layers: int | None = field(default=None, kw_only=True)
    weights_in: WeightsPlace | None = field(default=None, kw_only=True)
    architecture: Architecture = field(init=False)
    style: PromptStyle = field(init=False)
    overlay: Overlay = field(init=False, repr=False)
    edits: list[dict[str, Any]] = field(init=False, repr=False, default_factory=list)

    def __post_init__(self) -> None:
        """Look up the family and the prompt format, and compute the fingerprint of the original weights."""
        super().__post_init__()
        self.architecture = architecture_of(self.model.config)
        self.style = self.settings.prompt or default_style(str(self.model.config.model_type))
        prepare_packed(self.model)
        self.overlay = Overlay(self.model)
        self.fingerprint = self.fingerprint or fingerprint(self.model, self.checkpoint)

    def __repr__(self) -> str:
        return f"LM({', '.join(f'{name}={value}' for name, value in self._facts().items())})"

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{name}</th><td>{html.escape(value)}</td></tr>" for name, value in self._facts().items())
        return f"<table>{rows}</table>"

    def _facts(self) -> dict[str, str]:
        """Return what a reader of a notebook wants to know about the model."""
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        depth = self.architecture.depth(self.model)
        return {
            "name": self.name,
            "family": f"{self.architecture.name} ({self.model.config.model_type})",
            "parameters": f"{parameters / 1e6:,.1f} M",
            "dtype": self.dtype_name,
            "device": f"{self.device}, mapped" if self.weights_in == "mapped" else str(self.device),
            "layers": str(depth) if self.loaded_layers is None else f"the first {self.loaded_layers} of {depth}",
            "edits": ", ".join(_edit_name(info) for info in self.edits) or "none",
        }

    @property
    def dtype_name(self) -> str:
        """The dtype of the model's floats, e.g. "float32"; of a quantized model also how it is quantized."""
        return dtype_name(self.model)

    @property
    def template_arguments(self) -> dict[str, Any]:
        """As of every tokenized model, with the date that open-unlearning gives where its protocol is chosen."""
        dated = {"date_string": OPEN_UNLEARNING_DATE} if self.style.protocol == "open-unlearning" else {}
        return super().template_arguments | dated

    @cached_property
    def setup_hash(self) -> str:
        """A hash of what changes results beside the weights: the configuration and the tokenizer."""
        free = ("_name_or_path", "transformers_version", "dtype", "architectures")
        config = {name: value for name, value in self.model.config.to_dict().items() if name not in free}
        if (backend := getattr(self.tokenizer, "backend_tokenizer", None)) is not None:
            state = backend.to_str()
            tokens = state[state.find('"added_tokens"') :]  # padding and truncation, before it, change at each call
        else:
            tokens = json.dumps(self.tokenizer.get_vocab(), sort_keys=True)
        parts = json.dumps([config, self.tokenizer.special_tokens_map], sort_keys=True, default=str)
        return hashlib.sha256((parts + tokens).encode("utf-8", "surrogatepass")).hexdigest()

    def check_layers(self, needed: int | None) -> None:
        """Refuse work that needs more layers than are in memory.

        Args:
            needed: How many layers, from the first on; None for the whole model.

        Raises:
            ModelError: They are not all in memory.
        """
        if self.loaded_layers is not None and (needed is None or needed > self.loaded_layers):
            raise absent_layers(self.loaded_layers, self.architecture.depth(self.model), self.name)

    @contextmanager
    def overlaid(self, updates: Updates, info: dict[str, Any]) -> Iterator[LM]:
        """Apply updates to the weights; leaving the block restores the weights bit for bit.

        Args:
            updates: Low-rank factors by module name, or differences by parameter name.
            info: A description of the updates, which records of evaluations inside the block contain (`edits`).
        """
        is_applied = False
        try:
            with uninterrupted():
                self.overlay.add(updates)
                is_applied = True
                self.edits.append(info)
            yield self
        finally:
            if is_applied:
                with uninterrupted():
                    self.edits[:] = [applied for applied in self.edits if applied is not info]
                    self.overlay.remove(updates)

    @contextmanager
    def prefixed(self, prefix: str, info: dict[str, Any]) -> Iterator[LM]:
        """Put a text before every user message that `chat_prompt` renders, until the block is left.

        Args:
            prefix: The text.
            info: As in `overlaid`.
        """
        is_applied = False
        try:
            with uninterrupted():
                self.prefixes = (prefix, *self.prefixes)
                is_applied = True
                self.edits.append(info)
            yield self
        finally:
            if is_applied:
                with uninterrupted():
                    self.edits[:] = [applied for applied in self.edits if applied is not info]
                    left = list(self.prefixes)
                    left.remove(prefix)
                    self.prefixes = tuple(left)

    @property
    def unprefixed(self) -> LM:
        """The same model without the prefixes of prompt edits, for prompts as they are."""
        bare = copy.copy(self)
        bare.prefixes = ()
        return bare

    def score(self, queries: Sequence[tuple[str, str]], *, progress: WorkProgress | None = None) -> list[Score | Skipped]:
        """Score each answer given its prompt; an item's result does not depend on its batch.

        Common prefixes of prompts are encoded once, one-token answers to the same prompt share a forward pass, and logits are
        computed at the answers' positions only.

        Args:
            queries: Prompts and answers.
            progress: Called with the queries done and all queries.

        Returns:
            One entry per query, in order: `Skipped` if the answer has no token of its own, no token precedes it, or the text is
            longer than the model's context.

        Raises:
            ModelError: The model gives NaN, or memory runs out for a single text.
        """
        return scoring.score(self, queries, progress)

    def score_texts(
        self, texts: Sequence[str], *, prompts: Sequence[str] | None = None, progress: WorkProgress | None = None
    ) -> list[TextScore | Skipped]:
        """Score every token of texts: after a prompt, all; without one, from the second on (from the first with a BOS token).

        Texts are truncated to the model's context.

        Args:
            texts: The texts.
            prompts: What precedes each text; empty prompts unless given.
            progress: Called with the texts done and all texts.

        Returns:
            One entry per text, in order: `Skipped` if the text has no token to score.

        Raises:
            ModelError: The model gives NaN, or memory runs out for a single text.
        """
        return scoring.score_texts(self, texts, prompts, progress)

    def gradient_norms(
        self,
        texts: Sequence[str],
        *,
        prompts: Sequence[str] | None = None,
        p: float = 2.0,
        left_out: tuple[int, int] = (0, 0),
        progress: WorkProgress | None = None,
    ) -> list[float | Skipped]:
        """Return the norm of the gradient of each text's loss with respect to the parameters, as OpenUnlearning computes it.

        The loss is the mean negative log-probability of the tokens that `score_texts` scores. The norm is the mean over
        parameter tensors of the p-norm of each one's gradient; tied weights are one tensor. Texts are computed one by one.
        Beside the model, memory holds the text's activations in every layer and the gradient of one parameter at a time.
        The model is unchanged afterwards. Applied edits take part, since they are in the weights.

        Args:
            texts: The texts.
            prompts: As in `score_texts`.
            p: 1, 2 or infinity.
            left_out: How many tokens of each text, first ones and last ones, do not count.
            progress: Called with the texts done and all texts.

        Returns:
            One entry per text, in order: `Skipped` if the text has no token to score, or its gradient is not finite.

        Raises:
            ValueError: p is another number.
            ModelError: A weight is quantized or offloaded, or memory runs out for a single text.
        """
        self.check_layers(None)
        return gradients.gradient_norms(self, texts, prompts, p, left_out, progress)

    def score_layers(
        self, queries: Sequence[tuple[str, str]], *, progress: WorkProgress | None = None
    ) -> list[tuple[Score, ...] | Skipped]:
        """Score each answer from the output of every layer, as if it were the last one (logit lens).

        The output goes through the final norm and the output embedding; that of the last layer gives what `score` gives.

        Args:
            queries: Prompts and answers.
            progress: Called with the queries done and all queries.

        Returns:
            One score for each layer, from the first on, of each query; `Skipped` as for `score`.

        Raises:
            UserError: The family's row does not name the final norm.
            ModelError: The model gives NaN, or memory runs out for a single text.
        """
        return layers.score_layers(self, queries, progress)

    def read_layers(self, texts: Sequence[str], *, progress: WorkProgress | None = None) -> list[NDArray[np.float32] | Skipped]:
        """Return the output of every layer at the last token of each text, `[layers, hidden]`.

        Args:
            texts: The texts.
            progress: Called with the texts done and all texts.

        Returns:
            One entry per text, in order: `Skipped` if the text has no token or is longer than the model's context.

        Raises:
            ModelError: The model gives NaN, or memory runs out for a single text.
        """
        return layers.read_layers(self, texts, progress)

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int = 30,
        one_line: bool = False,
        until: re.Pattern[str] | None = None,
        endings: Sequence[Ending] | None = None,
        progress: WorkProgress | None = None,
    ) -> list[str]:
        """Return greedy continuations, in order, without special tokens and surrounding white space.

        Args:
            prompts: The prompts to continue.
            max_new_tokens: The most tokens of a continuation.
            one_line: Stop at the first newline.
            until: Stop a continuation once it matches.
            endings: The three for each prompt, where they differ.
            progress: Called with the prompts done and all prompts.

        Raises:
            ModelError: A prompt is empty or too long for the context, or memory runs out for a single text.
        """
        ends = endings or [Ending(max_new_tokens, one_line, until)] * len(prompts)
        found = generation.continuations(self, prompts, ends, progress=progress)
        return [one.text.strip() for one in found]

    def sample(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        seed: int,
        temperature: float = 0.8,
        top_p: float = 0.95,
        one_line: bool = False,
        progress: WorkProgress | None = None,
    ) -> list[str]:
        """Return sampled continuations, in order, without special tokens.

        The same seed, place in the list and prompt give the same continuation on one machine, whatever the other prompts are.

        Args:
            prompts: The prompts to continue.
            max_new_tokens: The most tokens of a continuation.
            seed: Seed of the sampling.
            temperature: Divisor of the logits.
            top_p: Sample from the most probable tokens that together have this probability.
            one_line: End a continuation at its first newline.
            progress: Called with the prompts done and all prompts.

        Raises:
            ModelError: As for `generate`.
        """
        return generation.sample(
            self, prompts, max_new_tokens=max_new_tokens, seed=seed, temperature=temperature, top_p=top_p, one_line=one_line,
            progress=progress,
        )  # fmt: skip

    def search_suffix(
        self, prompt: str, suffix: str, target: str, budget: SuffixBudget, *, progress: WorkProgress | None = None
    ) -> FoundSuffix | Skipped:
        """Search a suffix after which the target becomes the probable continuation (GCG); the same model finds the same.

        Args:
            prompt: A prompt that holds the first suffix; its last mention is replaced.
            suffix: The first suffix; the found one has as many tokens.
            target: What the continuation is to begin with.
            budget: How long to search.
            progress: Called with the steps done and all steps.

        Returns:
            The suffix with the lowest loss of all that were scored; `Skipped` as for `score`.

        Raises:
            ValueError: The prompt does not hold the suffix.
            ModelError: The model gives NaN, or memory runs out for a single text.
        """
        return suffix_search.search_suffix(self, prompt, suffix, target, budget, progress)

    def chat(self, message: str, *, max_new_tokens: int = 128) -> str:
        """Return the model's greedy answer to one user message."""
        return self.reply(message, max_new_tokens=max_new_tokens).text

    def reply(
        self, message: str, *, earlier: Sequence[str] = (), system: str | None = None, max_new_tokens: int = 128
    ) -> Continuation:
        """Return the model's greedy answer in a conversation, and whether it was cut at `max_new_tokens`.

        Args:
            message: The user message.
            earlier: The messages before, of the user and the assistant in turn.
            system: The system prompt, for a model with `has_system_role`.
            max_new_tokens: The most tokens of the answer.

        Raises:
            ModelError: The conversation is too long for the context, or the chat template fails.
        """
        prompt = self.chat_prompt(message, earlier=earlier, system=system)
        (found,) = generation.continuations(self, [prompt], [Ending(max_new_tokens)])
        return replace(found, text=found.text.strip())


def _edit_name(info: dict[str, Any]) -> str:
    return ": ".join(str(info[key]) for key in ("method", "subject") if key in info) or "unnamed edit"
