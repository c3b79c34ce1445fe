"""Edits of many concepts and of many contexts: the tools on a tiny model, and their pages from made-up numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from formless.data.ort import find_target
from formless.data.questions.mentions import bundled_aliases, bundled_names
from formless.data.rows import Split
from formless.data.target import Target
from formless.evaluation.record import ItemResult, Record
from formless.methods.keys.contexts import up_to
from formless.methods.keys.names import names_of
from formless.models.lm import LM
from tests.report.made_runs import made_record, made_run
from tools import concept_counts, context_counts
from tools.known_items import DEVELOPMENT, KnownItem, change, items_of, probabilities, stored

Tiny = Callable[..., LM]
ITEM = KnownItem("forget", "Where was Ada born?", " London", 0.5)


def made_original(*names: str) -> Record:
    """A record with a known question of each split about each name."""
    values: dict[tuple[str, Split], float] = {("qa", "forget"): 0.5, ("qa", "neighbor"): 0.5}
    record = made_record(made_run("original", "1_X"), values, items=len(names))
    for result in record.tasks[:2]:
        for item, name in zip(result.items, names, strict=True):
            item.fact = f"{name.casefold()}: fact"
    return record


def test_an_item_about_another_target_is_left_out() -> None:
    record = made_original("Isaac Newton", "Niels Bohr")
    every, apart = items_of(record), items_of(record, ["Isaac Newton"])
    assert [item.split for item in apart].count("forget") == [item.split for item in every].count("forget")
    assert [item.split for item in apart].count("neighbor") == [item.split for item in every].count("neighbor") - 1
    assert all(item.before == 0.5 for item in every)


def test_an_item_that_is_not_known_is_left_out() -> None:
    record = made_original("Niels Bohr")
    record.tasks[0].items.append(ItemResult(query="q", prompt="p", expected=" a", metrics={"probability": 0.1, "known": 0.0}))
    assert [item.before for item in items_of(record)].count(0.1) == 0


def test_a_change_is_the_geometric_mean_over_concepts() -> None:
    both = [([ITEM, ITEM], [0.25, 0.25]), ([ITEM], [0.0625])]  # 0.5 and 0.125 of it
    assert change(both, "forget") == -75.0
    assert change(both, "neighbor") is None


def test_what_is_stored_is_not_computed_again(tmp_path: Path) -> None:
    assert stored(tmp_path / "a" / "one.json", lambda: {"x": 1}) == {"x": 1}
    assert stored(tmp_path / "a" / "one.json", lambda: {"x": 2}) == {"x": 1}


def test_many_concepts_have_a_rank_each(tiny: Tiny) -> None:
    lm = tiny()
    targets = [Target(name) for name in ("Ada Lovelace", "Alan Turing", "Jane Goodall")]
    found = concept_counts.measure(lm, "cdr", targets, {"Ada Lovelace": [ITEM]})
    spellings = sum(len(names.spellings) for names in names_of(targets, "spelled"))
    assert found["rank"] == 3 + spellings
    assert len(found["each"]) == 3
    assert [*found["after"]] == ["Ada Lovelace"]
    assert found["bytes"] == 4 * (3 + spellings) * (32 + 48) * 4  # float32, four layers


def test_the_concepts_are_enough_and_each_once() -> None:
    first = [Target(name) for name in ("Albert Einstein", "Isaac Newton", "Charles Darwin", "Marie Curie")]
    names = [target.subject for target in concept_counts.concepts(concept_counts.COUNTS[-1], first)]
    assert len(names) == len({*names}) == concept_counts.COUNTS[-1]
    assert all(bundled_aliases(name) for name in concept_counts.RWKU)
    assert not {*concept_counts.OTHERS} & {*bundled_names()}


def test_the_page_has_a_row_for_what_was_reached(tmp_path: Path) -> None:
    names = [find_target("sample", number).subject for number in DEVELOPMENT]
    for name in names:
        path = tmp_path / "original" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        made_original("Niels Bohr", "Max Planck").save(path)
    items = items_of(made_original("Niels Bohr", "Max Planck"))
    after = [item.before * (0.1 if item.split == "forget" else 0.9) for item in items]
    one = {"seconds": 20.0, "rank": 10, "kept": 5, "bytes": 1000, "reduction": 0.8, "each": [0.9, 0.5, 0.7]}
    one |= {"shares": {"redirect_share": 1.0, "share": 0.4}}
    stored(tmp_path / "cdr-10.json", lambda: one | {"after": dict.fromkeys(names, after)})
    page = concept_counts.page(tmp_path)
    assert page.rows == [
        ["concept direction removal", 10, -90.0, -10.0, 100.0, 40.0, 80.0, 70.0, 50.0, 5, 10, 1.0, 20.0, 2.0]
    ]  # fmt: skip
    assert "concept direction removal, 1 concepts; concept direction removal, 50 concepts" in page.notes[-1]


@pytest.mark.parametrize("label", ["1", "4", context_counts.WRITTEN])
def test_a_label_says_in_which_contexts_a_spelling_is_read(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, label: str) -> None:
    lm = tiny()
    written = ["Was Ada Lovelace a poet?", "Ada Lovelace wrote. Later Ada Lovelace died."]
    monkeypatch.setattr(lm, "generate", lambda *_, **__: written, raising=False)
    found = context_counts.contexts_of(lm, "Ada Lovelace", label)(lm, "Ada")
    assert all(prompt.endswith("Ada") for prompt in found)
    assert found[: len(up_to(lm, "Ada"))] == up_to(lm, "Ada", None if label == context_counts.WRITTEN else int(label))
    if label == context_counts.WRITTEN:
        assert found[6:] == [lm.chat_prompt(written[0]).partition("Ada Lovelace")[0] + "Ada", "Ada wrote. Later Ada"]


def test_more_contexts_are_more_keys(tiny: Tiny) -> None:
    lm = tiny()
    one, six = (context_counts.measure(lm, Target("Ada Lovelace"), label, [ITEM]) for label in ("1", "6"))
    assert (one["contexts"], six["contexts"]) == (1, 6)
    assert len(six["after"]) == 1
    assert one["after"] != six["after"]
    assert probabilities(lm, [ITEM]) != six["after"]


def test_the_page_of_contexts(tmp_path: Path) -> None:
    items = items_of(made_original("Niels Bohr", "Max Planck"))
    for number in DEVELOPMENT:
        name = find_target("sample", number).subject
        path = tmp_path / "original" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        made_original("Niels Bohr", "Max Planck").save(path)
        after = [item.before * (0.2 if item.split == "forget" else 1.1) for item in items]
        found = {"contexts": 1, "seconds": 2.0, "reduction": 0.5, "after": after}
        (tmp_path / f"1-{name}.json").write_text(json.dumps(found), "utf-8")
    page = context_counts.page("smollm2", tmp_path)
    assert page.rows == [[1, "1", -80.0, 10.0, 10.0, 50.0, 2.0]]
    assert page.n.startswith("4 development concepts")
    assert page.notes[-1] == "Not measured: 2, 3, 4, 5, 6, 6 + written."
