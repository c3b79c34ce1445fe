"""The documentation: links and navigation lead somewhere, code compiles, and the commands that it shows parse."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from formless.cli.main import app
from formless.evaluation.registry import TASKS
from formless.evaluation.suites import SUITES
from formless.methods.registry import METHODS
from tools import cli_reference, results, settings_reference, tutorials

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = {str(path.relative_to(DOCS)): path.read_text("utf-8") for path in sorted(DOCS.rglob("*.md"))}
RENDERED = {f"results/{name}.md": results.render_page(name, found) for name, found in results.load_results().items()}
RENDERED |= {"results/index.md": results.render_index(results.load_results())}
ALL = PAGES | RENDERED
AT_BUILD_TIME = {*RENDERED, cli_reference.PAGE, settings_reference.PAGE}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)


COMMANDS = sorted(
    {
        line
        for page in ALL.values()
        for block in blocks(page, "bash")
        for line in block.splitlines()
        if line.startswith("formless ")
    }
    | set(re.findall(r"^    (formless .*)$", (ROOT / "README.md").read_text("utf-8"), flags=re.MULTILINE))
)


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_link_leads_somewhere(name: str) -> None:
    text = re.sub(r"^```.*?^```", "", ALL[name], flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = (DOCS / name).parent / path if path else DOCS / name
        inside = str(target.resolve().relative_to(DOCS))
        assert target.exists() or inside in AT_BUILD_TIME, link
        if anchor and inside in PAGES:
            assert anchor in anchors(PAGES[inside]), link


def anchors(page: str) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page, flags=re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def test_the_navigation_names_every_page() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    named = set(leaves(config["nav"]))
    assert named == {*PAGES, cli_reference.PAGE, settings_reference.PAGE}


def leaves(entry: Any) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    return [leaf for child in (entry.values() if isinstance(entry, dict) else entry) for leaf in leaves(child)]


@pytest.mark.parametrize("name", sorted(PAGES))
def test_python_compiles(name: str) -> None:
    for code in blocks(PAGES[name], "python"):
        compile(code, name, "exec")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_shown_command_parses(command: str) -> None:
    group: Any = typer.main.get_command(app)
    _, verb, *arguments = shlex.split(command, comments=True)
    if verb == "data":
        group, verb, arguments = group.commands[verb], arguments[0], arguments[1:]
    group.commands[verb].make_context(verb, arguments).close()


def test_every_task_and_suite_is_documented() -> None:
    page = PAGES["reference/tasks.md"]
    for name in {*SUITES, *TASKS}:
        assert f"`{name}`" in page, name


def test_every_method_is_documented() -> None:
    page = PAGES["reference/methods.md"]
    for name in METHODS:
        assert f"`{name}`" in page, name


def test_the_reference_of_the_command_line_has_every_option() -> None:
    page = cli_reference.render_reference()
    group: Any = typer.main.get_command(app)
    for parameter in group.commands["unlearn"].params:
        if parameter.name != "help":
            assert f"`{parameter.opts[0]}`" in page, parameter.name
    assert "## formless data check" in page
    assert "```bash\nformless doctor --model smollm2\n" in page


def test_the_reference_of_settings_has_every_method_with_its_defaults() -> None:
    page = settings_reference.render_settings()
    for name in METHODS:
        assert f"\n## {name}\n" in page
    assert re.search(r"^\| `beta` \| `0.0275` \| > 0, ≤ 100 \| .*0\.01 to 0\.1", page, re.MULTILINE)
    assert re.search(r"^\| `learning_rate` \| required \| > 0, ≤ 1 \| \w", page, re.MULTILINE)


def test_prose_pages_hold_no_results_table() -> None:
    for name, page in PAGES.items():
        assert not re.search(r"^\|.*\d %? ?\([-+]?\d[\d.]* … ", page, re.MULTILINE), name


def test_a_tutorial_by_hand() -> None:
    page = "A.\n\n```python\nx = 2\n```\n\nB.\n\n```python\nprint(x + 1, ' ')\n```\n\n```text\nold\n```\n\nC.\n"
    assert tutorials.with_outputs(page, "page") == page.replace("old\n", "3\n")
    for code, said in (("print(1)", ""), ("1", "```text\n```\n")):
        with pytest.raises(ValueError, match="a block prints something without a `text` block behind it, or the reverse"):
            tutorials.with_outputs(f"```python\n{code}\n```\n\n{said}", "page")


def test_the_files_that_the_pages_name_exist() -> None:
    pages = PAGES | {name: (ROOT / name).read_text("utf-8") for name in ("README.md", "CONTRIBUTING.md")}
    for name, page in pages.items():
        for path in re.findall(r"`((?:src|tests|tools|benchmarks|paper|recipes|examples)/[\w./-]+)`", page):
            assert (ROOT / path).exists(), f"{name}: {path}"
    for path in re.findall(r"`((?!tests/)\w+/[\w/]+\.py)`", PAGES["explanation/walks.md"]):
        assert (ROOT / "src" / "formless" / path).exists(), path


@pytest.mark.slow
@pytest.mark.usefixtures("shared_edits")
@pytest.mark.parametrize("path", sorted(tutorials.FOLDER.glob("*.md")), ids=lambda path: path.stem)
def test_the_tutorials_run(path: Path) -> None:
    page = path.read_text("utf-8")
    assert tutorials.with_outputs(page, path.name).count("```text\n") == page.count("```text\n")
