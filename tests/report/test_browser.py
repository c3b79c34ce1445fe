"""Pages in a real headless browser: offline, light and dark, on a phone, with their script."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Request, expect, sync_playwright

from formless.report.page import write_experiment_report, write_report
from formless.report.takedown import rule
from formless.report.takedown_page import write_takedown_page
from tests.report.made_runs import fail_run, made_run, write_plan, write_runs
from tests.report.test_edit_page import answered
from tests.report.test_mentions import mentioned

pytestmark = pytest.mark.xdist_group("browser")
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
DESK, PHONE, NARROW = (1100, 800), (360, 740), (400, 740)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        reason = f"none of {', '.join(BROWSERS)} is installed; `make browser` installs one on Debian"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])  # root has no sandbox
        yield started
        started.close()


@dataclass
class Opened:
    """A page, and whatever it complained of or asked for."""

    page: Page
    complaints: list[str] = field(default_factory=list)


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Any]:
    contexts = []

    def opened(path: Path, size: tuple[int, int] = DESK, **keys: Any) -> Opened:
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, offline=True, **keys)
        contexts.append(context)
        found = Opened(context.new_page())
        found.page.on("console", lambda message: found.complaints.append(message.text))
        found.page.on("pageerror", lambda error: found.complaints.append(str(error)))

        def hear(asked: Request) -> None:
            if asked.url not in (path.as_uri(), "data:,"):
                found.complaints.append(asked.url)

        found.page.on("request", hear)
        found.page.goto(path.as_uri())
        return found

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    runs = write_runs(out, ("original", "rocr", "ga", "npo", "rt", "dpo", "icu"), targets=4, trained=("ga", "npo"))
    failed = made_run("undial", "1_Person_1")
    fail_run(out, failed, log="a long line of a log " * 40)
    write_plan(out, [*runs, failed])
    write_experiment_report(out / "report.html", out)
    return out / "report.html"


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page about one edit."""
    path = tmp_path_factory.mktemp("edit") / "report.html"
    original, edited = answered("abc", "abcd", "bd")
    edited.tasks[1].items[1].answer = "in Ulm" * 200  # a word that is wider than any screen
    for record in (original, edited):
        record.model_source = "/folder" * 40
    write_report(path, original, edited)
    return path


