"""Many ROCR edits: the tools on a tiny model, and their pages from made-up numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from formless.data.ort import find_target
from formless.data.target import Target
from formless.edits.adapter import AdapterEdit
from formless.edits.loading import load_edit
from formless.methods.keys.closed_form import Identity, closed_form
from formless.methods.keys.contexts import chat_contexts, mean_layer_output, mentions
from formless.methods.rocr.config import RocrConfig
from formless.models.lm import LM
from tests.test_concept_counts import ITEM, made_original
from tools import stacked_edits, stacked_effects, stacked_keys
from tools.known_items import DEVELOPMENT
from tools.stacked_edits import KEPT, STACKED, extended
from tools.stacked_effects import COUNTS, Instruments

Tiny = Callable[..., LM]
NAMES = [Target(name) for name in ("Ada Lovelace", "Alan Turing", "Jane Goodall")]
SMALL = {"layers": (1, 2), "basis": "none", "redirect": "Donald Trump", "l2": 1e-6}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tool edit layers that a tiny model has, without a null space."""
    for module in (stacked_edits, stacked_effects, stacked_keys):
        monkeypatch.setattr(module, "CONFIG", RocrConfig(**SMALL))
        monkeypatch.setattr(module, "SETTINGS", {"method": "rocr"} | SMALL)


def test_the_concepts_with_known_items_stand_at_their_places() -> None:
    first = [find_target("sample", number) for number in DEVELOPMENT]
    names = [target.subject for target in stacked_effects.people(first)]
    assert len(names) == len({*names}) == COUNTS[-1]
    assert {name: names.index(name) + 1 for name in stacked_effects.PLACES} == stacked_effects.PLACES
    assert not {*stacked_effects.neighbors(first, names)} & {*names}


def test_the_mean_value_of_a_name_is_that_of_the_edit(tiny: Tiny) -> None:
    lm = tiny()
    expected = mean_layer_output(lm, mentions(lm, chat_contexts(lm, "Ada"), "Ada"), 2)
    assert torch.allclose(stacked_effects.NameStates(lm, ["Eve", "Ada"], (1, 2)).values()[1], expected, atol=1e-5)


@pytest.mark.usefixtures("small")
def test_a_sequence_goes_on_from_a_saved_edit(tiny: Tiny, tmp_path: Path) -> None:
    lm = tiny()
    for way in (KEPT, STACKED):
        whole, seconds = extended(lm, way, None, NAMES)
        part, _ = extended(lm, way, None, NAMES[:2])
        part.save(tmp_path / way)
        loaded = load_edit(tmp_path / way)
        assert isinstance(loaded, AdapterEdit)
        resumed, _ = extended(lm, way, loaded, NAMES[2:])
        assert len(seconds) == 3
        for name, factors in whole.updates.items():
            assert factors.down.shape == (3, 48)
            assert torch.allclose(factors.dense(), resumed.updates[name].dense(), atol=1e-5)


@pytest.mark.usefixtures("small")
def test_what_a_sequence_costs_is_stored_at_every_stop(tiny: Tiny, tmp_path: Path) -> None:
    lm = tiny()
    stacked_edits.sequence(lm, tmp_path, NAMES, 1, KEPT)
    before = (tmp_path / "kept-1.json").read_text("utf-8")
    stacked_edits.sequence(lm, tmp_path, NAMES, 2, KEPT)
    assert (tmp_path / "kept-1.json").read_text("utf-8") == before
    assert len(json.loads((tmp_path / "kept-2.json").read_text("utf-8"))["seconds"]) == 1
    assert load_edit(tmp_path / "edits" / "kept-2").info.subjects == ["Ada Lovelace", "Alan Turing"]
    stacked_edits.joint(lm, tmp_path, NAMES, 2)
    assert load_edit(tmp_path / "edits" / "joint-2").info.subjects == ["Ada Lovelace", "Alan Turing"]
    assert stacked_edits.whole(tmp_path, KEPT, 2) is None  # nothing was asked yet


@pytest.mark.usefixtures("small")
def test_a_stacked_edit_moves_earlier_names_and_a_kept_one_does_not(tiny: Tiny) -> None:
    lm = tiny()
    given = Instruments(lm, NAMES, [find_target("sample", "1")], {"Ada Lovelace": [ITEM]})
    found = {way: given.effects(lm, extended(lm, way, None, NAMES)[0], 3) for way in (KEPT, STACKED)}
    for one in found.values():
        assert len(one["reductions"]) == 3
        assert len(one["neighbors_moved"]) == len(given.neighbors.names)
        assert one["bytes"] == 3 * (32 + 48) * 4 * 2
    assert found[KEPT]["reductions"][0] > found[STACKED]["reductions"][0]
    assert found[KEPT]["reductions"][0] > 0.9


def test_equal_keys_share_everything_and_pull_whole() -> None:
    keys = torch.eye(3, 8)
    found = stacked_keys.geometry(keys, {"like": keys[:1], "other": torch.eye(8)[5:]}, Identity(), 0.0, 1)
    assert (found["rank"], found["effective_rank"]) == (3, pytest.approx(3))
    assert (found["cosine"], found["largest_cosine"], found["new_in_span"]) == (0.0, 0.0, 0.0)
    assert (found["like_in_span"], found["like_pull"]) == (pytest.approx(1), pytest.approx(1))
    assert (found["other_in_span"], found["other_pull"]) == (pytest.approx(0), pytest.approx(0))
    twice = stacked_keys.geometry(torch.ones(2, 4), {}, Identity(), 1.0, 1)
    assert (twice["rank"], twice["new_in_span"]) == (1, pytest.approx(1))
    assert twice["condition"] == pytest.approx(9)  # eigenvalues 1 + 8 and 1


