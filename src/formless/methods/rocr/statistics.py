"""Second moments of the keys over a corpus: one pass for all layers, resumable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from math import ceil
from pathlib import Path

import torch
from torch import Tensor

from formless import store
from formless.errors import EditError
from formless.methods.rocr.nullspace import BasisProjection, Fingerprint, from_second_moment
from formless.models.batching import batches
from formless.models.capture import capture
from formless.models.lm import LM
from formless.models.sampled_texts import SampledTexts
from formless.models.weights import execution_device
from formless.progress import Progress, progress_bar

CHUNK = 64
GATHERED = 4096
"""Tokens whose keys are added at once: it takes as long to add the product of few keys to a sum as that of many."""

BLOCKS = 16
"""Of them, those left of the diagonal are mirrored and not computed: 15 in 32 of all products are spared."""

QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)


class SecondMoments:
    """Sums of k k^T over keys k by layer, in float64.

    The sums are symmetric: only what lies on and right of the diagonal's blocks is computed, and mirrored when it is asked for.

    Args:
        lm: The model.
        layers: The layers.
        settings: Settings of this computation; an unfinished one with other settings is not resumed.
    """

    def __init__(self, lm: LM, layers: Sequence[int], settings: dict[str, object]) -> None:
        self.lm, self.layers = lm, sorted(layers)
        self.sums: dict[int, Tensor] = {}
        self.texts = self.tokens = 0
        self._digest = hashlib.sha256()
        described = settings | {"model": lm.fingerprint, "layers": self.layers, "dtype": str(lm.model.dtype)}
        self._settings = json.dumps(described, sort_keys=True)

    def add(self, texts: Sequence[str], max_tokens: int) -> None:
        """Add a chunk of texts, each truncated to `max_tokens` tokens; the forward pass stops after the last layer."""
        rows = [row for row in (self.lm.encode(text).ids[:max_tokens] for text in texts) if row]
        keys: dict[int, list[Tensor]] = {layer: [] for layer in self.layers}  # each [tokens, d]
        gathered = 0
        for group in batches([len(row) for row in rows], self.lm.token_budget, even=True):
            found = capture(self.lm, self.lm.pad([rows[i] for i in group]), keys=self.layers)
            lengths = torch.tensor([len(rows[i]) for i in group])
            # On the CPU, where they are known: a mask on the device would make the program wait for it.
            places = (torch.arange(int(lengths.max())) < lengths[:, None]).nonzero(as_tuple=True)
            for layer, activation in found.keys.items():
                keys[layer].append(activation[places])
            gathered += int(lengths.sum())
            if gathered >= GATHERED:
                self._add(keys)
                gathered = 0
        if gathered:
            self._add(keys)
        self._note(texts)

    def _add(self, gathered: dict[int, list[Tensor]]) -> None:
        """Add the products of gathered keys, and empty the lists."""
        finite: list[Tensor] = []
        for layer, parts in gathered.items():
            keys = torch.cat(parts).float()
            parts.clear()
            if layer not in self.sums:
                width, place = keys.shape[1], "cpu" if keys.device.type == "mps" else keys.device
                self.sums[layer] = torch.zeros(width, width, dtype=torch.double, device=place)
            add_outer_products(self.sums[layer], keys)
            # Sums of squares: one value that is not finite shows there.
            finite.append(self.sums[layer].diagonal().isfinite().all().to(self.lm.device))
        for layer, is_finite in zip(gathered, torch.stack(finite).tolist(), strict=True):
            if not is_finite:
                what = "the keys are not finite"
                raise EditError(what, where=f"layer {layer}", remedy="check the model's weights and dtype")
        self.tokens += len(keys)

    def _note(self, texts: Sequence[str]) -> None:
        self.texts += len(texts)
        for text in texts:
            self._digest.update(text.encode("utf-8", "surrogatepass") + b"\0")

    def mean(self, layer: int) -> Tensor:
        """Compute the uncentred second moment `[d, d]` of one layer, float64."""
        return mirror(self.sums[layer] / self.tokens)

    def take(self, layer: int) -> Tensor:
        """Compute the same in the memory of the sum; nothing more can be added to that layer."""
        return mirror(self.sums.pop(layer).div_(self.tokens))

    def save(self, path: Path) -> None:
        """Write the sums, from which a killed computation is resumed."""
        counts = {"texts": str(self.texts), "tokens": str(self.tokens), "digest": self._digest.hexdigest()}
        sums = {str(layer): total.cpu() for layer, total in self.sums.items()}
        store.write_tensors(path, sums, counts | {"settings": self._settings})

    def resume(self, path: Path, texts: Iterator[str]) -> None:
        """Continue from saved sums and skip the texts that are in them; sampled ones, which their seed determines, unread.

        Raises:
            EditError: The sums belong to other settings or texts.
        """
        try:
            sums, metadata = store.read_tensors(path)
            if metadata.get("settings") != self._settings:
                raise self._other(path)
            self.sums = {layer: sums[str(layer)] for layer in self.layers}
        except EditError:
            raise
        except (OSError, ValueError, KeyError) as error:
            what = f"an unfinished computation cannot be read ({error})"
            raise EditError(what, where=path, remedy="delete that file") from error
        for layer in self.layers:
            device = execution_device(self.lm.architecture.down_projection(self.lm.model, layer))
            self.sums[layer] = self.sums[layer].to("cpu" if device.type == "mps" else device)
        if isinstance(texts, SampledTexts):
            self.texts = int(metadata["texts"])
            texts.skip_to(self.texts)
        else:
            while self.texts < int(metadata["texts"]) and (chunk := list(islice(texts, CHUNK))):
                self._note(chunk)
            if self._digest.hexdigest() != metadata["digest"]:
                raise self._other(path)
        self.tokens = int(metadata["tokens"])

    @staticmethod
    def _other(path: Path) -> EditError:
        remedy = "repeat its settings and corpus, or delete that file"
        return EditError("an unfinished computation with other settings or texts is in the way", where=path, remedy=remedy)


def add_outer_products(total: Tensor, keys: Tensor) -> None:
    """Add k k^T over keys k `[tokens, d]` to a sum `[d, d]`, on and right of the diagonal's blocks."""
    for start, end in _blocks(len(total)):
        total[start:end, start:] += (keys[:, start:end].T @ keys[:, start:]).to(total.device)


