"""Methods that take keys from names, and ICU, on a question set: they edit all its concepts together."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import formless
from formless.data.spellings import naming
from formless.data.target import Target
from formless.edits.adapter import AdapterEdit
from formless.edits.edit import was_made_for
from formless.edits.prompt import PromptEdit
from formless.errors import DataError, EditError
from formless.methods.keys.names import concepts_of
from formless.methods.registry import check_request, method_config
from formless.models.lm import LM

Tiny = Callable[..., LM]
SUBJECTS = ["Ada Lovelace", "Charles Babbage"]
ROCR: dict[str, Any] = {"method": "rocr", "layers": [1, 2], "basis": "none"}
CDR: dict[str, Any] = {"method": "cdr", "layers": [1, 2], "budget": 1.0}


@pytest.fixture
def questions(tmp_path: Path) -> Target:
    """A question set about two persons, with another one to keep."""
    folder = tmp_path / "sets" / "1_Small_set"
    folder.mkdir(parents=True)
    persons = [{"name": name, "person": True, "short": name.split()[-1]} for name in (*SUBJECTS, "Grace Hopper")]
    files = {
        "forget_qa": [{"question": f"Where was {name} born?", "answer": "In London."} for name in SUBJECTS],
        "neighbor_qa": [{"question": "Where was Grace Hopper born?", "answer": "In New York."}],
        "concepts": persons[:2],
        "aliases": persons[1:],  # a concept of the set among the neighbors is none
    }
    for name, rows in files.items():
        (folder / f"{name}.json").write_text(json.dumps(rows), "utf-8")
    return Target("Small set", folder)


def test_the_concepts_of_a_set(questions: Target) -> None:
    first, second = questions.concepts
    assert [first.subject, second.subject] == SUBJECTS
    assert [entry.name for entry in naming(first)] == ["Ada Lovelace", "Grace Hopper"]
    assert naming(second)[0].short == "Babbage"
    assert first.concepts == (first,)
    assert not first.is_question_set
    assert first.path("forget_qa") == questions.path("forget_qa")
    alone = Target("Marie Curie")
    assert concepts_of([alone, questions]) == [alone, first, second]


def test_a_set_may_be_named_as_one_of_its_concepts(questions: Target) -> None:
    assert [concept.subject for concept in Target("Ada Lovelace", questions.folder).concepts] == SUBJECTS


def test_rocr_edits_all_concepts_together(tiny: Tiny, questions: Target) -> None:
    lm = tiny()
    edit = formless.unlearn(lm, questions, redirect="Bob", mentions="spelled", protect="neighbors", **ROCR)
    assert isinstance(edit, AdapterEdit)
    assert (edit.info.subject, edit.info.subjects) == ("Small set", SUBJECTS)
    assert [each["spellings"] for each in edit.info.facts["targets"]] == [
        ["Ada Lovelace", "ada lovelace", "Lovelace", "A. Lovelace"],
        ["Charles Babbage", "charles babbage", "Babbage", "C. Babbage"],
    ]
    assert [*edit.info.facts["protected_shifts"]] == ["Grace Hopper"]
    by_name = formless.unlearn(lm, questions, redirect="Bob", **ROCR)
    given = formless.unlearn(lm, SUBJECTS, redirect="Bob", **ROCR)
    assert isinstance(by_name, AdapterEdit)
    assert isinstance(given, AdapterEdit)
    for name, factors in given.updates.items():
        assert torch.equal(by_name.updates[name].dense(), factors.dense())


def test_an_edit_of_a_set_is_kept_by_a_later_one(tiny: Tiny, questions: Target) -> None:
    lm = tiny()
    first = formless.unlearn(lm, questions, redirect="Bob", **ROCR)
    both = formless.unlearn(lm, "Marie Curie", redirect="Bob", keep=first, **ROCR)
    assert (both.info.subject, both.info.subjects) == ("Small set + Marie Curie", [*SUBJECTS, "Marie Curie"])
    with pytest.raises(EditError, match="Ada Lovelace is forgotten by the edit to keep already"):
        formless.unlearn(lm, questions, redirect="Bob", keep=first, **ROCR)


def test_cdr_edits_all_concepts_together(tiny: Tiny, questions: Target) -> None:
    edit = formless.unlearn(tiny(context=1024), questions, **CDR)
    assert (edit.info.subject, edit.info.subjects) == ("Small set", SUBJECTS)
    assert [each["neighbors"] for each in edit.info.facts["targets"]] == [["Grace Hopper"]] * 2
    assert all(each["redirect"] not in SUBJECTS for each in edit.info.facts["targets"])


def test_icu_names_all_concepts(tiny: Tiny, questions: Target) -> None:
    edit = formless.unlearn(tiny(), questions, "icu")
    assert isinstance(edit, PromptEdit)
    assert "supposed to unlearn about Ada Lovelace and Charles Babbage and provide answers" in edit.prefix
    assert (edit.info.subject, edit.info.subjects) == ("Small set", SUBJECTS)


@pytest.mark.parametrize("method", ["rocr", "cdr", "icu"])
def test_a_set_that_names_no_concept_is_refused(tiny: Tiny, questions: Target, method: str) -> None:
    line = r"does not say which concepts it is about \[.*1_Small_set\]: name each in concepts.json, in rows as those of aliases"
    path = questions.path("concepts")
    for content in ("[]", None):
        path.write_text(content, "utf-8") if content else path.unlink()
        target = Target(questions.subject, questions.folder)
        with pytest.raises(DataError, match=line):
            check_request(method, method_config(tiny().settings, method, {}), [target], None, {})
    check_request("original", method_config(tiny().settings, "original", {}), [questions], None, {})


def test_whom_an_edit_was_made_for(tiny: Tiny, questions: Target) -> None:
    edit = formless.unlearn(tiny(), [questions, Target("Marie Curie")], redirect="Bob", **ROCR).info.model_dump()
    assert all(was_made_for(edit, subject) for subject in (*SUBJECTS, "Small set", "Marie Curie"))
    assert not was_made_for(edit, "Grace Hopper")
    assert was_made_for({"subject": "Ada"}, "Ada")  # as in records of training methods
    assert not was_made_for({"subject": "unknown", "facts": {"subjects": []}}, "Ada")
