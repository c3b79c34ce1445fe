"""`redirect=auto`: what may be chosen, what is, and what an edit says of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import formless
from formless.data.target import Target
from formless.edits.adapter import AdapterEdit
from formless.errors import EditError
from formless.methods.keys import choice
from formless.methods.keys.candidates import CANDIDATES, candidates_for
from formless.methods.keys.choice import choose_redirects
from formless.methods.keys.contexts import chat_contexts, first_values, mean_layer_output, mentions
from formless.methods.registry import METHODS
from formless.models.lm import LM

Tiny = Callable[..., LM]
OPTIONS: dict[str, Any] = {"method": "rocr", "layers": [1, 2], "basis": "none", "l2": 1e-6}
UNKNOWN = {kind: names[-1] for kind, names in CANDIDATES.items()}


def named(folder: Path, *entries: dict[str, Any]) -> Target:
    (folder / "aliases.json").write_text(json.dumps(entries))
    return Target(entries[0]["name"], folder)


def test_auto_is_the_default_of_rocr() -> None:
    assert METHODS["rocr"].config().redirect == "auto"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Albert Einstein", "person"),
        ("Grace Nobody", "person"),
        ("Paris", "place"),
        ("Mount Everest", "place"),
        ("'Dune'", "work"),
        ("Zorg", None),
    ],
)
def test_candidates_are_of_the_targets_kind_or_of_every_kind(name: str, kind: str | None) -> None:
    found = candidates_for(Target(name), [Target(name)])
    assert found == (CANDIDATES[kind] if kind else tuple(text for texts in CANDIDATES.values() for text in texts))
    assert UNKNOWN[kind or "person"] in found


def test_no_candidate_shares_a_long_word_with_a_target_a_neighbor_or_a_forgotten_concept(tmp_path: Path) -> None:
    marco = {"name": "Marco Rossi", "person": True, "short": "Rossi"}
    target = named(tmp_path, marco, {"name": "Tom Robin", "aliases": ["Tom the Santa"]}, {"name": "Z of O"})
    found = candidates_for(target, [target, Target("Zeus")], ["Babe Didrikson"])
    gone = {"Marco Polo", "Robin Hood", "Santa Claus", "Zeus", "Babe Ruth"}
    assert found == tuple(name for name in CANDIDATES["person"] if name not in gone)


def test_without_a_candidate_the_line_says_to_name_one(monkeypatch: pytest.MonkeyPatch, tiny: Tiny) -> None:
    monkeypatch.setitem(CANDIDATES, "person", ("Zeus",))
    line = r"^every candidate shares a word with a target or a neighbor \[redirect=auto\]: name a redirect yourself"
    with pytest.raises(EditError, match=line):
        formless.unlearn(tiny(), ["Charles Dupont", "Zeus"], **OPTIONS)


def planted(monkeypatch: pytest.MonkeyPatch, values: dict[str, tuple[float, float]]) -> None:
    monkeypatch.setattr(choice, "first_values", lambda _lm, names, _layer: torch.tensor([values[name] for name in names]))
    monkeypatch.setitem(CANDIDATES, "person", ("Zeus", "Homer", "Cleopatra"))


def test_the_farthest_from_target_and_neighbors_wins(monkeypatch: pytest.MonkeyPatch, tiny: Tiny, tmp_path: Path) -> None:
    ada = {"name": "Ada Byron", "person": True}
    target = named(tmp_path, ada, {"name": "Grace H"}, {"name": "Noor K"})
    near = {"Ada Byron": (0.0, 0.0), "Grace H": (9.0, 3.0), "Noor K": (11.0, -3.0)}  # the neighbors' mean is (10, 0)
    planted(monkeypatch, near | {"Zeus": (14.0, 0.0), "Homer": (5.0, 12.0), "Cleopatra": (0.0, 1.0)})
    [found] = choose_redirects(tiny(), [target], 2)
    assert found.redirect == "Homer"  # Zeus is farther from the target, but near the neighbors
    assert list(found.scores) == ["Homer", "Zeus", "Cleopatra"]
    assert [score * 6 for score in found.scores.values()] == pytest.approx([13, 4, 1])
    [alone] = choose_redirects(tiny(), [Target("Ada Byron")], 2)
    assert alone.redirect == "Zeus"


def test_of_equal_scores_the_first_name_wins(monkeypatch: pytest.MonkeyPatch, tiny: Tiny) -> None:
    same = dict.fromkeys(("Zeus", "Homer", "Cleopatra"), (1.0, 1.0))
    planted(monkeypatch, {"Ada Byron": (0.0, 0.0)} | same)
    [found] = choose_redirects(tiny(), [Target("Ada Byron")], 2)
    assert list(found.scores.items()) == [("Cleopatra", 1.0), ("Homer", 1.0), ("Zeus", 1.0)]


def unlearned(lm: LM, *subjects: str, **options: Any) -> AdapterEdit:
    edit = formless.unlearn(lm, list(subjects), **(OPTIONS | options))
    assert isinstance(edit, AdapterEdit)
    return edit


def test_the_edit_is_that_of_the_chosen_redirect_and_says_so(tiny: Tiny) -> None:
    lm = tiny()
    edit = unlearned(lm, "Marie Curie", redirect="auto")
    [said] = edit.info.facts["targets"]
    assert next(iter(said["redirect_scores"])) == said["redirect"] != "auto"
    assert {*said["redirect_scores"]} == {*CANDIDATES["person"]}
    assert f"redirected to {said['redirect']}" in repr(edit)
    again, explicit = unlearned(lm, "Marie Curie"), unlearned(lm, "Marie Curie", redirect=said["redirect"])
    for name, factors in edit.updates.items():
        assert all(torch.equal(factors.dense(), other.updates[name].dense()) for other in (again, explicit))
    assert "redirect" not in explicit.info.facts["targets"][0]


def test_several_targets_have_a_redirect_each_and_avoid_what_is_kept(tiny: Tiny) -> None:
    lm = tiny()
    alone = [unlearned(lm, name).info.facts["targets"][0]["redirect"] for name in ("Marie Curie", "Paris")]
    both = unlearned(lm, "Marie Curie", "Paris")
    assert [target["redirect"] for target in both.info.facts["targets"]] == alone
    assert [alone[0] in CANDIDATES["person"], alone[1] in CANDIDATES["place"]] == [True, True]
    kept = unlearned(lm, alone[0], redirect="Bob", layers=[1, 2])
    [later] = formless.unlearn(lm, "Marie Curie", keep=kept, **OPTIONS).info.facts["targets"]
    assert later["redirect"] != alone[0]


def test_names_read_together_have_the_values_of_names_read_alone(tiny: Tiny) -> None:
    lm = tiny()
    names = ["Zeus", "a person of whom nothing is known", "Ada", "Marco Polo", "Zeus"]
    lm.token_budget = 200  # two or three names at a time
    together = first_values(lm, names, 2)
    alone = [mean_layer_output(lm, mentions(lm, chat_contexts(lm, name)[:1], name), 2) for name in names]
    assert torch.allclose(together, torch.stack(alone), atol=1e-6)
    assert (together[0] - together[2]).abs().max() > 1e-2