def mirror(total: Tensor) -> Tensor:
    """Fill in what lies left of the diagonal's blocks, in place."""
    for start, end in _blocks(len(total)):
        total[end:, start:end] = total[start:end, end:].T
    return total


def _blocks(width: int) -> Iterator[tuple[int, int]]:
    size = ceil(width / BLOCKS)
    return ((start, start + size) for start in range(0, width, size))


def compute_statistics(
    lm: LM,
    layers: Sequence[int],
    texts: Iterator[str],
    *,
    corpus: str,
    out: Path,
    samples: int | None = None,
    threshold: float = 2e-2,
    max_tokens: int = 1024,
    checkpoint_every: int = 1024,
    dtype: torch.dtype = torch.float32,
    force: bool = False,
    progress: bool | Progress = True,
) -> list[Fingerprint]:
    """Write the null-space basis of several layers, from one pass over a corpus.

    The sums are saved beside `out` meanwhile; after a kill, the same call continues from them.

    Args:
        lm: The model, unedited.
        layers: The layers, e.g. (4, 5, 6).
        texts: The corpus.
        corpus: Its name, for the fingerprint.
        out: The folder to write.
        samples: Maximum number of texts.
        threshold: Eigenvalues under it span the null space.
        max_tokens: Texts are truncated to this length.
        checkpoint_every: Texts between two saves of the sums.
        dtype: Dtype of the saved bases.
        force: Replace an existing `out`.
        progress: Whether to show a bar in a terminal or notebook, or a callback with the texts done and all texts (0: unknown).

    Raises:
        EditError: The corpus is empty, the keys are not finite, or no eigenvalue is under the threshold.
        OutputError: `out` exists and `force` is not set, or cannot be written.
    """
    out = out.absolute()
    store.refuse_existing(out, force=force, mark=store.StatisticsFolder(out).mark)
    if not lm.overlay.is_empty:
        raise EditError("the model has an edit on it", where=lm.name, remedy="leave its applied() block first")
    for layer in layers:
        lm.architecture.layer(lm.model, layer)
    lm.check_layers(max(layers) + 1)
    moments = SecondMoments(lm, layers, {"corpus": corpus, "samples": samples, "max_tokens": max_tokens})
    partial = store.StatisticsFolder(out.absolute()).unfinished
    if partial.exists():
        moments.resume(partial, texts)
    texts = islice(texts, None if samples is None else samples - moments.texts)
    with progress_bar(progress, "statistics") as report:
        while chunk := list(islice(texts, CHUNK)):
            moments.add(chunk, min(max_tokens, lm.context_length))
            report(f"{moments.texts:,} texts, {moments.tokens:,} tokens", moments.texts, samples or 0)
            if moments.texts % checkpoint_every < CHUNK:
                moments.save(partial)
    if not moments.tokens:
        raise EditError("the corpus has no tokens", where=corpus, remedy="give a corpus with text")
    with store.new_folder(out, mark=store.StatisticsFolder(out).mark, force=force) as new:
        prints = [_save_basis(moments, layer, corpus, threshold, new, dtype) for layer in moments.layers]
    store.discard(partial)
    return prints


def _save_basis(
    moments: SecondMoments, layer: int, corpus: str, threshold: float, folder: Path, dtype: torch.dtype
) -> Fingerprint:
    basis, spans_null_space, values = from_second_moment(moments.take(layer), threshold)
    if spans_null_space and not basis.shape[1]:
        what = f"no eigenvalue of layer {layer} is under {threshold}: nothing could be edited"
        raise EditError(what, where="threshold", remedy=f"the smallest is {float(values[0]):.2g}")
    quantiles = torch.quantile(values, torch.tensor(QUANTILES, dtype=values.dtype))
    fingerprint = Fingerprint(
        model=moments.lm.name, model_fingerprint=moments.lm.fingerprint, layer=layer, corpus=corpus,
        samples=moments.texts, tokens=moments.tokens, threshold=threshold,
        rank=basis.shape[1] if spans_null_space else len(values) - basis.shape[1], dimension=len(values),
        spectrum=(float(values.sum()), *quantiles.tolist()),
    )  # fmt: skip
    BasisProjection(basis, spans_null_space, fingerprint).save(folder, dtype=dtype)
    return fingerprint
