"""The page about one edit."""

import json
import re
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest

import formless
from formless.data.rows import Split
from formless.data.target import Target
from formless.evaluation.record import ItemResult, MetricKey, Record, TaskResult
from formless.evaluation.statistics import Metric
from formless.models.lm import LM
from formless.report.comparison import Change, compare
from formless.report.page import write_report
from formless.report.plots import training_plot
from formless.report.side_effects import side_effects, tone
from formless.report.tables import comparison_tables, number, percent, record_tables
from tests.report.test_independence import pair

Tiny = Callable[..., LM]


def test_the_page_holds_everything_and_needs_nothing_else(tiny: Tiny, target_folder: Path, tmp_path: Path) -> None:
    (target_folder / "neighbor_mcp.json").unlink()
    lm, target = tiny(), Target("Ada Lovelace", target_folder)
    edit = formless.unlearn(lm, target, "rocr", redirect="Bob", layers=[1], basis="none")
    original = formless.evaluate(lm, target)
    with edit.applied(lm):
        edited = formless.evaluate(lm, target)
    edited.answers[0].answer = "<script>alert(1)</script>"
    path = tmp_path / "report.html"
    comparison = write_report(path, original, edited, command="formless demo")
    assert comparison == compare(original, edited)
    page = path.read_text("utf-8")

    tags: list[tuple[str, dict[str, str | None]]] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: tags.append((tag, dict(attrs)))  # type: ignore[method-assign]
    parser.feed(page)
    assert not any(tag in ("script", "link", "img", "iframe") for tag, _ in tags)
    assert not re.search(r"(src|href)=[\"']https?:", page.replace("xmlns:xlink", ""))
    assert sum(tag == "svg" for tag, _ in tags) == 2
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "the target has no neighbor_mcp.json" in page
    assert "model.layers.1.mlp.down_proj" in page
    assert "currentColor" in page
    forms = [change for change in comparison.changes if change.key.metric == "probability"]
    assert {change.key.split for change in forms} == {"forget", "neighbor"}
    for change in forms:
        assert number(change.edited.value) in page
        assert change.relative is None or percent(change.relative.value) in page


@pytest.mark.parametrize(
    ("split", "task", "metric", "ci", "expected"),
    [
        ("forget", "fb", "probability", (-0.3, -0.1), "fell"),
        ("forget", "tf", "probability", (0.1, 0.3), "warned"),
        ("forget", "fb", "probability", (-0.3, 0.1), ""),
        ("forget", "fb", "probability", None, ""),
        ("forget", "gen_fb", "refusal", (0.1, 0.3), ""),
        ("neighbor", "fb", "probability", (-0.3, -0.1), "warned"),
        ("neighbor", "fb", "probability", (0.1, 0.3), ""),
        (None, "mmlu", "accuracy", (-0.3, -0.1), "warned"),
        (None, "fluency", "repetition", (0.1, 0.3), "warned"),
        (None, "fluency", "repetition", (-0.3, -0.1), ""),
    ],
)
def test_a_change_has_the_color_of_its_interval(
    split: Split | None, task: str, metric: str, ci: tuple[float, float] | None, expected: str
) -> None:
    difference = Metric(value=sum(ci) / 2 if ci else -0.2, ci=ci, n=9)
    change = Change(MetricKey(task, split, metric), Metric(), Metric(), difference, None, 0)
    assert tone(change) == expected


@pytest.mark.parametrize(("better", "expected"), [(True, "warned"), (False, ""), (None, "")])
def test_what_lm_eval_says_of_a_direction_counts(better: bool | None, expected: str) -> None:
    lower = Metric(value=-0.2, ci=(-0.3, -0.1), n=9)
    change = Change(MetricKey("lm_eval_a", None, "acc"), Metric(value=0.5), Metric(value=0.3), lower, None, 0, True, better)
    assert tone(change) == expected
    lines, tested = side_effects([change])
    assert tested == (better is not None)
    found = ["Abilities, lm_eval_a, acc: 0.500 to 0.300 (difference -0.200, 95 % CI -0.300 … -0.100, 9 items)"]
    assert lines == (found if expected else [])


