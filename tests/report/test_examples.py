"""The worst and the best answer, side effects, and the tables of items, by hand."""

from formless.data.rows import Split
from formless.evaluation.record import ItemResult, MetricKey, Record, TaskResult
from formless.evaluation.statistics import CI, Metric
from formless.report.comparison import Change
from formless.report.examples import examples
from formless.report.items import item_tables, known_text
from formless.report.side_effects import side_effects
from tests.report.test_recall import task, with_tasks

BEFORE = {"a": 0.9, "b": 0.8, "c": 0.7, "d": 0.6}
AFTER = {"a": 0.1, "b": 0.6, "c": 0.3, "d": 0.5}


def scored(values: dict[str, float], **more: float) -> TaskResult:
    items = [
        ItemResult(query=f"qa {fact}?", fact=fact, metrics={"probability": value} | more) for fact, value in values.items()
    ]
    return TaskResult(task="qa", split="forget", status="complete", items=items)


def generated(name: str, said: str, asked: str = "abcd") -> TaskResult:
    return task(name, **{fact: ("recall", float(fact in said)) for fact in asked})


def records(before: list[TaskResult], after: list[TaskResult]) -> tuple[Record, Record]:
    """All four facts are known."""
    return with_tasks(scored(BEFORE, known=1.0), *before), with_tasks(scored(AFTER), *after, edited=True)


def test_the_worst_is_the_fact_that_stayed_most_probable_and_the_best_the_one_that_fell_most() -> None:
    before = [generated("gen_qa", "abcd"), generated("gen_fb", "abcd")]
    found = examples(*records(before, [generated("gen_qa", "bc"), generated("gen_fb", "cb")]))
    assert found.asked == 8
    assert found.worst is not None
    assert found.best is not None
    assert (found.worst.task, found.worst.before.fact) == ("gen_fb", "b")  # 0.6 is left of b, 0.3 of c; registry order
    assert (found.best.task, found.best.before.fact) == ("gen_fb", "a")  # fell by 0.8, d by 0.1
    assert found.best.is_said_before
    assert not found.best.is_said_after


def test_a_fact_that_comes_out_elsewhere_is_no_best() -> None:
    before = [generated("gen_fb", "abcd"), generated("gen_qa", "abcd")]
    found = examples(*records(before, [generated("gen_fb", "a"), generated("gen_qa", "bcd")]))
    assert found.best is None
    assert found.worst is not None
    assert found.worst.before.fact == "b"


def test_where_nothing_comes_out_there_is_no_worst() -> None:
    found = examples(*records([generated("gen_qa", "d")], [generated("gen_qa", "")]))
    assert found.worst is None
    assert found.best is not None
    assert found.best.before.fact == "d"  # the only one that the original said
    assert examples(*records([], [])).asked == 0


def test_unknown_facts_are_no_examples() -> None:
    original, edited = records([generated("gen_qa", "e", "e")], [generated("gen_qa", "e", "e")])
    found = examples(original, edited)
    assert (found.worst, found.best, found.asked) == (None, None, 0)


def change(
    task: str, split: Split | None, metric: str, ci: CI | None, *, applicable: bool = True, group: str | None = None
) -> Change:
    difference = Metric(value=sum(ci) / 2 if ci else None, ci=ci, n=9)
    return Change(MetricKey(task, split, metric, group), Metric(value=0.5), Metric(value=0.3), difference, None, 0, applicable)


def test_side_effects_are_what_got_worse_by_more_than_noise() -> None:
    worse, noise = (-0.3, -0.1), (-0.1, 0.1)
    changes = [
        change("qa", "forget", "probability", worse),
        change("qa", "neighbor", "probability", worse),
        change("fb", "neighbor", "probability", noise),
        change("statement", "neighbor", "probability", worse, applicable=False),
        change("qa_mentions", "neighbor", "probability", worse, group="alias"),
        change("gen_qa", "neighbor", "refusal", worse),
        change("mmlu", None, "accuracy", worse),
        change("triviaqa", None, "em", None),
        change("fluency", None, "repetition", (0.1, 0.3)),
    ]
    lines, tested = side_effects(changes)
    assert tested == 4  # of neighbors qa and fb, and mmlu and fluency
    assert lines[0] == "Neighbors, Question: 0.500 to 0.300 (difference -0.200, 95 % CI -0.300 … -0.100, 9 items)"
    assert [line.split(":")[0] for line in lines[1:]] == ["Abilities, MMLU, accuracy", "Abilities, Fluency, repetition"]
    assert side_effects(changes[2:3]) == ([], 1)
    assert side_effects([]) == ([], 0)


def test_items_say_whether_they_are_known() -> None:
    texts = [known_text(ItemResult(query="?", metrics=metrics)) for metrics in ({"known": 1.0}, {"known": 0.0}, {})]
    assert texts == ["yes", "no", "not tested"]
    before, after = records([], [])
    before.tasks[0].items[0].expected = " London"
    (table,) = item_tables(before, after)
    assert table.title == "Question, forget"
    assert table.rows[0] == ("qa a?", "London", "yes", "0.900", "0.100")
