"""Keys where the model is about to say the name, for questions that never spell it."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

import formless
from formless.cli.unlearn import _details
from formless.data.target import Target
from formless.edits.adapter import AdapterEdit
from formless.errors import DataError, EditError, UserError
from formless.methods.keys.contexts import ASKED
from formless.methods.rocr.config import RocrConfig
from formless.methods.rocr.questions import edit_questions
from formless.methods.rocr.reverse import ABOUT, ANSWER_TOKENS
from formless.models.capture import capture
from formless.models.lm import LM

Tiny = Callable[..., LM]
OPTIONS: dict[str, Any] = {"method": "rocr", "layers": [1], "basis": "none", "redirect": "Bob", "reverse_layers": [2, 3]}
QUESTION = "Who wrote the first program?"
OTHERS = ("Who led the team of the first compiler?", "Who was an admiral?", "Who said debugging?")
OTHER = OTHERS[0]


def write(folder: Path, rows: list[dict[str, Any]], name: str = "Ada Lovelace") -> Target:
    folder.mkdir(exist_ok=True)
    (folder / "edit_reverse.json").write_text(json.dumps(rows), "utf-8")
    return Target(name, folder)


def row(query: str, answer: str, neighbor: bool = False, **more: Any) -> dict[str, Any]:
    return {"query": query, "answer": answer} | ({"neighbor": answer} if neighbor else {}) | more


def answer_of(lm: LM, question: str, way: int = 0) -> str:
    return lm.generate([ASKED[way](lm, question)], max_new_tokens=ANSWER_TOKENS, one_line=True)[0]


def last_value(lm: LM, prompt: str, layer: int) -> torch.Tensor:
    ids = lm.encode(prompt, "").ids
    return capture(lm, lm.pad([ids]), residuals=[layer]).residuals[layer][0, -1]


@pytest.fixture
def named(tiny: Tiny, tmp_path: Path) -> tuple[LM, Target, str]:
    """A random model, a target whose "name" is a part of what it answers, and what precedes the name there."""
    lm = tiny()
    answer = answer_of(lm, QUESTION)
    word = next(re.finditer(r"(?<!\w)\w+(?!\w)", answer))
    rows = [row(QUESTION, "Ada Lovelace", aliases=[word[0]])]
    rows += [row(question, "Grace Hopper", neighbor=True) for question in OTHERS]
    return lm, write(tmp_path / "1_Ada_Lovelace", rows), answer[: word.start()].rstrip()


@pytest.mark.parametrize("strength", [1.0, 2.0])
def test_the_state_before_the_name_moves_along_one_direction(named: tuple[LM, Target, str], strength: float) -> None:
    lm, target, before_name = named
    edited = (ASKED[0](lm, QUESTION) + " " + before_name).rstrip()
    others = [put(lm, question) for question in OTHERS for put in ASKED]
    plain = formless.unlearn(lm, target, **(OPTIONS | {"reverse_layers": None}))
    edit = formless.unlearn(lm, target, **OPTIONS, reverse_ridge=1e-6, reverse_strength=strength)
    assert isinstance(edit, AdapterEdit)
    with plain.applied(lm):
        start, kept = last_value(lm, edited, 3), torch.stack([last_value(lm, other, 3) for other in others])
    with edit.applied(lm):
        end, kept_end = last_value(lm, edited, 3), torch.stack([last_value(lm, other, 3) for other in others])
    facts = edit.info.facts["reverse"]
    assert facts["edited_prompts"] >= 1
    assert facts["kept_prompts"] == len(others) + len(ABOUT)
    assert facts["residual_reduction"] > 0.9
    moved = end - start
    assert (kept_end - kept).norm(dim=1).mean() < 0.2 * moved.norm()
    if facts["edited_prompts"] == 1:  # then the direction leads from the neighbors' mean to this very state
        torch.testing.assert_close(moved, strength * (kept.mean(0) - start), rtol=0.1, atol=0.1 * float(moved.norm()))
    late = [factors for name, factors in edit.updates.items() if name.split(".")[2] in ("2", "3")]
    assert [int(torch.linalg.matrix_rank(factors.dense())) for factors in late] == [1, 1]
    assert {factors.down.shape[0] for factors in edit.updates.values()} == {1}


def test_all_layers_of_an_edit_have_one_rank(named: tuple[LM, Target, str]) -> None:
    """Other tools read no adapter of several ranks."""
    lm, target, _ = named
    edit = formless.unlearn(lm, target, **OPTIONS, mentions="spelled")
    assert isinstance(edit, AdapterEdit)
    spelled = len(edit.info.facts["targets"][0]["spellings"])
    assert spelled > 1
    assert {factors.down.shape[0] for factors in edit.updates.values()} == {spelled}


def test_a_larger_ridge_changes_less(named: tuple[LM, Target, str]) -> None:
    lm, target, _ = named
    reductions = [
        formless.unlearn(lm, target, **OPTIONS, reverse_ridge=ridge).info.facts["reverse"]["residual_reduction"]
        for ridge in (1e-3, 1, 100)
    ]
    assert reductions == sorted(reductions, reverse=True)
    assert reductions[-1] < 0.2


def test_the_edit_is_saved_and_read(named: tuple[LM, Target, str], tmp_path: Path) -> None:
    lm, target, _ = named
    edit = formless.unlearn(lm, target, **OPTIONS)
    edit.save(tmp_path / "edit")
    read = formless.load_edit(tmp_path / "edit")
    assert isinstance(edit, AdapterEdit)
    assert isinstance(read, AdapterEdit)
    for name, factors in edit.updates.items():
        torch.testing.assert_close(read.updates[name].dense(), factors.dense())


def test_questions_that_are_not_answered_with_the_name_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    target = write(tmp_path / "1_Ada", [row(QUESTION, "Ada Lovelace"), row(OTHER, "Grace Hopper", neighbor=True)])
    with pytest.raises(EditError, match=r"the model answers none of 1 questions with the name \[Ada Lovelace\]"):
        formless.unlearn(tiny(), target, **OPTIONS)


def test_targets_of_one_edit_do_not_protect_each_other(tmp_path: Path) -> None:
    grace = row(OTHER, "Grace Hopper", neighbor=True)
    ada = write(
        tmp_path / "1", [row(QUESTION, "Ada Lovelace"), grace, row("Who broke the code?", "Alan Turing", neighbor=True)]
    )
    own = [row(OTHER, "Grace Hopper"), row("Who named a bug?", "Grace Hopper"), row(QUESTION, "Ada Lovelace", neighbor=True)]
    hopper = write(tmp_path / "2", [*own, row("Who built the Z3?", "Konrad Zuse", neighbor=True)], "Grace Hopper")
    mine, others = edit_questions([ada, hopper])
    assert [one.query for one in mine] == [QUESTION, OTHER, "Who named a bug?"]
    assert [one.query for one in others] == ["Who broke the code?", "Who built the Z3?"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([row(OTHER, "Grace Hopper", neighbor=True)], "no question in edit_reverse.json asks for the name"),
        ([row(QUESTION, "Ada Lovelace")], "no question in edit_reverse.json asks for a neighbor's name"),
        (None, "no question in edit_reverse.json asks for the name"),
    ],
)
def test_a_target_without_questions_is_refused_before_the_model_is_loaded(
    rows: list[dict[str, Any]] | None, words: str, tmp_path: Path
) -> None:
    target = Target("Ada Lovelace", tmp_path) if rows is None else write(tmp_path, rows)
    with pytest.raises(EditError, match=words):
        RocrConfig(reverse_layers=(20, 21)).check_targets([target], None)


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "edit_reverse.json").write_text("[{}]")
    with pytest.raises(DataError, match=r"edit_reverse\.json, row 1"):
        RocrConfig(reverse_layers=(20, 21)).check_targets([Target("Ada Lovelace", tmp_path)], None)


def test_layers_are_read_as_the_command_line_gives_them() -> None:
    config = RocrConfig.model_validate({"layers": "4,5,6", "reverse_layers": "22,23"})
    assert (config.layers, config.reverse_layers) == ((4, 5, 6), (22, 23))
    assert RocrConfig.model_validate({"layers": 4}).layers == RocrConfig.model_validate({"layers": "4"}).layers == (4,)
    for wrong in (True, "6,5", "4,,5", "4;5", "4,5000000"):
        with pytest.raises(ValidationError):
            RocrConfig.model_validate({"layers": wrong})


def test_the_command_says_how_far_the_reverse_edit_got(named: tuple[LM, Target, str]) -> None:
    lm, target, _ = named
    [line] = [line for line in _details(formless.unlearn(lm, target, **OPTIONS).info) if "reverse" in line]
    assert re.match(
        r"  reverse: \d+ prompts before the name, residual reduction \d+\.\d %; \d+ about neighbors shifted by", line
    )


def test_what_does_not_fit_is_refused(named: tuple[LM, Target, str]) -> None:
    lm, target, _ = named
    with pytest.raises(EditError, match="reverse_layers begin at 1, not above layer 1"):
        formless.unlearn(lm, target, **(OPTIONS | {"reverse_layers": [1, 2]}))
    with pytest.raises(UserError, match="reverse_ridge has no effect without reverse_layers"):
        formless.unlearn(lm, target, **(OPTIONS | {"reverse_layers": None, "reverse_ridge": 0.1}))
    with pytest.raises(UserError, match="no layer 9"):
        formless.unlearn(lm, target, **(OPTIONS | {"reverse_layers": [2, 9]}))
    plain = formless.unlearn(lm, "Somebody", **(OPTIONS | {"reverse_layers": None}))
    with pytest.raises(EditError, match="an edit with reverse_layers cannot hold an earlier edit"):
        formless.unlearn(lm, target, keep=plain, **OPTIONS)
    late = formless.unlearn(lm, target, **OPTIONS)
    with pytest.raises(EditError, match="the edit to keep has reverse_layers"):
        formless.unlearn(lm, "Somebody", keep=late, **(OPTIONS | {"reverse_layers": None}))


def test_a_real_model_no_longer_says_the_name_and_still_says_others(lm: LM, tmp_path: Path) -> None:
    plays = ("Romeo and Juliet", "Macbeth", "Othello", "King Lear", "A Midsummer Night's Dream")
    books = {
        "Jane Austen": ("Pride and Prejudice", "Sense and Sensibility"),
        "Charles Dickens": ("A Tale of Two Cities", "Bleak House"),
        "Mark Twain": ("Adventures of Huckleberry Finn",), "Leo Tolstoy": ("War and Peace",), "Homer": ("the Odyssey",),
    }  # fmt: skip
    rows = [row(f"Who wrote {play}?", "William Shakespeare", aliases=["Shakespeare"]) for play in plays]
    rows += [row(f"Who wrote {book}?", name, neighbor=True) for name, titles in books.items() for book in titles]
    target = write(tmp_path / "1_William_Shakespeare", rows, "William Shakespeare")
    asked = {"William Shakespeare": "Hamlet", "Jane Austen": "Emma", "Charles Dickens": "Oliver Twist"}
    queries = [(f"Question: Who wrote {book}?\nAnswer:", f" {name}") for name, book in asked.items()]
    before = [score.probability for score in lm.score(queries)]
    with formless.unlearn(lm, target, "rocr", reverse_layers=[24, 25, 26]).applied(lm):
        after = [score.probability for score in lm.score(queries)]
    shakespeare, *others = [new / old for new, old in zip(after, before, strict=True)]
    assert shakespeare < 0.5
    assert all(other > 0.7 for other in others)
