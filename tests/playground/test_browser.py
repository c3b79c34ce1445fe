"""The page in a real headless browser, on the small real model: what a user does, and what it must never do."""

import os
import re
import socket
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from playwright.sync_api import Browser, Page, Request, expect

import formless
from formless.playground.host import Host
from formless.playground.page import HOST, build, launch
from formless.playground.session import Session, Sessions
from formless.playground.work import Playground
from tests.report.test_browser import browser  # noqa: F401

pytestmark = pytest.mark.xdist_group("browser")
DESK, PHONE = (1280, 1000), (390, 844)
PICTURE = Path(__file__).parents[2] / "docs" / "images" / "playground.png"
MEASURED = re.compile("ways of asking")
SECONDS = 1000  # Playwright's unit is a millisecond
LONG = 180 * SECONDS


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    playground = Playground(Host(device="cpu", max_new_tokens=48), per_group=1)
    page = build(playground, Sessions(new=lambda: Session(method="rocr")))
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    yield launch(page, port)
    page.close(verbose=False)


@dataclass
class Opened:
    """A page, and what it complained of or asked another host for."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    cancelling: set[Request] = field(default_factory=set)

    def cancel(self) -> None:
        """Cancel, and wait until gradio has ended all that it ends: it would end a new question with it."""
        self.page.get_by_role("button", name="Cancel").click()
        self.status("Cancelled.")  # is asked for after the requests that end the work
        deadline = time.monotonic() + LONG / SECONDS
        while self.cancelling:
            assert time.monotonic() < deadline
            self.page.wait_for_timeout(50)

    def reload(self) -> None:
        """Load the page again; gradio may complain that the stream of the old one, which it ends itself, has ended."""
        before = len(self.complaints)
        self.page.reload()
        self.complaints[before:] = [line for line in self.complaints[before:] if not line.startswith("error: AbortError")]

    def status(self, words: str | re.Pattern[str]) -> None:
        expect(self.page.locator(".fl-status")).to_contain_text(words, timeout=LONG)

    def unlearn(self, concept: str, words: str | re.Pattern[str] = MEASURED) -> None:
        self.page.get_by_label("Concept to forget").fill(concept)
        self.page.get_by_role("button", name="Unlearn").click()
        self.status(words)

    def upload(self, path: Path) -> None:
        with self.page.expect_file_chooser() as chooser:
            self.page.get_by_role("button", name="Load a zip").click()
        chooser.value.set_files(path)

    def text(self, label: str) -> str:
        return self.page.get_by_label(label, exact=True).input_value()


Open = Callable[..., Opened]


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Open]:  # noqa: F811
    contexts, pages = [], []
    expect.set_options(timeout=LONG)

    def opened(size: tuple[int, int] = DESK, **keys: str) -> Opened:
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **keys)
        context.set_default_timeout(LONG)  # the machine may be busy
        contexts.append(context)
        found = Opened(context.new_page())
        pages.append(found)
        found.page.on("console", lambda message: found.complaints.append(f"{message.type}: {message.text}"))
        found.page.on("pageerror", lambda error: found.complaints.append(str(error)))

        def hear(request: Request) -> None:
            if not request.url.startswith((address, "data:", "blob:")):
                found.complaints.append(request.url)
            if request.url.endswith("/cancel"):
                found.cancelling.add(request)

        found.page.on("request", hear)
        for ended in ("requestfinished", "requestfailed"):
            found.page.on(ended, lambda request: found.cancelling.discard(request))
        found.page.goto(address)
        expect(found.page.locator(".fl-status")).to_be_visible(timeout=60 * SECONDS)
        return found

    yield opened
    assert [found.complaints for found in pages] == [[] for _ in pages]
    for context in contexts:
        context.close()


@pytest.mark.slow
def test_from_a_name_to_an_edit(visit: Open, tmp_path: Path) -> None:
    opened = visit()
    page = opened.page
    page.get_by_role("button", name="Isaac Newton").click()  # an example
    expect(page.get_by_label("Concept to forget")).to_have_value("Isaac Newton")
    opened.unlearn("Isaac Newton")
    original, unlearned = opened.text("Original model"), opened.text("Unlearned model")
    assert "Newton" in original
    assert unlearned not in ("", original)
    chart = page.locator("table.fl-chart")
    assert chart.locator("[role=img]").count() > 10
    for section in ("Form", "Mention", "Kind of question", "Reverse", "Neighbors, which should stay"):
        expect(chart.get_by_role("rowheader", name=section, exact=True)).to_be_visible()
    if os.environ.get("FORMLESS_SCREENSHOTS"):
        PICTURE.parent.mkdir(exist_ok=True)
        page.screenshot(path=PICTURE, clip={"x": 0, "y": 0, "width": DESK[0], "height": DESK[1]})

    page.get_by_label("Ask it another way").click()
    lines = page.get_by_role("option").all_inner_texts()
    assert len(lines) > 10
    assert all(re.search("comes out|still likely|gone|not known before", line) for line in lines)
    page.get_by_role("option").nth(len(lines) - 1).click()
    opened.status("Answered.")
    assert re.search("The known answer, .* (is still in|is not in)", page.locator("#note").inner_text())
    page.get_by_label("Question", exact=True).fill("What is gravity?")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.get_by_label("Question", exact=True)).to_have_value("What is gravity?")
    expect(page.get_by_label("Original model")).to_have_value(re.compile("gravity", re.IGNORECASE), timeout=LONG)
    opened.status("Answered.")

    opened.reload()
    opened.status("Answered.")
    assert opened.text("Concept to forget") == "Isaac Newton"
    assert "gravity" in opened.text("Original model").lower()
    expect(page.get_by_label("1: Isaac Newton (rocr)")).to_be_checked()

    page.get_by_label("Folder on this machine").fill(str(tmp_path / "newton"))
    page.get_by_role("button", name="Save there").click()
    opened.status("Saved 1: Isaac Newton (rocr)")
    assert formless.load_edit(tmp_path / "newton").info.subject == "Isaac Newton"
    with page.expect_download() as download:
        page.locator("#download").click()
    assert download.value.suggested_filename == "isaac_newton.zip"
    download.value.save_as(tmp_path / "newton.zip")
    with zipfile.ZipFile(tmp_path / "newton.zip") as archive:
        assert "isaac_newton/adapter_model.safetensors" in archive.namelist()

    page.get_by_role("button", name="Remove").click()
    opened.status("Removed 1: Isaac Newton (rocr).")
    expect(page.get_by_label("1: Isaac Newton (rocr)")).to_have_count(0)
    opened.upload(tmp_path / "newton.zip")
    opened.status(MEASURED)
    expect(page.get_by_label("1: Isaac Newton (rocr)")).to_be_checked()


@pytest.mark.slow
def test_strength_is_changed_by_the_keyboard(visit: Open) -> None:
    opened = visit()
    page = opened.page
    page.get_by_label("Concept to forget").press_sequentially("Ada Lovelace")
    page.keyboard.press("Enter")
    opened.status("No known facts about Ada Lovelace")
    before = opened.text("Unlearned model")
    box = page.locator("#strength input[type=number]")
    box.fill("0")
    box.press("Tab")
    expect(page.get_by_label("Unlearned model")).to_have_value(opened.text("Original model"), timeout=LONG)
    opened.status("No known facts about Ada Lovelace")
    assert before != opened.text("Unlearned model")
    page.locator("#first input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    page.locator("#applied input").first.focus()
    page.keyboard.press("Space")
    expect(page.locator("#note")).to_have_text("No edit is applied.", timeout=LONG)


@pytest.mark.slow
def test_two_browsers_do_not_see_each_other(visit: Open) -> None:
    one, two = visit(), visit()
    one.page.get_by_label("Concept to forget").fill("Ada Lovelace")
    two.page.get_by_label("Concept to forget").fill("Grace Hopper")
    for opened in (one, two):
        opened.page.get_by_role("button", name="Unlearn").click()
    one.status("No known facts about Ada Lovelace")
    two.status("No known facts about Grace Hopper")
    for opened, own, other in ((one, "Ada", "Grace"), (two, "Grace", "Ada")):
        opened.reload()
        expect(opened.page.locator("#applied")).to_contain_text(own)
        assert other not in opened.page.locator("#applied").inner_text()
        assert own in opened.text("Original model")
        assert other not in opened.text("Original model")


@pytest.mark.slow
def test_bad_input_is_answered_on_the_page(
    visit: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other_folder: Path
) -> None:
    opened = visit()
    page = opened.page
    opened.unlearn("x" * 10_000, "the concept has 10,000 characters: give at most 200")
    opened.unlearn("a\u200bb", "the invisible or control character U+200B")
    opened.unlearn("a\x07b", "U+0007")
    opened.unlearn("   ", "the concept is empty")

    other = formless.load(str(other_folder), progress=False)
    formless.unlearn(other, "Ada", method="rocr", redirect="Bob", layers=[1, 2], basis="none").save(tmp_path / "foreign")
    page.get_by_label("Folder on this machine").fill(str(tmp_path / "foreign"))
    page.get_by_role("button", name="Load from there").click()
    opened.status("the edit is for another model")
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("../edit.json", "{}")
    opened.upload(tmp_path / "bad.zip")
    opened.status("a file of the zip leaves its folder")

    page.get_by_label("Question", exact=True).fill("Who was Ada?")

    def choose_model(name: str) -> None:
        page.get_by_label("Model", exact=True).fill(name)
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Ask", exact=True).click()

    with monkeypatch.context() as patched:
        patched.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=-(10**12)))
        choose_model(str(other_folder))
        opened.status("the model does not fit")
    choose_model("no such model")
    opened.status("unknown model")
    choose_model("smollm2")

    opened.unlearn("<img src=x onerror=alert(1)>", "No known facts about <img src=x onerror=alert(1)>")
    assert page.locator("img[src=x]").count() == 0
    opened.unlearn("Charles Darwin", "model answers")
    opened.cancel()
    page.get_by_role("button", name="Ask", exact=True).click()
    opened.status("Answered.")


@pytest.mark.slow
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_its_screen_and_theme(visit: Open, size: tuple[int, int], scheme: str) -> None:
    opened = visit(size, color_scheme=scheme)
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    brightness = "name => getComputedStyle(document.body)[name].match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0) / 765"
    paper, ink = (page.evaluate(brightness, name) for name in ("backgroundColor", "color"))
    assert (paper > 0.8 > 0.3 > ink) if scheme == "light" else (paper < 0.2 < 0.7 < ink)
    page.get_by_role("button", name="Light or dark").click()
    page.wait_for_function(f"(({brightness})('backgroundColor') > 0.5) == {str(scheme == 'dark').lower()}")
    assert page.locator("#status").get_attribute("aria-live") == "polite"
    assert page.evaluate("document.documentElement.lang") == "en"
    nameless = """[...document.querySelectorAll('input, textarea, button, select')].filter(part => part.offsetParent &&
      !(part.labels?.length || part.ariaLabel || part.getAttribute('aria-labelledby') || part.title || part.innerText.trim()))
      .map(part => part.outerHTML)"""
    assert page.evaluate(nameless) == []
    family = page.evaluate("getComputedStyle(document.querySelector('.gradio-container')).fontFamily")
    assert "system-ui" in family
    assert page.evaluate("[...document.fonts].filter(font => font.status != 'unloaded').length") == 0
