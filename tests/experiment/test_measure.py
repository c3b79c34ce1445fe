from collections.abc import Callable
from pathlib import Path

import pytest

import formless
from formless.data.target import Target
from formless.errors import DataError, EditError
from formless.evaluation.evaluate import run_plan
from formless.experiment.measure import measure_edit, original_record
from formless.models.lm import LM
from formless.report.comparison import compare
from tests.experiment.conftest import counted

Tiny = Callable[..., LM]
OPTIONS = {"method": "rocr", "redirect": "Bob", "layers": [1, 2], "basis": "none", "l2": 0.0}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORMLESS_CACHE", str(tmp_path / "cache"))


def test_the_original_is_measured_once_per_model_target_and_suite(
    tiny: Tiny, target_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm, runs = tiny(), counted(monkeypatch, "formless.experiment.measure.run_plan", run_plan)
    target = Target("Ada Lovelace", target_folder)
    first = original_record(lm, target, "fb")
    assert original_record(lm, target, "fb") == first
    assert len(runs) == 1
    original_record(lm, target, "qa")
    original_record(tiny(seed=1), target, "fb")
    rows = (target_folder / "forget_level1.json").read_text().replace("London", "Oslo")
    (target_folder / "forget_level1.json").write_text(rows)
    changed = original_record(lm, Target("Ada Lovelace", target_folder), "fb")
    assert len(runs) == 4
    assert changed.task("fb", "forget") != first.task("fb", "forget")


def test_other_wording_is_measured_again(tiny: Tiny, target_folder: Path) -> None:
    lm, target = tiny(), Target("Ada Lovelace", target_folder)
    first = original_record(lm, target, "fb")
    lm.style = lm.style.model_copy(update={"direct_answer": True})
    second = original_record(lm, target, "fb")
    assert first.probes_digest != second.probes_digest
    with pytest.raises(DataError, match="asked different items"):
        compare(first, second)


def test_a_cached_record_speaks_of_the_target_at_hand(tiny: Tiny, target_folder: Path) -> None:
    lm = tiny()
    first = original_record(lm, Target("Ada Lovelace", target_folder), "fb")
    other = target_folder.rename(target_folder.with_name("2_Ada_Lovelace"))
    second = original_record(lm, Target("Ada Lovelace", other), "fb")
    assert second.created == first.created
    assert (first.target, second.target) == ("1_Ada_Lovelace", "2_Ada_Lovelace")


def test_a_cache_that_cannot_be_written_loses_nothing(tiny: Tiny, target_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORMLESS_CACHE", "/dev/null/x")
    with pytest.warns(UserWarning, match="is not kept: cannot write"):
        record = original_record(tiny(), Target("Ada Lovelace", target_folder), "fb")
    assert record.status == "complete"


def test_records_of_different_models_are_not_compared(tiny: Tiny, target_folder: Path) -> None:
    target = Target("Ada Lovelace", target_folder)
    with pytest.raises(DataError, match="of different models"):
        compare(original_record(tiny(), target, "fb"), original_record(tiny(seed=1), target, "fb"))


def test_an_edit_of_the_prompt_is_asked_the_same(tiny: Tiny, target_folder: Path) -> None:
    lm, target = tiny(context=1024), Target("Ada Lovelace", target_folder)
    edit = formless.unlearn(lm, target, method="icu")
    outcome = measure_edit(lm, edit, target, "fb,statement")
    assert outcome.edited.probes_digest == outcome.original.probes_digest
    comparison = compare(outcome.original, outcome.edited)
    assert comparison.change("fb", "forget").difference.value != 0
    assert comparison.change("statement", "forget").difference.value == pytest.approx(0, abs=1e-7)  # no prompt to speak before
    assert "supposed to unlearn about Ada Lovelace" in outcome.edited.task("fb", "forget").items[0].prompt  # type: ignore[union-attr]


def test_a_damaged_cache_is_measured_again(tiny: Tiny, target_folder: Path, tmp_path: Path) -> None:
    lm, target = tiny(), Target("Ada Lovelace", target_folder)
    first = original_record(lm, target, "fb")
    (path,) = (tmp_path / "cache" / "original").iterdir()
    path.write_text("{")
    assert original_record(lm, target, "fb").tasks == first.tasks


def test_an_edited_model_is_never_taken_for_the_original(tiny: Tiny, target_folder: Path) -> None:
    lm, target = tiny(), Target("Ada Lovelace", target_folder)
    edit = formless.unlearn(lm, target, **OPTIONS)
    with edit.applied(lm), pytest.raises(EditError, match="has an edit on it"):
        original_record(lm, target, "fb")


def test_a_run_measures_both_and_asks_both(tiny: Tiny, target_folder: Path) -> None:
    lm, target = tiny(), Target("Ada Lovelace", target_folder)
    edit = formless.unlearn(lm, target, **OPTIONS)
    outcome = measure_edit(lm, edit, target)
    assert outcome.original.edits == []
    assert outcome.edited.edits[0]["method"] == "rocr"
    assert [answer.question for answer in outcome.edited.answers] == ["Where was Ada Lovelace born?"]
    assert outcome.original.answers[0].answer != outcome.edited.answers[0].answer
    assert lm.overlay.is_empty
