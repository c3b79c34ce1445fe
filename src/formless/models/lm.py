"""`LM`: one model with its tokenizer, scored exactly at token level."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from formless.errors import ModelError
from formless.models.architecture import Architecture
from formless.models.families import architecture_of
from formless.models.overlay import Overlay, Updates
from formless.models.settings import ModelSettings, PromptStyle, default_style

# Llama 3's template prints today's date unless it is told one; the same prompt must stand in every run.
TEMPLATE_ARGUMENTS: dict[str, Any] = {"enable_thinking": False, "date_string": "26 Jul 2024"}

# A shorter shared prefix costs more in a second forward pass than it saves.
WORTH_SHARING = 16


@dataclass(frozen=True)
class Encoded:
    """A prompt and its answer, tokenized as one text.

    Args:
        ids: Token ids.
        offsets: Character range of each token in the text; `(0, 0)` for added special tokens.
        answer_start: Index of the first token that holds a character of the answer.
    """

    ids: list[int]
    offsets: list[tuple[int, int]]
    answer_start: int


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
class Unscored:
    """An answer that has no score, and why."""

    reason: str


@dataclass
class LM:
    """A causal language model that methods edit and evaluations question.

    Args:
        model: The transformers model.
        tokenizer: Its fast tokenizer.
        name: As the user asked for it.
        settings: What configs/models says about it.
        token_budget: Padded tokens per scoring batch.
        fingerprint: Known beforehand, or else taken from the weights as they are.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    settings: ModelSettings
    token_budget: int = 4096
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

    def score(self, queries: Sequence[tuple[str, str]]) -> list[Score | Unscored]:
        """Score each answer given its prompt; an item's result does not depend on its batch.

        Returns:
            One entry per query, in order: `Unscored` where the answer has no token of its own, nothing stands before it,
            or the text is longer than the model's context.

        Raises:
            ModelError: The model gives NaN.
        """
        encoded = [self.encode(prompt, answer) for prompt, answer in queries]
        results: list[Score | Unscored] = [self._refusal(item) or Unscored("not scored") for item in encoded]
        groups = _alternatives([(i, item) for i, item in enumerate(encoded) if self._refusal(item) is None])
        for rows in batches([len(encoded[group[0]].ids) for group in groups], self.token_budget):
            logits = self._answer_logits([encoded[groups[row][0]] for row in rows])
            for row, answer_logits in zip(rows, logits, strict=True):
                for i in groups[row]:
                    results[i] = self._score(encoded[i], answer_logits)
        return results

    @torch.no_grad()
    def generate(self, prompts: Sequence[str], *, max_new_tokens: int = 30, one_line: bool = False) -> list[str]:
        """Greedy continuations, in order, without special tokens and surrounding white space.

        Args:
            prompts: What to continue.
            max_new_tokens: At most so many tokens each.
            one_line: Stop at the first newline.

        Raises:
            ModelError: A prompt is empty or leaves no room in the context.
        """
        encoded = [self.encode(prompt) for prompt in prompts]
        for item in encoded:
            if not 0 < len(item.ids) <= self.context_length - max_new_tokens:
                what = f"a prompt of {len(item.ids)} tokens cannot be continued by {max_new_tokens}"
                raise ModelError(what, where=self.name, remedy=f"the model's context is {self.context_length}")
        stops = self._end_ids + (self._newline_ids if one_line else [])
        results = [""] * len(prompts)
        for rows in batches([len(item.ids) + max_new_tokens for item in encoded], self.token_budget):
            batch = self.pad([encoded[row].ids for row in rows], side="left")
            output = cast(Any, self.model).generate(
                **batch, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1,
                repetition_penalty=1.0, no_repeat_ngram_size=0,  # some checkpoints ship others: greedy means greedy
                eos_token_id=stops or None, pad_token_id=self._pad_id,
            )  # fmt: skip
            texts = self.tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
            for row, text in zip(rows, texts, strict=True):
                results[row] = (text.split("\n")[0] if one_line else text).strip()
        return results

    def chat(self, message: str, *, max_new_tokens: int = 128) -> str:
        """The model's greedy answer to one user message."""
        return self.generate([self.chat_prompt(message)], max_new_tokens=max_new_tokens)[0]

    def pad(self, rows: Sequence[list[int]], *, side: str = "right") -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` `[batch, seq]` on the input device."""
        width = max(len(row) for row in rows)
        ids = torch.full((len(rows), width), self._pad_id)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for i, row in enumerate(rows):
            place = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
            ids[i, place] = torch.tensor(row)
            mask[i, place] = 1
        return {"input_ids": ids.to(self.device), "attention_mask": mask.to(self.device)}

    @torch.no_grad()
    def _answer_logits(self, items: Sequence[Encoded]) -> Iterator[Tensor]:
        """The logits that predict each item's answer, `[answer, vocab]`.

        What all items begin with is encoded once, and logits are computed where answers stand only.
        """
        shared = _shared_prefix(items)
        batch = self.pad([item.ids for item in items])
        # The token at position t is predicted by the logits at t - 1.
        wanted = sorted({t - 1 for item in items for t in range(item.answer_start, len(item.ids))})
        keep = torch.tensor(wanted) - shared  # on the CPU: it may index states on whatever device the last layer is
        rest: dict[str, Any] = {"input_ids": batch["input_ids"][:, shared:], "attention_mask": batch["attention_mask"]}
        if shared:
            rest[self._cache_argument] = self._encoded_prefix(items[0].ids[:shared], len(items))
        output = cast(Any, self.model)(**rest, use_cache=shared > 0, logits_to_keep=keep)
        column = {position: i for i, position in enumerate(wanted)}
        for row, item in enumerate(items):
            columns = [column[t - 1] for t in range(item.answer_start, len(item.ids))]
            yield output.logits[row, columns]

    def _score(self, item: Encoded, logits: Tensor) -> Score:
        """Score one answer by its logits `[answer, vocab]`."""
        ids = item.ids[item.answer_start :]
        answer = torch.tensor(ids, device=logits.device)
        log_probabilities = logits.float().log_softmax(-1)
        chosen = log_probabilities.gather(-1, answer[:, None])[:, 0]
        if not bool(chosen.isfinite().all()):
            raise ModelError("the model gives NaN or infinite scores", where=self.name, remedy="check its weights and dtype")
        greedy = (log_probabilities.argmax(-1) == answer).tolist()
        texts = self.tokenizer.batch_decode([[token] for token in ids])
        return Score(tuple(chosen.tolist()), tuple(greedy), tuple(texts))

    def _encoded_prefix(self, ids: list[int], rows: int) -> DynamicCache:
        """The keys and values of a prefix, for every row of a batch."""
        cache = DynamicCache(config=self.model.config)
        arguments: dict[str, Any] = self.pad([ids]) | {self._cache_argument: cache}
        self.model(**arguments, use_cache=True, logits_to_keep=1)
        cache.batch_repeat_interleave(rows)
        return cache

    def _refusal(self, item: Encoded) -> Unscored | None:
        if item.answer_start >= len(item.ids):
            return Unscored("the answer has no token")
        if item.answer_start == 0:
            return Unscored("nothing stands before the answer")
        if len(item.ids) > self.context_length:
            return Unscored(f"{len(item.ids)} tokens are more than the model's {self.context_length}")
        return None

    @cached_property
    def _cache_argument(self) -> str:
        """How the model's forward names its key/value cache; transformers renames it during 5.x."""
        return "cache" if "cache" in inspect.signature(self.model.forward).parameters else "past_key_values"

    @cached_property
    def _prefix(self) -> list[int]:
        """The special tokens that the tokenizer puts before a text (BOS); a template may have written them already."""
        bare = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        whole = cast(list[int], self.tokenizer("a")["input_ids"])
        return whole[: whole.index(cast(list[int], bare)[0])]

    @cached_property
    def _newline_ids(self) -> list[int]:
        """Every token whose text holds a newline."""
        texts = self.tokenizer.batch_decode([[i] for i in range(len(self.tokenizer))])
        return [i for i, text in enumerate(texts) if "\n" in text]

    @property
    def _end_ids(self) -> list[int]:
        ids = self.model.generation_config.eos_token_id if self.model.generation_config else None
        found = ids if isinstance(ids, list) else [ids, self.tokenizer.eos_token_id]
        return sorted({i for i in found if i is not None})

    @property
    def _pad_id(self) -> int:
        return next((i for i in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id) if i is not None), 0)


def batches(lengths: Sequence[int], token_budget: int) -> Iterator[list[int]]:
    """Indices grouped by length, longest first, each group within a budget of padded tokens (or a single item)."""
    group: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if group and lengths[group[0]] * (len(group) + 1) > token_budget:
            yield group
            group = []
        group.append(i)
    if group:
        yield group


def _alternatives(items: Sequence[tuple[int, Encoded]]) -> list[list[int]]:
    """Indices grouped so that one forward pass serves a group: one-token answers to one and the same prompt."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, item in items:
        one_token = item.answer_start == len(item.ids) - 1
        groups.setdefault(tuple(item.ids[:-1]) if one_token else (-1, i), []).append(i)
    return list(groups.values())


def _shared_prefix(items: Sequence[Encoded]) -> int:
    """How many tokens all items begin with, short of any token whose logits are wanted; 0 where sharing gains nothing."""
    limit = min(item.answer_start for item in items) - 1
    first, last = min(items, key=lambda item: item.ids).ids, max(items, key=lambda item: item.ids).ids
    shared = next((i for i in range(limit) if first[i] != last[i]), limit)
    return shared if len(items) > 1 and shared >= WORTH_SHARING else 0


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
