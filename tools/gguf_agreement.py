"""Write how far llama.cpp's answers are ours, with an exported edit and without.

    python -m tools.gguf_agreement

It writes docs/results/gguf_agreement.json, from the small model in some minutes; it needs the package xllamacpp.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch

import formless
from formless import provenance
from formless.edits.edit import WeightEdit
from formless.edits.export.gguf import write_adapter, write_model
from formless.edits.export.target import ExportOptions
from formless.models.lm import LM
from formless.models.settings import ModelSettings
from formless.models.sources.bundled import bundled_gguf
from tests.edits.export.llama_cpp import LlamaCpp, write_in_float32
from tools.results import FOLDER, Cell, Column, Result, write_result

MODEL, CONCEPT, TOKENS = "smollm2", "Albert Einstein", 16
QUESTIONS = (
    "Who was Albert Einstein?", "Where was Albert Einstein born?", "What is Albert Einstein famous for?",
    "Which prize did Albert Einstein win?", "Who developed the theory of relativity?", "What did Albert Einstein study?",
    "Who was Isaac Newton?", "Who was Marie Curie?", "What is the capital of France?", "Name three fruits.",
)  # fmt: skip


@dataclass(frozen=True)
class Agreement:
    """How far the next tokens of llama.cpp are ours, given our answer up to there.

    Args:
        tokens: Tokens of our answers.
        same: Those that llama.cpp finds most probable too.
        answers: Our answers.
        whole: Those of which all tokens are the same; so llama.cpp would write the same answer.
    """

    tokens: int
    same: int
    answers: int
    whole: int


@torch.no_grad()
def greedy(lm: LM, prompts: Sequence[list[int]], tokens: int = TOKENS) -> list[list[int]]:
    """Return our greedy answers as tokens, with the end token if it comes in time."""
    found = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        whole = cast(Any, lm.model).generate(
            ids, attention_mask=ids.new_ones(ids.shape), max_new_tokens=tokens, do_sample=False
        )
        found.append(whole[0, len(prompt) :].tolist())
    return found


def agreement(server: LlamaCpp, prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> Agreement:
    """Compare the next tokens of llama.cpp with our answers."""
    same = [
        [one == other for one, other in zip(server.next_tokens(prompt, answer), answer, strict=True)]
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    return Agreement(sum(map(len, same)), sum(map(sum, same)), len(same), sum(map(all, same)))


def measure(lm: LM, edit: WeightEdit[Any], questions: Sequence[str], quantized: Path, folder: Path) -> list[list[Cell]]:
    """Return a row of the page for each file, with and without the edit."""
    prompts = [lm.encode(lm.chat_prompt(question)).ids for question in questions]
    original = greedy(lm, prompts)
    with edit.applied(lm):
        edited = greedy(lm, prompts)
    adapter, options = folder / "edit.gguf", ExportOptions()
    rows: list[list[Cell]] = []
    write_adapter(edit, lm, adapter, options)
    for name, file in {"float32": write_in_float32(quantized, folder / "float32.gguf"), "4 bits (Q4_1)": quantized}.items():
        lm.settings = ModelSettings(name=MODEL, source=str(file))
        merged = folder / f"{file.stem}_merged.gguf"
        write_model(edit, lm, merged, options)
        for files, asked, answers, ours in (
            ((file,), "original", original, "original"),
            ((file, adapter), "adapter", edited, "edited"),
            ((merged,), "merged", edited, "edited"),
            ((file, adapter), "adapter", original, "original"),
        ):
            found = agreement(LlamaCpp(*files), prompts, answers)
            share = round(100 * found.same / found.tokens, 1)
            rows.append([name, asked, ours, share, f"{found.whole} of {found.answers}"])
    return rows


def page(rows: list[list[Cell]], tokens: str) -> Result:
    """Return the results page."""
    return Result(
        title="Edits in llama.cpp", topic="Robustness",
        about="How far llama.cpp answers as Formless does, with an exported edit and without.",
        date=date.today(), versions=provenance.versions() | {"xllamacpp": version("xllamacpp")},
        hardware=provenance.hardware(), n=tokens, command="python -m tools.gguf_agreement",
        columns=[
            Column(name="weights in the file"), Column(name="llama.cpp"), Column(name="our model"),
            Column(name="tokens that agree", unit="%", format=".1f"), Column(name="answers that agree as a whole"),
        ],
        rows=rows,
        notes=[
            "At each place of our greedy answer, llama.cpp gets the same tokens before it. A token agrees if llama.cpp finds "
            "it most probable too. The last row of each file shows the edited model beside our original, as a contrast.",
            "The bundled file has weights of 4 bits. Formless turns them into float32. With the file, llama.cpp rounds what is "
            "multiplied with them to 8 bits, so that its original model differs from ours as well. The float32 file has the "
            "same weights without that rounding; a test compares whole answers with it.",
            "The attention's cache is in float32 here; by default llama.cpp has it in float16.",
        ],
    )  # fmt: skip


def main() -> None:
    """Measure, and write the page."""
    lm = formless.load(MODEL, dtype="float32", device="cpu", progress=False)
    edit = cast(WeightEdit[Any], formless.unlearn(lm, CONCEPT, progress=False))
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(lm, edit, QUESTIONS, bundled_gguf(MODEL), Path(folder))
    about = f"{len(QUESTIONS)} questions of one concept ({CONCEPT}), its neighbors and others, {MODEL}, at most {TOKENS} tokens"
    write_result(FOLDER / "gguf_agreement.json", page(rows, about))


if __name__ == "__main__":
    main()
