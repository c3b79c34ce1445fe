"""A key for each spelling of a name, and neighbors' names that are protected."""

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import formless
from formless.data.target import Target
from formless.edits.adapter import AdapterEdit
from formless.errors import DataError, EditError
from formless.methods.keys.contexts import chat_contexts, mean_layer_output, mentions
from formless.methods.keys.names import names_of, protected_names
from formless.methods.rocr.config import RocrConfig
from formless.methods.rocr.redirect import PROTECTED_IN
from formless.models.lm import LM

Tiny = Callable[..., LM]
OPTIONS: dict[str, Any] = {"method": "rocr", "redirect": "Bob", "layers": [1, 2], "basis": "none", "l2": 1e-6}
SPELLED = {"mentions": "spelled"}
LAST = 2
ADA = {"name": "Ada Lovelace", "person": True, "short": "Lovelace", "aliases": ["Lady Byron", "the Countess"]}
GRACE = {"name": "Grace Hopper", "person": True, "short": "Hopper", "aliases": ["the countess"]}


@pytest.fixture
def target(tmp_path: Path) -> Target:
    """A concept with names of its own and a neighbor that shares one of them."""
    folder = tmp_path / "1_Ada_Lovelace"
    folder.mkdir()
    (folder / "aliases.json").write_text(json.dumps([GRACE, ADA]))
    return Target("Ada Lovelace", folder)


def value(lm: LM, name: str, contexts: int | None = None) -> torch.Tensor:
    """Where the residual stream stands at a name, mean over the first chat contexts, or over all."""
    return mean_layer_output(lm, mentions(lm, chat_contexts(lm, name)[:contexts], name), LAST)


def unlearned(lm: LM, target: Any, **options: Any) -> AdapterEdit:
    edit = formless.unlearn(lm, target, **(OPTIONS | options))
    assert isinstance(edit, AdapterEdit)
    return edit


def test_a_spelling_that_also_names_a_neighbor_has_no_key(target: Target) -> None:
    [names] = names_of([target], "spelled")
    assert names.spellings == ("Ada Lovelace", "ada lovelace", "Lovelace", "A. Lovelace", "Lady Byron")
    assert names.dropped == {"the Countess": "it also names Grace Hopper"}
    assert names_of([target], "name")[0].spellings == ("Ada Lovelace",)
    assert protected_names([target], "none", "spelled") == {}
    assert protected_names([target], "neighbors", "name") == {"Grace Hopper": ("Grace Hopper",)}
    spelled = ("Grace Hopper", "grace hopper", "Hopper", "G. Hopper", "the countess")
    assert protected_names([target], "neighbors", "spelled") == {"Grace Hopper": spelled}
    both = [target, Target("grace hopper")]  # a target is not protected, however it is written
    with pytest.raises(EditError, match="no neighbor is known whose name could be protected"):
        protected_names(both, "neighbors", "spelled")


def test_a_surname_or_first_name_that_a_neighbor_bears_has_no_key(tmp_path: Path) -> None:
    own = {"name": "Marie Curie", "person": True, "short": "Curie", "aliases": ["Marie", "the Radium", "Madame Curie"]}
    others = [{"name": "Pierre Curie"}, {"name": "Marie Tussaud", "person": True}, {"name": "The Radium Company"}]
    (tmp_path / "aliases.json").write_text(json.dumps([own, *others]))
    [names] = names_of([Target("Marie Curie", tmp_path)], "spelled")
    assert names.spellings == ("Marie Curie", "marie curie", "M. Curie", "the Radium", "Madame Curie")
    assert names.dropped == {"Curie": "it also names Pierre Curie", "Marie": "it also names Marie Tussaud"}


def test_protection_of_nobody_is_refused_before_the_model_is_loaded() -> None:
    with pytest.raises(EditError, match=r"no neighbor is known .*Nobody Known.*aliases\.json"):
        RocrConfig(protect="neighbors").check_targets([Target("Nobody Known")], None)


def test_a_target_without_a_spelling_of_its_own_is_refused(tmp_path: Path) -> None:
    (tmp_path / "aliases.json").write_text(json.dumps([{"name": "Sun", "aliases": []}, {"name": "Sol", "aliases": ["sun"]}]))
    with pytest.raises(EditError, match=r"no spelling of the name is its own .*Sun: it also names Sol"):
        RocrConfig(mentions="spelled").check_targets([Target("Sun", tmp_path)], None)


