"""Greedy coordinate gradient (GCG): search a suffix that makes a continuation probable (Zou et al., arXiv 2307.15043)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from formless.models.batching import Counter
from formless.models.scores import FoundSuffix, Score, Skipped, SuffixBudget
from formless.models.scoring import refusal
from formless.progress import WorkProgress

if TYPE_CHECKING:
    from formless.models.lm import LM


def search_suffix(
    lm: LM, prompt: str, suffix: str, target: str, budget: SuffixBudget, progress: WorkProgress | None
) -> FoundSuffix | Skipped:
    """Search a suffix; see `LM.search_suffix`.

    In each step, every position of the suffix gets the tokens with the steepest negative gradient of the target's loss, and a
    candidate replaces one token by one of them at random. The candidate with the lowest loss is the next suffix, also where the
    last one was better; the best of all steps is returned. Tokens are printable ASCII, and a candidate counts only if its text
    has as many tokens again, as in the published code.
    """
    before, mark, after = prompt.rpartition(suffix)
    if not mark:
        raise ValueError("the prompt does not hold the suffix")
    if reason := refusal(lm, lm.encode(prompt, target)):
        return reason
    places = _Places(lm, before, after, target)
    allowed, generator = _allowed_tokens(lm), torch.Generator().manual_seed(budget.seed)
    counter = Counter(budget.steps, progress)
    (first,) = places.losses([suffix])
    current, best, lowest = suffix, suffix, first
    for _ in range(budget.steps):
        ids, gradient = places.gradient(current)
        candidates = [text for text in _replaced(lm, ids, gradient, allowed, budget, generator) if places.fits(text, len(ids))]
        if candidates:
            losses = places.losses(candidates)
            place = min(range(len(losses)), key=losses.__getitem__)
            current = candidates[place]
            if losses[place] < lowest:
                best, lowest = current, losses[place]
        counter.add(1)
    return FoundSuffix(best, first, lowest, places.tokens)


class _Places:
    """A prompt around a suffix, with its target.

    Args:
        lm: The model.
        before: The prompt up to the suffix.
        after: The prompt behind it.
        target: What the continuation is to begin with.
    """

    def __init__(self, lm: LM, before: str, after: str, target: str) -> None:
        self._lm, self._before, self._after, self._target = lm, before, after, target
        self.tokens = 0

    def losses(self, suffixes: Sequence[str]) -> list[float]:
        """Return the target's mean negative log-probability per token after each suffix (nats); infinite where it has none."""
        scores = self._lm.score([(f"{self._before}{text}{self._after}", self._target) for text in suffixes])
        self.tokens += sum(len(self._encoded(text)[0]) for text in suffixes)
        return [-one.log_probability / len(one.log_probabilities) if isinstance(one, Score) else math.inf for one in scores]

    def fits(self, suffix: str, size: int) -> bool:
        """Return whether a suffix has `size` tokens."""
        start, end = self._encoded(suffix)[1]
        return end - start == size

    @torch.enable_grad()
    def gradient(self, suffix: str) -> tuple[list[int], Tensor]:
        """Return the token ids of a suffix, and the gradient of the loss by their one-hot vectors, `[suffix, vocab]`.

        The embedding is linear, so the gradient by the one-hot vectors is that by the embeddings times the embedding matrix; a
        constant factor of the embedding does not matter to the order of tokens.
        """
        ids, (start, end), answer_start = self._encoded(suffix)
        self.tokens += len(ids)
        model, inputs = cast(Any, self._lm.model), torch.tensor([ids], device=self._lm.device)
        embedding = model.get_input_embeddings()
        embedded = embedding(inputs).detach()
        part = embedded[:, start:end].clone().requires_grad_()
        whole = torch.cat([embedded[:, :start], part, embedded[:, end:]], 1)
        # The token at position t is predicted by the logits at t - 1.
        logits = model(inputs_embeds=whole, use_cache=False, logits_to_keep=len(ids) - answer_start + 1).logits[0, :-1]
        loss = torch.nn.functional.cross_entropy(logits.float(), inputs[0, answer_start:].to(logits.device))
        (found,) = torch.autograd.grad(loss, part)
        name = next(name for name, module in model.named_modules() if module is embedding)
        weight = self._lm.overlay.current(f"{name}.weight").to(found.device)
        return ids[start:end], (found[0] @ weight.T).float().cpu()

    def _encoded(self, suffix: str) -> tuple[list[int], tuple[int, int], int]:
        """Return the ids of prompt and target, the suffix's first token and the one behind its last, and the target's first."""
        encoded = self._lm.encode(f"{self._before}{suffix}{self._after}", self._target)
        first, last = len(self._before), len(self._before) + len(suffix)
        inside = [i for i, (low, high) in enumerate(encoded.offsets) if high > first and low < last and low < high]
        return encoded.ids, (inside[0], inside[-1] + 1) if inside else (0, 0), encoded.answer_start


def _replaced(
    lm: LM, ids: Sequence[int], gradient: Tensor, allowed: Tensor, budget: SuffixBudget, generator: torch.Generator
) -> list[str]:
    """Return suffixes with one token replaced, each once; positions are spread evenly over the candidates."""
    size = min(budget.top, int(allowed.sum()))
    best = (-gradient.masked_fill(~allowed[: gradient.shape[1]], math.inf)).topk(size, -1).indices  # [suffix, top]
    draws = torch.randint(size, (budget.candidates,), generator=generator).tolist()
    texts = []
    for number, draw in enumerate(draws):
        place = number * len(ids) // budget.candidates
        changed = [*ids[:place], int(best[place, draw]), *ids[place + 1 :]]
        texts.append(cast(str, lm.tokenizer.decode(changed)))
    return list(dict.fromkeys(texts))


def _allowed_tokens(lm: LM) -> Tensor:
    """Return which rows of the input embedding are tokens of printable ASCII, `[vocab]`."""
    rows = cast(Any, lm.model).get_input_embeddings().weight.shape[0]
    texts = lm.tokenizer.batch_decode([[token] for token in range(min(rows, len(lm.tokenizer)))])
    found = torch.zeros(rows, dtype=torch.bool)
    for token, text in enumerate(texts):
        found[token] = bool(text) and text.isascii() and text.isprintable()
    found[[token for token in lm.tokenizer.all_special_ids if token < rows]] = False
    return found
