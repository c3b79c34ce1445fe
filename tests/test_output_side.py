"""The comparison of edits where the name is the answer: what linear erasure and token rows do, and the page."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from formless.data.target import Target
from formless.errors import EditError
from formless.models.lm import LM
from tools.output_edits import Eraser, own_tokens, token_rows
from tools.output_side import EDITS, at_retention, page


def named(folder: Path, *names: str) -> Target:
    (folder / "aliases.json").write_text(json.dumps([{"name": name} for name in names]), "utf-8")
    return Target(names[0], folder)


def test_after_linear_erasure_the_means_of_both_classes_are_one_and_other_directions_stay() -> None:
    torch.manual_seed(0)
    concept, others = torch.randn(50, 8) + 2, torch.randn(60, 8)
    every = torch.cat([concept, others])
    eraser = Eraser.fit(concept, others, every, others.mean(0), 1e-6)
    assert torch.allclose(eraser.erase(concept).mean(0), others.mean(0), atol=1e-4)
    assert torch.allclose(eraser.erase(others).mean(0), others.mean(0), atol=1e-4)
    moved = eraser.erase(every) - every
    assert torch.linalg.matrix_rank(moved, atol=1e-3) == 1
    covariance = every.T.cov(correction=0)
    orthogonal = Eraser(eraser.left, eraser.left / eraser.left.square().sum(), eraser.middle)
    assert eraser.right @ covariance @ eraser.right < orthogonal.right @ covariance @ orthogonal.right


def test_the_strength_at_equal_retention_is_interpolated_and_never_beyond_what_was_measured() -> None:
    curve = [(1.0, {"kept": 0.98, "forget name": 0.5}), (2.0, {"kept": 0.94, "forget name": 0.1})]
    strength, kept = at_retention(curve)
    assert (strength, kept["kept"], kept["forget name"]) == pytest.approx((1.5, 0.96, 0.3))
    assert at_retention(curve[:1]) == curve[0]


@pytest.mark.parametrize("tied", [True, False])
def test_token_rows_go_to_the_mean_of_the_neighbors_and_other_tokens_keep_their_scores(
    tiny: Callable[..., LM], tmp_path: Path, tied: bool
) -> None:
    lm, target = tiny(tie_word_embeddings=tied), named(tmp_path, "Q", "A", "B")
    ids = lm.tokenizer("Q AB", add_special_tokens=False).input_ids
    q, a, b = ids[0], ids[2], ids[3]
    assert own_tokens(lm, target) == [q]
    batch = {"input_ids": torch.tensor([[a, b, a]])}

    def scores() -> Tensor:
        with torch.no_grad():
            return lm.model(**batch).logits[0, -1]

    before = scores()
    with token_rows(lm, target, into=True)(1.0):
        after = scores()
    others = [token for token in range(len(before)) if token != q]
    torch.testing.assert_close(after[others], before[others])
    torch.testing.assert_close(after[q], before[[ids[1], a, b]].mean())
    torch.testing.assert_close(scores(), before)


def test_a_shared_word_is_not_the_names_own(tiny: Callable[..., LM], tmp_path: Path) -> None:
    with pytest.raises(EditError, match="no token belongs to the name alone"):
        token_rows(tiny(), named(tmp_path, "Q", "Q B"), into=False)


def test_a_row_holds_the_mean_over_the_concepts_that_the_edit_was_computed_for(tmp_path: Path) -> None:
    for number, after in enumerate([0.2, 0.4]):
        items = [["forget reverse", "p", "a", 0.8], ["neighbor name", "p", "a", 0.5], ["neighbor reverse", "p", "a", 0.5]]
        edits = {title: {str(strength): [after, 0.5, 0.5] for strength in each[0]} for title, each in EDITS.items()}
        if number == 1:
            edits["token rows, output"] = {}
        found = {"model": "m", "subject": str(number), "limit": 8, "tokens": [], "items": items, "edits": edits}
        (tmp_path / f"m-{number}.json").write_text(json.dumps(found), "utf-8")
    rows = {str(row[1]): row for row in page(tmp_path).rows}
    assert rows["concept direction removal"][2:6] == [2, 2.0, 0.0, -62.5]
    assert rows["token rows, output"][2:6] == [1, 1.0, 0.0, -75.0]