@pytest.mark.parametrize(
    ("redirect", "options", "words"),
    [
        ("lovelace", {}, "lovelace names Ada Lovelace, which would be redirected to itself"),
        ("Ada Lovelace's", {}, "Ada Lovelace's names Ada Lovelace, which would be redirected to itself"),
        ("Hopper", {}, "Hopper names Grace Hopper, a neighbor of Ada Lovelace"),
        ("grace hopper", {"protect": "neighbors"}, "grace hopper is a neighbor of Ada Lovelace"),
    ],
)
def test_a_redirect_that_names_target_or_neighbor_is_refused(
    tiny: Tiny, target: Target, redirect: str, options: dict[str, str], words: str
) -> None:
    with pytest.raises(EditError, match=words):
        unlearned(tiny(), target, redirect=redirect, **SPELLED, **options)


def test_a_broken_file_of_names_is_refused(tiny: Tiny, target: Target) -> None:
    target.path("aliases").write_text("[{")
    with pytest.raises(DataError, match=r"aliases\.json"):
        unlearned(tiny(), target, **SPELLED)
    noise = {name: value for name, value in OPTIONS.items() if name != "redirect"}
    formless.unlearn(tiny(), target, mode="noise", **noise)  # the full name alone needs no file


def test_every_spelling_moves_to_the_target_value(tiny: Tiny, target: Target) -> None:
    lm = tiny()
    goal = value(lm, "Bob", 1)
    one, every = unlearned(lm, target), unlearned(lm, target, **SPELLED)
    assert [layer.rank for layer in every.info.layers] == [5, 5]
    said = every.info.facts["targets"][0]
    assert said["spellings"] == ["Ada Lovelace", "ada lovelace", "Lovelace", "A. Lovelace", "Lady Byron"]
    assert said["dropped_spellings"] == {"the Countess": "it also names Grace Hopper"}
    before = {name: float((goal - value(lm, name)).norm()) for name in said["spellings"]}
    left: dict[str, dict[str, float]] = {}
    for how, edit in {"one key": one, "spelled": every}.items():
        with edit.applied(lm):
            left[how] = {name: float((goal - value(lm, name)).norm()) for name in before}
    assert all(left["spelled"][name] < 0.2 * before[name] for name in before)
    assert left["one key"]["Lady Byron"] > 2 * left["spelled"]["Lady Byron"]
    total = [sum(norm**2 for norm in norms.values()) ** 0.5 for norms in (before, left["spelled"])]
    assert said["residual_reduction"] == pytest.approx(1 - total[1] / total[0], abs=1e-3)


def test_protected_names_move_less(tiny: Tiny, target: Target) -> None:
    lm = tiny()
    names = ("Grace Hopper", "grace hopper", "Hopper", "G. Hopper", "the countess")
    before = {name: value(lm, name, PROTECTED_IN) for name in names}
    moved: dict[str, dict[str, float]] = {}
    for protect in ("none", "neighbors"):
        edit = unlearned(lm, target, **SPELLED, protect=protect)
        with edit.applied(lm):
            moved[protect] = {name: float((value(lm, name, PROTECTED_IN) - before[name]).norm()) for name in names}
    assert sum(moved["neighbors"].values()) < 0.6 * sum(moved["none"].values()), moved
    assert [layer.rank for layer in edit.info.layers] == [5, 5]  # protected keys add no rank
    goal = value(lm, "Bob", 1)
    own = [float((goal - value(lm, name)).norm()) for name in edit.info.facts["targets"][0]["spellings"]]
    shift = statistics.mean(moved["neighbors"].values()) / statistics.mean(own)
    assert edit.info.facts["protected_shifts"] == {"Grace Hopper": pytest.approx(shift, rel=1e-3)}


def test_an_earlier_edit_of_all_spellings_stays_beside_a_new_one(tiny: Tiny, target: Target, tmp_path: Path) -> None:
    lm = tiny()
    unlearned(lm, target, **SPELLED).save(tmp_path / "earlier")
    earlier = formless.load_edit(tmp_path / "earlier")
    with earlier.applied(lm):
        then = value(lm, "Lady Byron")
    both, alone = unlearned(lm, "Noor", keep=earlier), unlearned(lm, "Noor")
    assert [layer.rank for layer in both.info.layers] == [6, 6]
    with both.applied(lm):
        moved = float((value(lm, "Lady Byron") - then).norm())
    with earlier.applied(lm), alone.applied(lm):
        stacked = float((value(lm, "Lady Byron") - then).norm())
    assert moved < 0.5 * stacked
    third, alone = unlearned(lm, "Emmy", keep=both), unlearned(lm, "Emmy")  # it knows what the first one has keys for
    with both.applied(lm):
        then = value(lm, "Lady Byron")
    with third.applied(lm):
        moved = float((value(lm, "Lady Byron") - then).norm())
    with both.applied(lm), alone.applied(lm):
        assert moved < 0.5 * float((value(lm, "Lady Byron") - then).norm())