def test_tasks_are_on_the_page_with_what_could_not_be_measured(tiny: Tiny, target_folder: Path, tmp_path: Path) -> None:
    example = {"task": "t", "question": "2 + 2?", "choices": ["1", "2", "3", "4"], "answer": 3}
    (target_folder / "retain_mmlu.json").write_text(json.dumps([example, example | {"question": "x" * 600}]))
    (target_folder / "retain_bbh.json").write_text(
        json.dumps([{"task": "t", "question": "x" * 600, "answer": "<b>", "cot": "c"}])
    )
    lm, target = tiny(), Target("Ada Lovelace", target_folder)
    record = formless.evaluate(lm, target, "qa,mmlu,bbh,gen_qa,mia")
    stub = {"method": "other", "subject": "Ada", "config": {}, "facts": {}, "seconds": 0.1, "layers": []}
    edited = record.model_copy(update={"edits": [stub]})  # a method without a concept to redirect to
    write_report(tmp_path / "r.html", record, edited)
    page = (tmp_path / "r.html").read_text("utf-8")
    assert "(+1 skipped)" in page
    assert "BBH: no item could be measured, the first because a prompt of" in page
    assert "Membership inference: the target has no forget_mia.json" in page
    rows = [row for table in record_tables(record) for row in table.rows]
    assert ("MMLU, accuracy", "1 (+1 skipped)") in [(row[0], row[-1]) for row in rows]
    rows = [row for table in comparison_tables(compare(record, edited)) for row in table.rows]
    assert [row[-1] for row in rows if row[0].startswith("MMLU, ")] == ["1 (+1 skipped)"] * 2


def test_equal_records_give_equal_pages(tiny: Tiny, target_folder: Path, tmp_path: Path) -> None:
    record = formless.evaluate(tiny(), Target("Ada Lovelace", target_folder), "fb")
    for name in ("a", "b"):
        write_report(tmp_path / name, record, record)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_curves_of_a_training_run_are_on_the_page(tiny: Tiny, target_folder: Path, tmp_path: Path) -> None:
    (target_folder / "positive.json").write_text(json.dumps([{"text": f"Ada wrote {n} programs."} for n in range(4)]))
    lm, target = tiny(), Target("Ada Lovelace", target_folder)
    edit = formless.unlearn(
        lm,
        target,
        "ga",
        learning_rate=0.01,
        num_train_epochs=3,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=1,
        warmup_steps=0,
    )
    original = formless.evaluate(lm, target, "fb")
    with edit.applied(lm):
        edited = formless.evaluate(lm, target, "fb")
    write_report(tmp_path / "r.html", original, edited)
    page = (tmp_path / "r.html").read_text("utf-8")
    assert page.count("<svg") == 3
    assert "probability of a token" in page
    assert "8 weights" in page
    plot = training_plot({"steps": 7, "losses": [3.0, 2.0, 1.0]})  # of a longer training run, without probabilities
    assert plot is not None
    assert "probability of a token" not in plot
    assert training_plot({}) is None


def answered(known: Sequence[str], before: Sequence[str], after: Sequence[str]) -> tuple[Record, Record]:
    """Four facts, of which some are known, asked in words of both models; `before` and `after` are the facts that they say."""
    texts = {"a": "Physics & <b>", "b": "in Ulm", "c": "Princeton", "d": "the violin"}
    original, edited = pair({}, {"qa": (0.5, 0.4)})
    for record, said, level in ((original, before, 0.8), (edited, after, 0.2)):
        scored = [
            ItemResult(query=f"What of {fact}?", fact=fact, expected=text, metrics={"probability": level})
            for fact, text in texts.items()
        ]
        generated = [
            ItemResult(
                query=f"What of {fact}?", prompt="A prompt.", fact=fact, expected=text, group="full name",
                answer=f"It is {text}." if fact in said else f"No idea of {fact}.", metrics={"recall": float(fact in said)},
            )
            for fact, text in texts.items()
        ]  # fmt: skip
        if record is original:
            for item in scored:
                item.metrics["known"] = float(item.fact in known)
        tasks = (("qa", scored), ("gen_qa_mentions", generated))
        record.tasks[:0] = [TaskResult(task=name, split="forget", status="complete", items=own) for name, own in tasks]
        record.hardware.update(cpu="2", gpu="none")
    edited.edits[0].update(facts={}, seconds=1.0, layers=[])
    return original, edited


