"""The page of what merging loses, from made-up records."""

import json
from collections.abc import Callable

import pytest
import torch

from formless.edits.export.merged import QUANTIZED
from formless.models.lm import LM
from tests.report.made_runs import Values, made_record, made_run
from tools import merge_loss
from tools.results import FOLDER


def at(mean: float) -> Values:
    return {(task, "forget"): mean for task in merge_loss.TASKS}


def test_rows_say_what_is_forgotten_and_how_much_of_it_is_left() -> None:
    original, edited = made_run("original", "2_X"), made_run("cdr", "2_X")
    left = {"float32": 0.2, "bfloat16": 0.2, "8 bits (Q8_0)": 0.5, "4 bits (Q4_0)": 0.8}
    pairs = {name: (made_record(original, at(0.8)), made_record(edited, at(value))) for name, value in left.items()}
    found = list(merge_loss.rows("X", pairs))
    assert [row[1] for row in found] == [
        "forgotten of statements", "forgotten of blanks", "forgotten of questions", "forgotten, mean", "forgetting left",
    ]  # fmt: skip
    assert found[3][2:] == [75.0, 75.0, 37.5, 0.0]
    assert found[4][2:] == [100.0, 100.0, 50.0, 0.0]
    page = merge_loss.page({"X": pairs})
    assert page.n.startswith("1 concepts")


def test_the_note_of_a_merged_model_says_what_was_measured() -> None:
    rows = json.loads((FOLDER / "merge_loss.json").read_text("utf-8"))["rows"]
    left = [row[3:5] for row in rows if row[1] == "forgetting left"]
    assert len(left) == 2
    assert all(share > 99 for shares in left for share in shares)
    assert "bfloat16 and 8 bits took less than 1 %" in QUANTIZED


def test_bfloat16_rounds_all_weights(tiny: Callable[..., LM]) -> None:
    lm = tiny()
    before = {name: parameter.data for name, parameter in lm.model.named_parameters()}
    with merge_loss.bfloat16(lm):
        for name, parameter in lm.model.named_parameters():
            assert parameter.dtype == torch.float32
            assert torch.equal(parameter, before[name].bfloat16().float())


@pytest.mark.parametrize("name", list(merge_loss.STORED))
def test_every_way_of_storing_leaves_the_weights_as_they_were(tiny: Callable[..., LM], name: str) -> None:
    lm = tiny(intermediate_size=64)
    before = {key: tensor.clone() for key, tensor in lm.model.state_dict().items()}
    with merge_loss.STORED[name](lm):
        is_same = all(torch.equal(tensor, before[key]) for key, tensor in lm.model.state_dict().items())
        assert is_same == (name == "float32")
    assert all(torch.equal(tensor, before[key]) for key, tensor in lm.model.state_dict().items())
