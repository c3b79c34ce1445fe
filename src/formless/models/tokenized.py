"""`TokenizedModel`: a model with its tokenizer, for prompts, token ids and padded batches."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from formless.errors import ModelError
from formless.models.families import projection_shape
from formless.models.quantized import is_packed
from formless.models.weights import execution_device

# Llama 3's chat template prints today's date unless one is given; prompts must be the same in every run.
TEMPLATE_ARGUMENTS: dict[str, Any] = {"enable_thinking": False, "date_string": "26 Jul 2024"}

_TEMPLATE_REMEDY = "use the chat template of the model's publisher"

CPU_BUDGET, SMALLEST_GPU_BUDGET, LARGEST_GPU_BUDGET = 4096, 2048, 2**17


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


@dataclass
class TokenizedModel:
    """A model with its tokenizer: what scoring and generation need.

    Args:
        model: The transformers model.
        tokenizer: Its fast tokenizer.
        name: The model's name as the user gave it.
        token_budget: Padded tokens per batch; by default it depends on the free memory. It is halved when memory runs out.
        prefixes: Texts that prompt edits put before every user message, the latest first.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    token_budget: int = 0
    prefixes: tuple[str, ...] = field(default=(), init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the tokenizer and choose the first token budget.

        Raises:
            ModelError: The tokenizer gives no character offsets.
        """
        if not self.tokenizer.is_fast:
            raise ModelError("the tokenizer gives no character offsets", where=self.name, remedy="use a fast tokenizer")
        self.token_budget = self.token_budget or first_budget(self.device, self._token_bytes)
        self.model.eval()

    @property
    def device(self) -> torch.device:
        """The device of the input embedding, where inputs go."""
        return execution_device(self.model.get_input_embeddings())

    @property
    def _token_bytes(self) -> int:
        """Bytes per token of a batch: its logits in float32, twice, and sixteen of its widest hidden states.

        Most forward passes need far less.
        """
        shapes = [parameter.shape[-1] for parameter in self.model.parameters() if parameter.ndim == 2]
        packed = [projection_shape(module)[1] for module in self.model.modules() if is_packed(module)]
        widest = max(shapes + packed, default=1)
        return 8 * len(self.tokenizer) + 64 * widest

    @cached_property
    def cached_share(self) -> float:
        """The memory of a cached token as a share of a computed one: its keys and values in every layer, twice."""
        config = self.model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        keys_and_values = 2 * config.num_hidden_layers * heads * size * self.model.dtype.itemsize
        return 2 * float(keys_and_values) / self._token_bytes

    @property
    def context_length(self) -> int:
        """The maximum length of an input in tokens."""
        return int(getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or 2**31)

    def context_overflow(self, tokens: int, new_tokens: int) -> str | None:
        """Return why a prompt of `tokens` cannot be continued by `new_tokens`, or None if the context is long enough."""
        if 0 < tokens <= self.context_length - new_tokens:
            return None
        return f"a prompt of {tokens} tokens cannot be continued by {new_tokens} in a context of {self.context_length}"

    def chat_prompt(self, message: str, cue: str = "", *, earlier: Sequence[str] = (), system: str | None = None) -> str:
        """Render one user message with the chat template and the generation prompt, followed by the start of the answer.

        Applied prompt edits (in-context unlearning) put their prefix before every user message. A model without a chat template
        gets the messages and, on a new line, the cue as plain text.

        Args:
            message: The user message.
            cue: The start of the answer.
            earlier: The messages before, of the user and the assistant in turn.
            system: The system prompt, for a model with `has_system_role`; the template's own by default.

        Raises:
            ModelError: The template fails, or leaves a message out.
        """
        conversation = self._conversation((*earlier, message), system)
        if self.tokenizer.chat_template is None:
            text = "\n".join(part["content"] for part in conversation)
            return text + ("\n" if cue and not text[-1:].isspace() else "") + cue
        return self._checked(conversation) + cue

    def chat_text(self, message: str, answer: str, *, system: str | None = None) -> str:
        """Render a user message and the whole answer with the chat template, with what ends the answer; see `chat_prompt`.

        Raises:
            ModelError: The template fails, leaves a message out, or begins the answer otherwise than it prompts for it.
        """
        text = self._checked(self._conversation((message, answer), system), is_open=False)
        if not text.startswith(self.chat_prompt(message, system=system)):
            what = "the chat template begins an answer otherwise than it prompts for one"
            raise ModelError(what, where=self.name, remedy=_TEMPLATE_REMEDY)
        return text

    def _conversation(self, turns: Sequence[str], system: str | None) -> list[dict[str, str]]:
        """Return the messages of the user and the assistant in turn, the user's with the prefixes of prompt edits."""
        prefix = "".join(self.prefixes)
        said = [
            {"role": "assistant", "content": turn} if number % 2 else {"role": "user", "content": prefix + turn}
            for number, turn in enumerate(turns)
        ]
        return said if system is None else [{"role": "system", "content": system}, *said]

    def _checked(self, conversation: list[dict[str, str]], *, is_open: bool = True) -> str:
        """Return a conversation through the chat template, which must print every message."""
        try:
            text = self._rendered(conversation, is_open=is_open)
        except TemplateError as error:
            raise ModelError(f"the chat template fails: {error}", where=self.name, remedy=_TEMPLATE_REMEDY) from error
        if any(part["content"].strip() not in text for part in conversation):  # many templates strip the messages
            raise ModelError("the chat template does not print the message", where=self.name, remedy=_TEMPLATE_REMEDY)
        return text

    @property
    def has_system_role(self) -> bool:
        """Whether the chat template prints a system prompt; some refuse one, some leave it out."""
        if self.tokenizer.chat_template is None:
            return False
        system = "Begin."
        try:
            return system in self._rendered([{"role": "system", "content": system}, {"role": "user", "content": "Hello"}])
        except TemplateError:
            return False

    def _rendered(self, conversation: list[dict[str, str]], *, is_open: bool = True) -> str:
        """Return a conversation through the chat template, with the generation prompt where it is open.

        Raises:
            TemplateError: The template fails.
        """
        rendered = self.tokenizer.apply_chat_template(
            conversation, tokenize=False, add_generation_prompt=is_open, **self.template_arguments
        )
        return cast(str, rendered)

    @property
    def template_arguments(self) -> dict[str, Any]:
        """What the chat template is given beside the conversation."""
        return TEMPLATE_ARGUMENTS

    def encode(self, prompt: str, answer: str = "") -> Encoded:
        """Tokenize prompt and answer as one text, with one BOS token if the model has one.

        A token that spans the boundary belongs to the answer, unless it is one of a chat template's tokens: Phi-3's swallow the
        space after them.
        """
        return self.encode_all([(prompt, answer)])[0]

    def encode_all(self, pairs: Sequence[tuple[str, str]]) -> list[Encoded]:
        """Tokenize prompts and answers together, which takes less time than one after the other; see `encode`."""
        if not pairs:
            return []
        texts = [prompt + answer for prompt, answer in pairs]
        try:
            encoding = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
        except TypeError as error:
            broken = next((text for text in texts if any("\ud800" <= letter <= "\udfff" for letter in text)), texts[0])
            shown = ascii(broken[:100])
            raise ModelError("a text holds half a character, a lone surrogate", where=shown, remedy="correct it") from error
        rows = zip(pairs, encoding["input_ids"], encoding["offset_mapping"], strict=True)
        return [self._encoded(len(prompt), ids, offsets) for (prompt, _), ids, offsets in rows]

    def _encoded(self, boundary: int, ids: list[int], offsets: list[tuple[int, int]]) -> Encoded:
        """Return a text whose answer begins at character `boundary`."""
        start = next((i for i, (_, end) in enumerate(offsets) if end > boundary), len(ids))
        if start < len(ids) and offsets[start][0] < boundary and ids[start] in self._added_ids:
            start += 1
        prefix = [] if ids[: len(self._prefix)] == self._prefix else self._prefix
        return Encoded(prefix + ids, [(0, 0)] * len(prefix) + offsets, start + len(prefix))

    def pad(self, rows: Sequence[list[int]], *, side: str = "right") -> dict[str, Tensor]:
        """Return `input_ids` and `attention_mask` `[batch, seq]` on the input device.

        Args:
            rows: The token ids of each text.
            side: The padding side, `right` or `left`.
        """
        width = max(len(row) for row in rows)
        ids = torch.full((len(rows), width), self.pad_id)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for i, row in enumerate(rows):
            place = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
            ids[i, place] = torch.tensor(row)
            mask[i, place] = 1
        return {"input_ids": ids.to(self.device), "attention_mask": mask.to(self.device)}

    @cached_property
    def cache_argument(self) -> str:
        """The name of the key/value cache in the model's `forward`; transformers renames it during 5.x."""
        return "cache" if "cache" in inspect.signature(self.model.forward).parameters else "past_key_values"

    @cached_property
    def _prefix(self) -> list[int]:
        """The special tokens that the tokenizer puts before a text (BOS); a chat template may have written them already."""
        bare = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        whole = cast(list[int], self.tokenizer("a")["input_ids"])
        return whole[: whole.index(cast(list[int], bare)[0])]

    @cached_property
    def _added_ids(self) -> frozenset[int]:
        """The ids of the tokens that are no pieces of text, such as those of a chat template."""
        return frozenset(self.tokenizer.added_tokens_decoder)

    @cached_property
    def newline_ids(self) -> list[int]:
        """The ids of all tokens whose text contains a newline."""
        texts = self.tokenizer.batch_decode([[i] for i in range(len(self.tokenizer))])
        return [i for i, text in enumerate(texts) if "\n" in text]

    @property
    def end_ids(self) -> list[int]:
        """The ids of the tokens that end a text (EOS)."""
        ids = self.model.generation_config.eos_token_id if self.model.generation_config else None
        found = ids if isinstance(ids, list) else [ids, self.tokenizer.eos_token_id]
        return sorted({i for i in found if i is not None})

    @property
    def pad_id(self) -> int:
        """The id of the padding token."""
        return next((i for i in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id) if i is not None), 0)


def first_budget(device: torch.device, per_token: int) -> int:
    """Return the first token budget: fixed on a CPU, half of the free memory on a GPU."""
    if device.type != "cuda":
        return CPU_BUDGET
    free, _ = torch.cuda.mem_get_info(device)
    return min(max(free // 2 // per_token, SMALLEST_GPU_BUDGET), LARGEST_GPU_BUDGET)
