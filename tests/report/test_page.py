"""The page about an experiment, as text; test_browser.py opens it."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from formless.errors import DataError
from formless.evaluation.record import ItemResult, Record, TaskMetric, TaskResult
from formless.report import page as page_module
from formless.report.page import write_experiment_report
from tests.report.made_runs import (
    SPLITS,
    Values,
    fail_run,
    keep_run,
    made_record,
    made_run,
    random_values,
    scored_task,
    write_plan,
    write_runs,
)


def report(out: Path, **keys: str) -> str:
    write_experiment_report(out / "report.html", out, **keys)
    return (out / "report.html").read_text("utf-8")


def ids_and_links(page: str) -> tuple[set[str], set[str]]:
    ids: set[str] = set()
    links: set[str] = set()
    parser = HTMLParser()

    def start(tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        ids.add(known.get("id") or "")
        if tag == "a":
            links.add(known.get("href") or "")

    parser.handle_starttag = start  # type: ignore[method-assign]
    parser.feed(page)
    return ids, links


def test_the_page_holds_every_part_and_needs_nothing_else(tmp_path: Path) -> None:
    runs = write_runs(tmp_path, ("original", "rocr", "ga"), targets=3, seeds=(1, 2), trained=("ga",))
    failed, missing = made_run("npo", "1_Person_1"), made_run("npo", "2_Person_2")
    fail_run(tmp_path, failed, "RuntimeError: <boom>")
    write_plan(tmp_path, [*runs, failed, missing])
    page = report(tmp_path, command="formless report here")
    assert page.count("<svg") == 3 + 1
    assert not re.search(r"(src|href|url\()[=\"'( ]+https?:", page.replace("xmlns:xlink", ""))
    ids, links = ids_and_links(page)
    assert links <= {f"#{name}" for name in ids}
    assert "15 of 17 runs are complete" in page
    assert "tiny npo seed 0 1_Person_1</strong>: RuntimeError: &lt;boom&gt;" in page
    assert "line 1\nboom" in page
    assert "tiny npo seed 0 2_Person_2" in page
    assert "rocr says: &lt;b&gt;somebody&lt;/b&gt; &amp; co." in page
    assert "formless report here" in page
    assert "fingerprint f, float32" in page
    assert "strength 1.0" in page
    assert (tmp_path / "experiment.yaml").read_text().splitlines()[-1] in page


def test_equal_runs_give_equal_pages(tmp_path: Path) -> None:
    write_runs(tmp_path, targets=2, trained=("ga",))
    assert report(tmp_path) == report(tmp_path)


def test_of_a_record_only_what_a_reader_needs_is_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [made_run(label, f"{n}_Person_{n}") for n in range(1, 6) for label in ("original", "rocr")]
    for run in runs:
        record = made_record(run, random_values(run.label, run.target, 0), items=200)
        for result in record.tasks[:-1]:
            result.items[0].query = "an item of the data set"
        record.answers[0].answer = "long " * 1000
        keep_run(tmp_path, run, record)
    write_plan(tmp_path, runs)
    page = report(tmp_path)
    assert "an item of the data set" not in page
    assert page.count("long ") == 5 * 2 * page_module.CHARACTERS // len("long ")
    monkeypatch.setattr(page_module, "ANSWERS", 4)
    page = report(tmp_path)
    assert "Only the first 4 answers are shown" in page
    assert page.count("long ") == 4 * page_module.CHARACTERS // len("long ")


def test_the_page_grows_by_a_little_for_each_target_and_method(tmp_path: Path) -> None:
    sizes = []
    for targets in (5, 10, 15):
        write_runs(tmp_path / str(targets), ("original", "a", "b", "c"), targets=targets)
        sizes.append(len(report(tmp_path / str(targets))))
    assert sizes[2] - sizes[1] == pytest.approx(sizes[1] - sizes[0], rel=0.3)
    assert sizes[2] - sizes[1] < 5 * 4 * 1000  # bytes a target and method: 100 targets x 10 methods stay under 1 MB


def test_many_failures_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "LISTED", 2)
    runs = write_runs(tmp_path, ("original",), targets=1)
    failed = [made_run("npo", f"{n}_Person_{n}") for n in range(5)]
    for run in failed:
        fail_run(tmp_path, run)
    write_plan(tmp_path, [*runs, *failed, *(made_run("ga", f"{n}_Person_{n}") for n in range(4))])
    page = report(tmp_path)
    assert "And 3 more failed." in page
    assert "and 2 more" in page


def test_an_experiment_of_which_nothing_is_done_has_a_page(tmp_path: Path) -> None:
    write_plan(tmp_path, [made_run("rocr", "1_Ada")])
    page = report(tmp_path)
    assert "0 of 1 runs are complete" in page
    assert "<svg" not in page
    with pytest.raises(DataError, match="no experiment was started"):
        report(tmp_path / "nothing")


def test_two_models_stand_under_their_names(tmp_path: Path) -> None:
    runs = [
        made_run(label, "1_Ada", model={"name": model}, inputs={"model": model})
        for model in ("small", "large")
        for label in ("original", "rocr")
    ]
    for run in runs:
        keep_run(tmp_path, run, made_record(run, random_values(run.label, run.target, 0)))
    write_plan(tmp_path, runs)
    page = report(tmp_path)
    assert page.count("<h3>small</h3>") == page.count("<h3>large</h3>") == 6


def with_recall(record: Record, said: int) -> Record:
    """Add answers in words about two known facts, of which some are said."""
    for result in record.tasks:
        for place, item in enumerate(result.items):
            item.fact = f"{result.split} {place}"
    generated = [ItemResult(query="?", fact=f"forget {place}", metrics={"recall": float(place < said)}) for place in range(2)]
    recall = TaskMetric(metric="recall", value=said / 2, n=2)
    record.tasks.append(TaskResult(task="gen_qa", split="forget", status="complete", metrics=[recall], items=generated))
    return record


def test_the_first_screen_names_the_method_that_says_least(tmp_path: Path) -> None:
    kept: dict[str, float] = {"original": 1.0, "rocr": 0.98, "npo": 0.96, "ga": 0.5}
    said = {"original": 2, "rocr": 1, "npo": 2, "ga": 0}
    runs = [made_run(label, f"{n}_Person_{n}") for n in range(1, 6) for label in kept]
    for run in runs:
        values: Values = {(form, split): 0.5 * kept[run.label] for form in ("fb", "qa") for split in SPLITS}
        keep_run(tmp_path, run, with_recall(made_record(run, values), said[run.label]))
    write_plan(tmp_path, runs)
    page = report(tmp_path)
    sentence = (
        "Of the 2 methods that keep at least 95 % of what was known about the neighbors, rocr has the lowest worst-case "
        "recall: 50 % (95 % CI 50 % to 50 %, mean over 5 targets); the original has 100 %."
    )
    assert sentence in page
    rows = [
        re.sub(r"<small>.*?</small>|</?t[hdr].*?>", " ", row).split() for row in page.splitlines() if row.startswith("<tr><th>")
    ]
    first = {row[0]: row[1:] for row in rows[:4]}
    assert first["original"] == ["5", "–", "–", "–", "–", "–"]
    assert first["rocr"][:5] == [
        "5",
        "0.500",
        "1.000",
        "0.020",
        "0.980",
    ]  # targets, recall, the original's, forgetting, retention
    assert first["ga"][:5] == ["5", "0.000", "1.000", "0.500", "0.500"]
    assert page.index(sentence) < page.index("<table>") < page.index("form gap</th>") < page.index("Forgetting by form</h2>")


def test_without_answers_in_words_the_first_screen_says_so(tmp_path: Path) -> None:
    write_runs(tmp_path, targets=2)
    assert "There are no answers in words, so it is not known what the methods&#39; models still say" in report(tmp_path)


def test_heat_maps_of_mentions_stand_before_the_further_numbers(tmp_path: Path) -> None:
    runs = [made_run(label, "1_Ada") for label in ("original", "rocr")]
    for run in runs:
        record = made_record(run, random_values(run.label, run.target, 0))
        asked = scored_task(
            "qa_mentions", "forget", 0.5 if run.label == "original" else 0.1, known=run.label == "original" or None
        )
        for item in asked.items:
            item.group = "alias"
        record.tasks.append(asked)
        keep_run(tmp_path, run, record)
    write_plan(tmp_path, runs)
    page = report(tmp_path)
    assert page.count("Form by mention, about the concept") == 1
    assert page.index('<h2 id="summary">') < page.index("Form by mention, about the concept") < page.index('<h2 id="forms">')
