"""`formless stats`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from formless import store
from formless.cli import terminal
from formless.errors import UserError

if TYPE_CHECKING:
    from formless.models.meta import MetaModel

CORPORA = (
    "A .txt, .json, .jsonl or .parquet file, a folder, hf:NAME[@REVISION][:CONFIG], or sampled[:SEED] for texts that the model "
    "samples."
)


def stats_command(
    corpus: Annotated[str, typer.Option(help=CORPORA)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the null spaces.")],
    model: terminal.ModelOption = "smollm2",
    layers: Annotated[str, typer.Option(help="Layers, e.g. 4,5,6.")] = "4,5,6",
    samples: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of texts (the paper: 100,000; sampled: 512).")
    ] = None,
    pattern: Annotated[str, typer.Option(help="Files of a folder, e.g. '*/passage.json'.")] = "**/*",
    threshold: Annotated[float, typer.Option(help="Eigenvalues under it span the null space.")] = 2e-2,
    max_tokens: Annotated[int, typer.Option(min=1, help="Truncate each text to this length.")] = 1024,
    basis_dtype: Annotated[str, typer.Option(help="The dtype of the saved bases: float32, bfloat16 or float16.")] = "float32",
    force: terminal.ForceOption = False,
    dtype: terminal.DtypeOption = "auto",
    device: terminal.DeviceOption = "auto",
    trust_remote_code: terminal.TrustOption = False,
) -> None:
    """Compute what ROCR preserves: the null space of a model's keys over a corpus. A killed run is resumed.

    Example: formless stats --model smollm2 --layers 4,5,6 --corpus wiki.txt --samples 2000 --out stats/smollm2
    """
    from formless.data.corpus import corpus_texts, pinned_corpus
    from formless.methods.rocr.sampled import SAMPLES, cost
    from formless.methods.rocr.statistics import compute_statistics
    from formless.models.reading.placement import DTYPES
    from formless.models.sampled_texts import SAMPLED, SampledTexts, sampled_seed

    chosen = terminal.parse_layers(layers)
    if not 0 < threshold <= 1e6:
        what = f"the threshold {threshold:g} is not greater than 0 and at most 1,000,000"
        raise UserError(what, where="--threshold", remedy="the paper uses 0.02")
    store.refuse_existing(out, force=force, mark=store.StatisticsFolder(out).mark)
    store_dtype = DTYPES.get(basis_dtype)
    if store_dtype is None:
        raise UserError(f"unknown dtype {basis_dtype!r}", where="--basis-dtype", remedy="choose float32, bfloat16 or float16")
    seed = sampled_seed(corpus)
    texts: Iterator[str] = iter(())
    if seed is None:
        corpus = pinned_corpus(corpus)
        texts = corpus_texts(corpus, pattern=pattern)
        texts = chain([next(texts)], texts)  # a corpus without text stops here, before the model is loaded

    def check(meta: MetaModel) -> None:
        for layer in chosen:
            meta.architecture.layer(meta.model, layer)

    needed = max(chosen) + 1 if seed is None else None  # to sample texts, the whole model is needed
    lm = terminal.load_model(model, dtype, device, trust_remote_code, check, needed)
    with terminal.progress("statistics", keep_first=seed is not None) as bar:
        if seed is not None:
            texts, samples = SampledTexts(lm, seed, max_tokens), samples or SAMPLES
            bar(cost(lm, chosen, texts, samples), 0, 0)
        prints = compute_statistics(
            lm,
            chosen,
            texts,
            corpus=_label(corpus, pattern) if seed is None else f"{SAMPLED}:{seed}",
            out=out,
            samples=samples,
            threshold=threshold,
            max_tokens=max_tokens,
            dtype=store_dtype,
            force=force,
            progress=bar,
        )
    for found in prints:
        terminal.out.print(f"layer {found.layer}: null space {found.rank} of {found.dimension}, {found.tokens:,} tokens")
    terminal.out.print(f"saved in {out}", soft_wrap=True)


def _label(corpus: str, pattern: str) -> str:
    """Return the name of a corpus for the fingerprint, without the path on this machine."""
    from formless.data.corpus import HUB

    path = Path(corpus)
    if corpus.startswith(HUB):
        return corpus
    return f"{path.resolve().name}/{pattern}" if path.is_dir() else path.name