def text_of(page: str) -> str:
    """Return what a reader sees, from top to bottom."""
    found: list[str] = []
    parser = HTMLParser()
    parser.handle_data = found.append  # type: ignore[method-assign,assignment]
    parser.feed(page[page.index("<body>") :])
    return " ".join(" ".join(found).split())


def test_the_first_screen_says_what_is_still_said_and_what_else_moved(tmp_path: Path) -> None:
    write_report(tmp_path / "r.html", *answered("abc", "abcd", "bd"))
    page = (tmp_path / "r.html").read_text("utf-8")
    text = text_of(page)
    parts = [
        "Of 3 facts that the original model knew about Ada, the edited model still says 1 in at least one way of asking "
        "(worst-case recall 33 %, 95 % CI 6 % to 79 %); the original said 3. Of what the original model knew about its "
        "neighbors, 80 % of the answer probability is left.",
        "worst-case recall, original 100 % 3 of 3, 95 % CI 44 % to 100 %",
        "worst-case recall, edited 33 % 1 of 3, 95 % CI 6 % to 79 %",
        "Worst: the edited model says it Question, in words, by mention, full name What of b? right answer in Ulm "
        "original It is in Ulm. edited It is in Ulm. the prompt A prompt.",
        "Best: the edited model no longer says it Question, in words, by mention, full name What of a? right answer "
        "Physics & <b> original It is Physics & <b>. edited No idea of a.",
        "What else moved",
        "Recall by task",
        "What changed",
        "Every item",
    ]
    assert [text.find(part) for part in parts] == sorted(text.find(part) for part in parts)
    for part in parts:
        assert part in text, part
    assert "Physics &amp; &lt;b&gt;" in page
    assert page.index("<table>") > page.index("What else moved")
    assert "What of d? the violin no 0.800 0.200" in text
    assert "What of a? Physics & <b> yes 0.800 0.200" in text
    assert "What of a? Physics & <b> not tested It is" in text


@pytest.mark.parametrize(
    ("known", "before", "after", "expected"),
    [
        ("abc", "abcd", "", "None: the edited model says no known fact in any of 3 answers in words."),
        ("abc", "ab", "abc", "None: each known fact that the original model says still comes out in some way of asking."),
        ("abc", "d", "", "None: the original model says no known fact in words."),
        ("", "abcd", "abcd", "No fact that the original model knows was asked in words, so there are no answers to show."),
    ],
)
def test_where_an_answer_is_missing_the_page_says_so(
    tmp_path: Path, known: str, before: str, after: str, expected: str
) -> None:
    write_report(tmp_path / "r.html", *answered(known, before, after))
    assert expected in text_of((tmp_path / "r.html").read_text("utf-8"))


def test_what_else_moved_is_listed(tmp_path: Path) -> None:
    original, edited = answered("abc", "abcd", "")
    write_report(tmp_path / "worse.html", original, edited)
    write_report(tmp_path / "same.html", original, original)
    worse, same = (text_of((tmp_path / name).read_text("utf-8")) for name in ("worse.html", "same.html"))
    line = "Neighbors, Question: 0.500 to 0.400 (difference -0.100, 95 % CI -0.100 … -0.100, 2 items)"
    assert f"What else moved {line}" in worse
    assert "What else moved Nothing beyond noise, in 1 metric of neighbors and abilities." in same
    assert "No edit is applied: both are the original model." in same
