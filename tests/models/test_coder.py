"""The larger bundled model, where it is cached: it is the one whose numbers the docs give, and an edit of it works."""

from __future__ import annotations

import psutil
import pytest

import formless
from formless import store
from formless.data.rows import Split
from formless.evaluation.record import Record
from formless.models.lm import LM
from formless.models.scores import Score
from formless.models.sources.bundled import BUNDLED_MODELS

NAME = "qwen2.5-coder-1.5b"
FREE = 8_500_000_000  # bytes of memory that float32 and an edit take
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def coder() -> LM:
    row = BUNDLED_MODELS[NAME]
    if not store.cached_files_path(row.folder).is_file():
        pytest.skip(f"{NAME} is not cached in {row.folder}; `formless doctor --model {NAME}` fetches it ({row.preparation})")
    if (free := psutil.virtual_memory().available) < FREE:
        pytest.skip(f"{NAME} needs {FREE / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free")
    return formless.load(NAME, dtype="float32", device="cpu", progress=False)


def probability(lm: LM, prompt: str, answer: str) -> float:
    (score,) = lm.score([(prompt, answer)])
    assert isinstance(score, Score)
    return score.probability


def test_it_is_the_model_of_the_docs(coder: LM) -> None:
    assert coder.fingerprint == "9c352854958c54d1"
    assert probability(coder, "The capital of France is", " Paris") > 0.3
    assert "physicist" in coder.chat("Who was Albert Einstein?", max_new_tokens=20)
    assert coder.settings.methods["rocr"] == {"layers": [4, 5, 6], "basis": "none"}


def test_an_edit_forgets_statements_and_choices_and_keeps_neighbors(coder: LM) -> None:
    target = formless.find_target("sample", "Albert Einstein")
    edit = formless.unlearn(coder, target, "rocr", redirect="Donald Trump", progress=False)
    before = formless.evaluate(coder, target, "statement,mcp_choice", progress=False)
    with edit.applied(coder):
        after = formless.evaluate(coder, target, "statement,mcp_choice", progress=False)

    def value(record: Record, task: str, split: Split) -> float:
        found = record.task(task, split).metric("probability").value
        assert found is not None
        return found

    assert value(before, "statement", "forget") == pytest.approx(0.517, abs=0.01)
    assert value(before, "mcp_choice", "forget") == pytest.approx(0.734, abs=0.01)
    for task in ("statement", "mcp_choice"):
        assert value(after, task, "forget") < 0.7 * value(before, task, "forget")
        assert value(after, task, "neighbor") > 0.85 * value(before, task, "neighbor")
