"""Concept Direction Removal: what moves, what stays, what it takes, and the edit on disk."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

import formless
from formless.data.rows import Aliases, Item
from formless.data.target import Target
from formless.data.words import words_of
from formless.edits.adapter import AdapterEdit
from formless.errors import EditError, UserError
from formless.methods.direction import kept, method
from formless.methods.direction.budget import Others
from formless.methods.direction.config import DirectionConfig
from formless.methods.direction.kept import (
    ABOUT,
    GENERAL,
    MOST_OPENINGS,
    OPENINGS,
    first_words,
    general_questions,
    openings,
    questions_about,
    reference_names,
)
from formless.methods.direction.method import Concept, Kept, remove_directions
from formless.methods.keys.contexts import chat_contexts, up_to
from formless.methods.keys.names import Names
from formless.methods.keys.solve import applied
from formless.methods.keys.token_states import TokenStates
from formless.methods.memory import estimate_memory
from formless.models.capture import capture
from formless.models.lm import LM
from formless.models.meta import load_meta

Tiny = Callable[..., LM]
LAYERS = (1, 2)


def value(lm: LM, name: str, context: int = 0) -> torch.Tensor:
    """The residual stream after the last edited layer at a name, in one chat context."""
    prompt = chat_contexts(lm, name)[context]
    ids = lm.encode(prompt[: prompt.rfind(name) + len(name)], "").ids
    return capture(lm, lm.pad([ids]), residuals=[LAYERS[-1]]).residuals[LAYERS[-1]][0, -1]


def named(folder: Path, *names: str) -> Target:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"name": name, "person": True, "short": name.split()[-1]} for name in names]
    (folder / "aliases.json").write_text(json.dumps(rows), "utf-8")
    return Target(names[0], folder)


@pytest.fixture
def ada(tmp_path: Path) -> Target:
    return named(tmp_path / "1_Ada_Lovelace", "Ada Lovelace", "Charles Babbage", "Grace Hopper")


def test_a_name_moves_against_its_direction_and_neighbors_stay(tiny: Tiny) -> None:
    lm = tiny()
    concept = Concept(Names("Ada", ("Ada",)), {"Bob": ("Bob",), "Eve": ("Eve",)})
    config = DirectionConfig(overshoot=3, budget=1, ridge=1e-8, layers=LAYERS, redirect="none")
    found = remove_directions(lm, [concept], Kept([], [], [], ["Bob was"], ()), config)
    middle = (value(lm, "Bob") + value(lm, "Eve")) / 2
    states = torch.stack([value(lm, "Ada", context) for context in range(6)])
    direction = functional.normalize(states.mean(0) - middle, dim=0)
    edit = formless.unlearn(lm, "Ada", "cdr", layers=LAYERS)
    assert isinstance(edit, AdapterEdit)
    for layer, factors in found.factors.items():
        assert layer in LAYERS
        torch.testing.assert_close(factors.up[:, 0], direction, rtol=1e-4, atol=1e-5)  # each layer's update is of rank one
        assert factors.down.shape == (1, 48)
    updates = {lm.architecture.down_projection_name(layer): factors for layer, factors in found.factors.items()}
    with AdapterEdit(updates, edit.info, edit.adapter).applied(lm):
        ends = torch.stack([value(lm, "Ada", context) for context in range(6)])
        kept = (value(lm, "Bob") + value(lm, "Eve")) / 2
    wanted = states - 3 * ((states - middle) @ direction)[:, None] * direction
    assert (ends - wanted).norm() < 0.1 * (wanted - states).norm()
    assert (kept - middle).norm() < 0.02 * (wanted - states).norm(dim=1).mean()
    assert found.after[0] < 0.1 * found.before[0]
    assert found.kept == 2


def test_further_beyond_and_a_larger_ridge(tiny: Tiny, ada: Target) -> None:
    lm = tiny()
    norms = [_edit(lm, ada, overshoot=overshoot, budget=1).info.layers[0].update_norm for overshoot in (1, 4, 16)]
    assert norms == sorted(norms)
    reductions = [_edit(lm, ada, ridge=ridge).info.facts["residual_reduction"] for ridge in (1e-4, 1, 100)]
    assert reductions == sorted(reductions, reverse=True)
    assert reductions[-1] < 0.2


def test_several_targets_have_one_rank_each_and_do_not_keep_one_another(tiny: Tiny, ada: Target, tmp_path: Path) -> None:
    lm = tiny()
    charles = named(tmp_path / "2_Charles_Babbage", "Charles Babbage", "Ada Lovelace", "Alan Turing")
    edit = _edit(lm, [ada, charles], redirect="none")
    assert {factors.down.shape[0] for factors in edit.updates.values()} == {2}
    assert set(edit.info.facts["protected_shifts"]) == {"Grace Hopper", "Alan Turing"}
    assert [each["residual_reduction"] > 0 for each in edit.info.facts["targets"]] == [True, True]


def test_the_name_is_read_as_its_redirect_and_what_shares_its_keys_still_moves(tiny: Tiny) -> None:
    lm = tiny()
    concept = Concept(Names("Ada", ("Ada", "ADA")), {"Bob": ("Bob",), "Eve": ("Eve",)})
    config = DirectionConfig(layers=(2, 3), overshoot=3, budget=1, ridge=1e-6)
    edit, alone = (
        remove_directions(lm, [concept], Kept([], [], [], ["Bob was"], ()), config, redirects) for redirects in (["Zoe"], [])
    )
    assert list(edit.factors) == [0, 1, 2, 3]
    assert {len(factors.down) for factors in edit.factors.values()} == {3}  # a rank per spelling and one per target
    assert list(alone.factors) == [2, 3]
    names = ("Ada", "ADA", "Zoe", "Eve")
    before = {name: _at(lm, name, 2) for name in names}
    assert edit.redirected is not None
    with applied(lm, edit.redirected.factors):
        after = {name: _at(lm, name, 2) for name in names}
    length = (before["Ada"] - before["Zoe"]).norm()
    for name in ("Ada", "ADA"):
        assert (after[name] - before["Zoe"]).norm() < 0.3 * length
    for name in ("Zoe", "Eve"):
        assert (after[name] - before[name]).norm() < 0.1 * length
    assert edit.redirected.after[0] < 0.2 * edit.redirected.before[0]
    assert alone.redirected is None
    torch.testing.assert_close(edit.factors[3].up[:, 0], alone.factors[3].up[:, 0])  # the direction of the unedited name
    assert edit.factors[3].down.norm() > 0.2 * alone.factors[3].down.norm()
    zoe = _at(lm, "Zoe", 3)
    with applied(lm, edit.factors):
        left = _at(lm, "Ada", 3)
    with applied(lm, edit.redirected.factors), applied(lm, alone.factors):
        summed = _at(lm, "Ada", 3)  # without keys of the redirected name
    assert (left - zoe).norm() < 0.8 * (summed - zoe).norm()


def test_auto_chooses_a_redirect_for_each_target(tiny: Tiny, ada: Target, tmp_path: Path) -> None:
    charles = named(tmp_path / "2_Charles_Babbage", "Charles Babbage", "Ada Lovelace", "Alan Turing")
    found = _edit(tiny(), [ada, charles]).info.facts["targets"]
    for each in found:
        assert each["redirect"] == max(each["redirect_scores"], key=each["redirect_scores"].__getitem__)
    assert "Charles Dickens" not in found[1]["redirect_scores"]  # it shares a word with the target


def test_a_neighbor_that_is_a_target_is_asked_no_kept_question(
    tiny: Tiny, ada: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(method, "questions_about", lambda names: asked.extend(names) or [])
    charles = named(tmp_path / "2_Charles_Babbage", "Charles Babbage", "Ada Lovelace", "Alan Turing")
    formless.unlearn(tiny(), [ada, charles], "cdr", layers=LAYERS)
    assert asked == ["Alan Turing", "Grace Hopper"]


def test_a_name_that_recurs_in_the_prompt_is_read_where_it_stands(tiny: Tiny) -> None:
    """The cue `Answer:` holds an A too."""
    lm = tiny()
    for prompt in up_to(lm, "A"):
        assert "Answer" not in prompt
        assert prompt.endswith(" A")


def test_a_name_is_no_key_where_it_is_the_first_token(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny()
    monkeypatch.setattr(lm.tokenizer, "chat_template", None)
    prompts = up_to(lm, "A")
    assert all(len(lm.encode(prompt, "").ids) > 1 for prompt in prompts)
    assert len(prompts) >= 5


def test_a_name_alone_is_set_apart_from_well_known_names(tiny: Tiny) -> None:
    edit = _edit(tiny(), "Zelda Zweig")
    assert edit.info.facts["protected_shifts"] == {}
    assert edit.info.facts["targets"][0]["neighbors"] == []
    assert edit.info.facts["targets"][0]["spellings"] == ["Zelda Zweig", "zelda zweig"]
    assert edit.info.facts["kept_keys"] > len(GENERAL)


def test_what_leads_to_a_target_is_not_kept() -> None:
    questions = general_questions([Aliases(name="Edvard Munch", short="Munch")])
    assert "Who painted The Scream?" not in questions
    assert len(questions) == len(GENERAL) - 1
    assert "Why is the sky blue?" in questions
    assert "What is the capital of Australia?" not in general_questions([Aliases(name="Australia")])
    names = reference_names(["Taylor Swift"], [Aliases(name="Vincent van Gogh", short="van Gogh")])
    assert "Stephen King" in names
    assert "Taylor Swift" not in names
    assert not [name for name in names if "Gogh" in name]


def test_the_word_that_begins_a_name_is_kept_unless_it_has_a_key_or_says_little() -> None:
    names = [
        Names("Ada Lovelace", ("Ada Lovelace", "Lovelace")),
        Names("The Beatles", ("The Beatles",)),
        Names("Zeno", ("Zeno",)),
    ]
    assert first_words(names) == ["Ada"]
    assert first_words([Names("Leonardo da Vinci", ("Leonardo da Vinci", "leonardo"))]) == []


def test_a_forename_stays_where_it_is(tiny: Tiny, ada: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny()
    monkeypatch.setattr(method, "general_questions", lambda _targets: [])
    monkeypatch.setattr(method, "questions_about", lambda _names: [])
    monkeypatch.setattr(method, "reference_names", lambda _others, _targets: ["Grace"])
    start, shifts = value(lm, "Ada"), []
    for words in (["Ada"], []):
        monkeypatch.setattr(method, "first_words", lambda _names, words=words: words)
        with _edit(lm, ada, budget=1).applied(lm):
            shifts.append(float((value(lm, "Ada") - start).norm()))
    assert shifts[0] < 0.5 * shifts[1]


def test_no_item_of_the_sample_set_is_a_kept_question() -> None:
    general = {question for question, _ in GENERAL}
    for target in formless.targets("sample"):
        for file in ("neighbor_level1", "neighbor_level2", "neighbor_reverse", "forget_level2", "forget_reverse"):
            rows = target.rows(file, Item) if target.has(file) else ()
            kept = general | {about.format(row.neighbor) for row in rows for about in ABOUT}
            assert rows
            assert not {row.query for row in rows} & kept


def test_each_neighbor_is_asked_about_in_two_ways() -> None:
    asked = questions_about(["Bob", "Eve"])
    assert asked == [ABOUT[0].format("Bob"), ABOUT[1].format("Eve"), ABOUT[1].format("Bob"), ABOUT[2].format("Eve")]


def test_states_of_whole_prompts_are_read_once_for_each_beginning(tiny: Tiny) -> None:
    lm = tiny()
    ends, whole = ["a cat", "dog"], ["the sun", "the sea"]
    states = TokenStates(lm, ends, LAYERS, whole)
    keys, values = states.read(1, 1)
    ids = [lm.encode(text, "").ids for text in (*ends, *whole)]
    shared = next(place for place, (one, other) in enumerate(zip(ids[2], ids[3], strict=False)) if one != other)
    places = [(0, len(ids[0]) - 1), (1, len(ids[1]) - 1)]
    places += [(2, place) for place in range(1, len(ids[2]))] + [(3, place) for place in range(shared, len(ids[3]))]
    assert len(keys) == len(values) == len(places)
    for row, (number, place) in enumerate(places):
        found = capture(lm, lm.pad([ids[number]]), keys=[1], residuals=[LAYERS[-1]])
        torch.testing.assert_close(keys[row], found.keys[1][0, place], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(values[row], found.residuals[LAYERS[-1]][0, place], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("depth", "layers"), [(28, (6, 7, 8)), (30, (6, 7, 8)), (12, (3, 4, 5)), (4, (1, 2, 3)), (1, (0,))])
def test_layers_follow_the_depth(depth: int, layers: tuple[int, ...]) -> None:
    assert DirectionConfig().layers_of(depth) == layers
    assert DirectionConfig(layers=(2,)).layers_of(depth) == (2,)


def test_the_edit_goes_as_far_as_the_budget_allows(tiny: Tiny, ada: Target) -> None:
    lm = tiny()
    whole = _edit(lm, ada, overshoot=5, budget=1, redirect="none")
    assert whole.info.facts["budget"]["share"] == 1
    allowed = whole.info.facts["budget"]["change"] / 3
    edit = _edit(lm, ada, overshoot=5, budget=allowed, redirect="none")
    found = edit.info.facts["budget"]
    assert 0 < found["share"] < 1
    assert found["whole_change"] == pytest.approx(whole.info.facts["budget"]["change"])
    assert found["change"] == pytest.approx(allowed, rel=0.3)
    for name, factors in whole.updates.items():
        torch.testing.assert_close(edit.updates[name].dense(), found["share"] * factors.dense())
    redirected, moved = (_edit(lm, ada, overshoot=20, redirect="Zeus", budget=budget) for budget in (1, allowed))
    assert redirected.info.facts["budget"]["redirect_share"] == 1
    found = moved.info.facts["budget"]
    early = lm.architecture.down_projection_name(0)  # is redirected alone
    torch.testing.assert_close(moved.updates[early].dense(), found["redirect_share"] * redirected.updates[early].dense())
    assert found["share"] < found["redirect_share"]
    assert edit.info.facts["residual_reduction"] == pytest.approx(whole.info.facts["residual_reduction"])


def test_a_budget_that_allows_no_movement_is_refused(tiny: Tiny, ada: Target) -> None:
    what = r"2% of the edit changes what is said about others by .*, more than the budget of 0.0% .*: set a larger budget"
    with pytest.raises(EditError, match=what):
        _edit(tiny(), ada, overshoot=100, budget=1e-9)


def test_the_change_is_that_of_what_the_model_says(tiny: Tiny, ada: Target) -> None:
    lm = tiny()
    edit = _edit(lm, ada, overshoot=20, budget=1, redirect="none")
    begun = ["Bob was", "Eve is"]
    texts = lm.generate(begun, max_new_tokens=8, one_line=True)
    asked = [(opening, f" {text}") for opening, text in zip(begun, texts, strict=True)]
    before = [found.probability for found in lm.score(asked)]
    with edit.applied(lm):
        after = [found.probability for found in lm.score(asked)]
    changes = [min(1, abs(new / old - 1)) for old, new in zip(before, after, strict=True)]
    layers = dict(zip(LAYERS, edit.updates.values(), strict=True))
    assert Others(lm, begun, (), budget=1).largest_share(layers).change == pytest.approx(sum(changes) / 2, rel=1e-3)
    own = words_of(" ".join(texts))[:1]
    left = [change for change, text in zip(changes, texts, strict=True) if not {*words_of(text)} & {*own}]
    assert len(left) == 1  # what names a target is left out
    assert Others(lm, begun, own, budget=1).largest_share(layers).change == pytest.approx(left[0], rel=1e-3)
    assert Others(lm, [], (), budget=1).largest_share(layers).share == 1
    with pytest.raises(EditError, match=r"nothing that the model says about others is left .* or set budget=1"):
        Others(lm, [], (), budget=0.5)
    tight = Others(lm, begun, (), budget=sum(changes) / 4)
    first = tight.largest_share(layers)
    assert 0 < first.share < 1
    spent = {layer: factors.scaled(first.share) for layer, factors in layers.items()}
    assert tight.largest_share(layers, spent).share < 0.1  # no more is allowed beside it


def test_texts_about_neighbors_and_well_known_names_are_begun() -> None:
    neighbors, names = [f"N{place}" for place in range(50)], [f"W{place}" for place in range(90)]
    begun = openings(neighbors, names)
    assert len(begun) <= MOST_OPENINGS
    assert sum("N" in text for text in begun) == 13
    assert sum("W" in text for text in begun) == 8
    assert openings(["Bob"], ["Eve"]) == [OPENINGS[0].format("Bob"), OPENINGS[1].format("Eve")]
    assert len(openings([], names)) == 23


def test_what_does_not_fit_is_refused(tiny: Tiny, ada: Target) -> None:
    lm = tiny()
    earlier = _edit(lm, ada)
    with pytest.raises(UserError, match="cdr cannot keep an earlier edit"):
        formless.unlearn(lm, "Grace Hopper", "cdr", keep=earlier)
    with pytest.raises(EditError, match="Ada Lovelace is given twice"):
        formless.unlearn(lm, [ada, "ada lovelace"], "cdr")
    with pytest.raises(EditError, match="no target is given"):
        formless.unlearn(lm, [], "cdr")
    with pytest.raises(UserError, match="no layer 9"):
        formless.unlearn(lm, ada, "cdr", layers=[2, 9])
    with pytest.raises(EditError, match=r"grace hopper is a neighbor of Ada Lovelace \[redirect\]: choose another concept"):
        formless.unlearn(lm, ada, "cdr", redirect="grace hopper")
    with pytest.raises(UserError, match="overshoot"):
        formless.unlearn(lm, ada, "cdr", overshoot=0)


def test_targets_that_share_every_key_and_targets_with_nothing_beside_them(
    tiny: Tiny, ada: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = [{"name": "Noor", "aliases": ["Sol"]}, {"name": "Sol", "aliases": ["Noor"]}]
    (tmp_path / "3_Noor").mkdir()
    (tmp_path / "3_Noor" / "aliases.json").write_text(json.dumps(shared), "utf-8")
    noor = Target("Noor", tmp_path / "3_Noor")
    what = r"no spelling of the name is its own \[Noor: Noor: it also names Sol; noor: .*\]: name it in its aliases.json as"
    for targets in ([noor], [noor, "Sol"]):
        with pytest.raises(EditError, match=what):
            formless.unlearn(tiny(), targets, "cdr")
    monkeypatch.setattr(kept, "bundled_names", lambda: ["Ada Lovelace", "Alan Turing"])
    formless.unlearn(tiny(), ada, "cdr", layers=LAYERS)
    with pytest.raises(EditError, match=r"nothing is known that is to stay .*\[Alan Turing\]: name neighbors in its aliases"):
        formless.unlearn(tiny(), [ada, "Alan Turing"], "cdr")


def test_a_target_with_a_well_known_name_is_not_kept() -> None:
    """No word of it is long enough to tell it."""
    assert "Jay-Z" in reference_names([], [])
    assert "Jay-Z" not in reference_names([], [Aliases(name="Jay-Z")])


def test_the_edit_is_saved(tiny: Tiny, ada: Target, tmp_path: Path) -> None:
    lm = tiny()
    edit = _edit(lm, ada)
    edit.save(tmp_path / "edit")
    loaded = formless.load_edit(tmp_path / "edit")
    assert isinstance(loaded, AdapterEdit)
    assert edit.updates.keys() == loaded.updates.keys()
    for name, factors in edit.updates.items():
        assert torch.equal(loaded.updates[name].up, factors.up)
        assert torch.equal(loaded.updates[name].down, factors.down)


@pytest.mark.slow
def test_its_memory_is_estimated() -> None:
    estimate = estimate_memory(load_meta("smollm2"), "cdr", DirectionConfig())
    assert estimate.device > estimate.weights
    assert estimate.null_spaces == 0


def test_a_real_model_forgets_a_concept_that_is_not_named_and_keeps_others(lm: LM) -> None:
    target = formless.find_target("sample", "Charles Darwin")
    asked = {
        "Charles Darwin": ("Question: Who wrote On the Origin of Species?\nAnswer:", " Charles Darwin"),
        "lower case": ("The book that made charles darwin famous is On the Origin of", " Species"),
        "Jane Austen": ("Question: Who wrote Pride and Prejudice?\nAnswer:", " Jane Austen"),
        "Gregor Mendel": ("Gregor Mendel studied the heredity of", " pea"),
    }
    before = [score.probability for score in lm.score([*asked.values()])]
    with formless.unlearn(lm, target, "cdr").applied(lm):
        after = [score.probability for score in lm.score([*asked.values()])]
    reverse, lower, *others = [new / old for new, old in zip(after, before, strict=True)]
    assert reverse < 0.5
    assert lower < 0.5
    assert all(other > 0.6 for other in others)


def _at(lm: LM, name: str, layer: int) -> torch.Tensor:
    """The residual stream after a layer at a name, the mean over the chat contexts."""
    prompts = [lm.encode(prompt, "").ids for prompt in up_to(lm, name)]
    return torch.stack([capture(lm, lm.pad([ids]), residuals=[layer]).residuals[layer][0, -1] for ids in prompts]).mean(0)


def _edit(lm: LM, target: Any, **settings: Any) -> AdapterEdit:
    edit = formless.unlearn(lm, target, "cdr", **({"layers": LAYERS} | settings))
    assert isinstance(edit, AdapterEdit)
    return edit