def test_the_pull_is_that_of_the_closed_form() -> None:
    torch.manual_seed(0)
    keys, other, residual = torch.randn(4, 9), torch.randn(2, 9), torch.randn(1, 5)
    found = stacked_keys.geometry(keys, {"other": other}, Identity(), 2.0, 0)
    shift = other @ closed_form(keys, residual.expand(4, 5), Identity(), 2.0).dense().T  # all keys have one residual
    pull = (shift @ residual.T / residual.square().sum()).mean()
    assert found["other_pull"] == pytest.approx(float(pull), rel=1e-4)


def test_directions_that_are_taken_out_have_no_update() -> None:
    basis = torch.linalg.qr(torch.randn(6, 2))[0].T
    keys = torch.randn(3, 6)
    left = stacked_keys.Without(Identity(), basis).apply(keys)
    assert torch.allclose(left @ basis.T, torch.zeros(3, 2), atol=1e-5)
    assert torch.allclose(stacked_keys.Without(Identity(), basis).apply(left), left, atol=1e-5)


@pytest.mark.usefixtures("small")
def test_the_first_direction_of_names_is_taken_out(tiny: Tiny) -> None:
    lm = tiny()
    states = stacked_effects.NameStates(lm, [target.subject for target in NAMES], (1, 2))
    found = stacked_keys.directions(states, {1: Identity(), 2: Identity()}, 1)
    keys = states.keys(1)
    assert float(found[1].apply(keys).norm()) < 0.9 * float(keys.norm())


@pytest.mark.usefixtures("small")
def test_the_changed_solves_are_edits_of_all_concepts(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacked_keys, "bundled_names", lambda: ("Ada Lovelace", "Niels Bohr", "Homer", "Plato"))
    lm, names = tiny(), [target.subject for target in NAMES]
    found = stacked_keys.repairs(lm, names)
    (kept,) = [name for name in found if name.endswith("kept in place")]
    assert kept.startswith("2 ")  # neither edited, nor a neighbor that is asked about
    plain, *others = (found[name]() for name in ("λ = 10", kept, "without the first direction of other names"))
    for edit in others:
        assert [len(factors.down) for factors in edit.updates.values()] == [3, 3]
        assert any(not torch.equal(factors.down, plain.updates[name].down) for name, factors in edit.updates.items())


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A folder of made-up measurements of two joint edits and one repair."""
    (tmp_path / "original").mkdir()
    for name in stacked_effects.PLACES:
        made_original("Niels Bohr", "Max Planck").save(tmp_path / "original" / f"{name}.json")
    after = {
        name: [item.before * (0.1 if item.split == "forget" else 0.9) for item in items]
        for name, items in stacked_effects.known(tmp_path).items()
    }
    one = {
        "after": after, "general": {"answers": [-1.0], "texts": [-2.0]}, "reductions": [0.9, 0.5],
        "neighbors_moved": [0.1, 0.3], "redirect_moved": 0.25, "bytes": 3000, "norms": [0.1, 0.2],
    }  # fmt: skip
    (tmp_path / "before.json").write_text(json.dumps({"answers": [-1.0], "texts": [-2.0]}), "utf-8")
    for name, seconds in {"joint-2": 2.0, "kept-1": 1.0, "kept-2": 2.0}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"seconds": [seconds], "peak": 2**20}), "utf-8")
        (tmp_path / f"{name}-effects.json").write_text(json.dumps(one), "utf-8")
    (tmp_path / "repair-00.json").write_text(json.dumps(one | {"name": "λ = 10"}), "utf-8")
    return tmp_path


def test_the_page_has_a_row_for_what_was_measured(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacked_edits, "FOLDER", made)
    page = stacked_edits.page(made)
    said = [-90.0, -90.0, None, -90.0, -10.0, 0.0, 0.0, 70.0, 50.0, 90.0, 50.0, 20.0]
    assert page.rows[0] == ["joint", 2, *said, 20.0, 25.0, 3.0, 2.0, 2.0, 1]
    assert page.rows[2][-3:] == [3.0, 2.0, 1]  # seconds of both, of the last, memory
    assert [row[:2] for row in page.rows] == [["joint", 2], ["kept", 1], ["kept", 2]]
    assert "joint, 1; joint, 5" in page.notes[-1]
    assert (made / "stacked_edits.svg").read_text("utf-8").startswith("<svg ")


def test_the_page_of_repairs(made: Path) -> None:
    (made / "joint-50-effects.json").write_text((made / "joint-2-effects.json").read_text("utf-8"), "utf-8")
    rows = stacked_keys.repairs_page(made).rows
    assert [(row[0], row[1], row[-1]) for row in rows] == [("as published", -90.0, 20.0), ("λ = 10", -90.0, 20.0)]


def test_the_page_of_keys(tmp_path: Path) -> None:
    texts = {name: torch.randn(3, 8) for name in ("neighbors", "cues", "texts")}
    one = stacked_keys.geometry(torch.randn(4, 8), texts, Identity(), 1.0, 0)
    found = {f"{kind}-{count}": one for kind in ("null", "all") for count in COUNTS} | {"dimensions": 6, "of": 8}
    for layer in stacked_effects.CONFIG.layers:
        (tmp_path / f"keys-{layer}.json").write_text(json.dumps(found), "utf-8")
    page = stacked_keys.keys_page(tmp_path)
    assert len(page.rows) == 3 * 2 * len(COUNTS)
    assert page.rows[0][:5] == [4, "null space", 6, 1, 100.0]