@pytest.fixture(scope="module")
def takedown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a takedown check, with a heat map of nine mentions."""
    path = tmp_path_factory.mktemp("probe") / "probe.html"
    original, edited = answered("abc", "abcd", "bd")
    groups = ("full name", "lower case", "short name", "initial and surname", "alias", "misspelling", "possessive",
              "other spelling", "description")  # fmt: skip
    for side, record in enumerate((original, edited)):
        record.tasks.append(mentioned("qa_mentions", "forget", dict.fromkeys(groups, (0.5, 0.2, 1.0)), side))
    write_takedown_page(path, original, edited, rule(original, edited), command="formless probe --edit e --target Ada")
    return path


@pytest.mark.parametrize("which", ["experiment", "single", "takedown"])
def test_what_is_wider_than_a_narrow_screen_scrolls_and_says_so(
    open_page: Any, request: pytest.FixtureRequest, which: str
) -> None:
    page = open_page(request.getfixturevalue(which), NARROW).page
    page.evaluate("document.querySelectorAll('details').forEach(box => box.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"
    assert page.get_by_text("scroll sideways; a shadow marks the edge").is_visible()
    hidden = """() => [...document.querySelectorAll('table, svg')].filter(part => {
        const box = part.closest('.wide, figure');
        return part.offsetParent !== null && part.getBoundingClientRect().width > innerWidth && !box;
    }).length"""
    assert page.evaluate(hidden) == 0, "a table or chart has no box that scrolls"
    boxes = page.locator(".wide:visible, figure:visible")
    wide = [box for box in boxes.all() if box.evaluate("box => box.scrollWidth > box.clientWidth + 1")]
    assert wide, "nothing is wide enough to test"
    for box in wide:
        assert box.evaluate("box => getComputedStyle(box).overflowX") == "auto"
        assert "gradient" in box.evaluate("box => getComputedStyle(box).backgroundImage")
        last = box.evaluate("box => { box.scrollLeft = 1e6; return box.scrollLeft + box.clientWidth - box.scrollWidth; }")
        assert abs(last) <= 1, "its end cannot be reached"


@pytest.mark.parametrize("which", ["experiment", "single", "takedown"])
def test_the_text_of_charts_stays_readable_on_a_narrow_screen(
    open_page: Any, request: pytest.FixtureRequest, which: str
) -> None:
    page = open_page(request.getfixturevalue(which), NARROW).page
    page.evaluate("document.querySelectorAll('details').forEach(box => box.open = true)")
    sizes = page.evaluate("""() => [...document.querySelectorAll('figure svg')].flatMap(chart => {
        const scale = chart.getBoundingClientRect().width / chart.viewBox.baseVal.width;
        return [...chart.querySelectorAll('text')].map(text => scale * parseFloat(getComputedStyle(text).fontSize));
    })""")
    assert sizes
    assert min(sizes) >= 9, f"text of {min(sizes):.1f} px"


def test_a_wide_screen_has_no_hint(open_page: Any, takedown: Path) -> None:
    assert not open_page(takedown).page.get_by_text("scroll sideways; a shadow").is_visible()


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("which", ["experiment", "single", "takedown"])
def test_a_page_opens_offline_without_complaints(
    open_page: Any, request: pytest.FixtureRequest, which: str, scheme: str, size: tuple[int, int]
) -> None:
    opened = open_page(request.getfixturevalue(which), size, color_scheme=scheme)
    page = opened.page
    page.evaluate("document.querySelectorAll('details').forEach(box => box.open = true)")
    assert opened.complaints == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"
    brightness = "name => getComputedStyle(document.body)[name].match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0) / 765"
    paper, ink = (page.evaluate(brightness, name) for name in ("backgroundColor", "color"))
    assert (paper > 0.8 > 0.3 > ink) if scheme == "light" else (paper < 0.2 < 0.7 < ink)
    text = page.locator("svg text").first
    assert text.evaluate("text => getComputedStyle(text).fill") == page.evaluate("getComputedStyle(document.body).color")
    for picture in page.locator("figure svg").all():
        box = picture.bounding_box()
        assert box
        assert box["width"] > 200
        assert box["height"] > 50


def test_a_broken_script_would_be_noticed(open_page: Any, experiment: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    broken.write_text(experiment.read_text("utf-8").replace('"use strict";', '"use strict"; nothing();'), "utf-8")
    assert "nothing is not defined" in open_page(broken).complaints[0]
    broken.write_text(experiment.read_text("utf-8").replace("<h1>", '<img src="https://example.org/x.png"><h1>'), "utf-8")
    assert any("Content Security Policy" in complaint for complaint in open_page(broken).complaints)


def test_answers_are_searched(open_page: Any, experiment: Path) -> None:
    page = open_page(experiment).page
    shown, said = page.locator(".answers tbody tr:visible"), page.locator("#found")
    assert said.inner_text() == "4 questions"
    assert shown.count() == 1  # of the first target, which is open
    page.fill("#search", "SOMEBODY person 3")
    expect(said).to_have_text("1 of 4 questions")
    assert shown.count() == 1
    assert "Who is Person 3?" in shown.inner_text()
    assert page.locator(".answers b").count() == 0  # an answer is text, whatever it holds
    page.fill("#search", "no such words")
    expect(said).to_have_text("0 of 4 questions")
    assert shown.count() == 0
    page.fill("#search", "")
    expect(said).to_have_text("4 questions")
    assert page.locator(".answers:visible").count() == 4


def test_one_heat_map_is_shown_at_a_time(open_page: Any, experiment: Path) -> None:
    page = open_page(experiment).page
    assert [page.locator(".map:visible thead th").first.inner_text()] == ["combined"]
    page.select_option("select[data-maps]", "form_gap")
    assert page.locator(".map:visible").count() == 1
    assert page.locator(".map:visible thead th").first.inner_text() == "form gap"
    cells = page.locator(".map:visible tbody td")
    shades = {cells.nth(i).evaluate("cell => getComputedStyle(cell).backgroundColor") for i in range(cells.count())}
    assert len(shades) > 3


def test_without_a_script_everything_is_there(open_page: Any, experiment: Path) -> None:
    page = open_page(experiment, java_script_enabled=False).page
    assert page.locator(".map:visible").count() == 4
    assert page.locator("#search:visible").count() == 0
    assert page.locator(".answers").count() == 4
