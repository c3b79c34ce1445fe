"""The one path: a package imports only from packages to its left; no module is too long; nothing is unpickled."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "formless"
PATH = [
    "errors", "registry", "progress", "interrupts", "strict_json", "strict_yaml", "store", "hub", "provenance", "data",
    "models", "edits", "methods", "evaluation", "experiment", "report", "playground", "cli",
]  # fmt: skip
OUTSIDE = {"__init__", "__main__"}
MODULES = sorted(SOURCE.rglob("*.py"))


def package_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("formless.") and name.split(".")[1] in PATH}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_left_only(path: Path) -> None:
    package = package_of(path)
    if package in OUTSIDE:
        return
    allowed = PATH[: PATH.index(package) + 1]
    assert imported(path) <= set(allowed), f"{package} may import {allowed}"
    if package == "evaluation":
        assert "methods" not in imported(path)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_modules_stay_short_and_safe(path: Path) -> None:
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= 400
    assert "pickle" not in {
        alias.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import) for alias in node.names
    }
    assert "weights_only=False" not in text
    assert "trust_remote_code=True" not in text


def test_every_package_is_on_the_path() -> None:
    assert {package_of(path) for path in MODULES} - OUTSIDE == set(PATH)
