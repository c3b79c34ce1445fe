"""MkDocs hooks: the pages rendered when the site is built, the references of commands and settings and the results."""

from __future__ import annotations

import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
for folder in (ROOT, ROOT / "src"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from tools import cli_reference, results, settings_reference  # noqa: E402


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the results pages to the navigation, one group per topic."""
    groups: dict[str, list[dict[str, str]]] = {}
    for name, result in results.load_results().items():
        groups.setdefault(result.topic, []).append({result.title: f"results/{name}.md"})
    pages = [{topic: entries} for topic, entries in groups.items()]
    config.nav = [*(config.nav or []), {"Results": ["results/index.md", *pages]}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the rendered pages."""
    found = results.load_results()
    pages = {f"results/{name}.md": results.render_page(name, result) for name, result in found.items()}
    pages |= {"results/index.md": results.render_index(found), cli_reference.PAGE: cli_reference.render_reference()}
    pages |= {settings_reference.PAGE: settings_reference.render_settings()}
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files
