"""`LM`: one model with its tokenizer, scored exactly at token level."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from formless.errors import ModelError
from formless.models import generation, scoring
from formless.models.architecture import Architecture
from formless.models.batching import Progress, first_budget
from formless.models.families import architecture_of
from formless.models.overlay import Overlay, Updates
from formless.models.scoring import Encoded, Score, TextScore, Unscored
from formless.models.settings import ModelSettings, PromptStyle, default_style

# Llama 3's template prints today's date unless it is told one; the same prompt must stand in every run.
TEMPLATE_ARGUMENTS: dict[str, Any] = {"enable_thinking": False, "date_string": "26 Jul 2024"}


@dataclass
class LM:
    """A causal language model that methods edit and evaluations question.

    Args:
        model: The transformers model.
        tokenizer: Its fast tokenizer.
        name: As the user asked for it.
        settings: What configs/models says about it.
        token_budget: Padded tokens per batch; found by the free memory unless given, and halved when memory runs out.
        fingerprint: Known beforehand, or else taken from the weights as they are.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    settings: ModelSettings
    token_budget: int = 0
    fingerprint: str = ""
    architecture: Architecture = field(init=False)
    style: PromptStyle = field(init=False)
    overlay: Overlay = field(init=False, repr=False)
    edits: list[dict[str, Any]] = field(init=False, repr=False, default_factory=list)

    def __post_init__(self) -> None:
        """Find the family, the prompt style and the fingerprint of the untouched weights."""
        if not self.tokenizer.is_fast:
            raise ModelError("the tokenizer gives no character offsets", where=self.name, remedy="use a fast tokenizer")
        self.architecture = architecture_of(self.model.config)
        self.style = self.settings.prompt or default_style(str(self.model.config.model_type))
        self.overlay = Overlay(self.model)
        self.fingerprint = self.fingerprint or fingerprint(self.model)
        self.token_budget = self.token_budget or first_budget(self.model, self.device, len(self.tokenizer))
        self.model.eval()

    @property
    def device(self) -> torch.device:
        """Where inputs go: the device of the embedding."""
        return cast(Tensor, self.model.get_input_embeddings().weight).device

    @property
    def context_length(self) -> int:
        """The longest input in tokens."""
        return int(getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or 2**31)

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

    def chat_prompt(self, message: str, cue: str = "") -> str:
        """One user message through the chat template with the generation prompt, then the answer cue.

        A model without a chat template gets the message and the cue as plain text.
        """
        if self.tokenizer.chat_template is None:
            return message + cue
        conversation = [{"role": "user", "content": message}]
        text = self.tokenizer.apply_chat_template(
            conversation, tokenize=False, add_generation_prompt=True, **TEMPLATE_ARGUMENTS
        )
        return cast(str, text) + cue

    def encode(self, prompt: str, answer: str = "") -> Encoded:
        """Tokenize prompt and answer as one text, with one BOS where the model has one.

        A token that spans the boundary counts as the answer's.
        """
        encoding = self.tokenizer(prompt + answer, add_special_tokens=False, return_offsets_mapping=True)
        ids = cast(list[int], encoding["input_ids"])
        offsets = [cast(tuple[int, int], tuple(pair)) for pair in encoding["offset_mapping"]]
        start = next((i for i, (_, end) in enumerate(offsets) if end > len(prompt)), len(ids))
        prefix = [] if ids[: len(self._prefix)] == self._prefix else self._prefix
        return Encoded(prefix + ids, [(0, 0)] * len(prefix) + offsets, start + len(prefix))

    def score(self, queries: Sequence[tuple[str, str]], *, progress: Progress | None = None) -> list[Score | Unscored]:
        """Score each answer given its prompt; an item's result does not depend on its batch.

        What prompts begin with alike is encoded once, one-token answers to one prompt share a pass, and logits are computed
        where answers stand only.

        Args:
            queries: Prompts and answers.
            progress: Called with the queries done and all queries.

        Returns:
            One entry per query, in order: `Unscored` where the answer has no token of its own, nothing stands before it,
            or the text is longer than the model's context.

        Raises:
            ModelError: The model gives NaN, or memory runs out for a single text.
        """
        return scoring.score(self, queries, progress)

    def score_texts(self, texts: Sequence[str], *, progress: Progress | None = None) -> list[TextScore | Unscored]:
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

    def pad(self, rows: Sequence[list[int]], *, side: str = "right", after: int = 0) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` `[batch, seq]` on the input device.

        Args:
            rows: Token ids.
            side: Where the padding stands.
            after: So many tokens that all rows share stay on the left; padding on the left follows them.
        """
        width = max(len(row) for row in rows)
        ids = torch.full((len(rows), width), self.pad_id)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for i, row in enumerate(rows):
            places = list(range(len(row)))
            if side == "left":
                places = [*range(after), *range(width - len(row) + after, width)]
            ids[i, places] = torch.tensor(row)
            mask[i, places] = 1
        return {"input_ids": ids.to(self.device), "attention_mask": mask.to(self.device)}

    @cached_property
    def cache_argument(self) -> str:
        """How the model's forward names its key/value cache; transformers renames it during 5.x."""
        return "cache" if "cache" in inspect.signature(self.model.forward).parameters else "past_key_values"

    @cached_property
    def _prefix(self) -> list[int]:
        """The special tokens that the tokenizer puts before a text (BOS); a template may have written them already."""
        bare = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        whole = cast(list[int], self.tokenizer("a")["input_ids"])
        return whole[: whole.index(cast(list[int], bare)[0])]

    @cached_property
    def newline_ids(self) -> list[int]:
        """Every token whose text holds a newline."""
        texts = self.tokenizer.batch_decode([[i] for i in range(len(self.tokenizer))])
        return [i for i, text in enumerate(texts) if "\n" in text]

    @property
    def end_ids(self) -> list[int]:
        """The tokens that end a text."""
        ids = self.model.generation_config.eos_token_id if self.model.generation_config else None
        found = ids if isinstance(ids, list) else [ids, self.tokenizer.eos_token_id]
        return sorted({i for i in found if i is not None})

    @property
    def pad_id(self) -> int:
        """What padding holds."""
        return next((i for i in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id) if i is not None), 0)


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
