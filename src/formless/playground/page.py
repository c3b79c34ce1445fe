"""The page, in gradio: which parts it has, and which work each of them starts."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from html import escape
from threading import Event
from typing import Any, cast

import gradio as gr

from formless.data.ort import targets
from formless.edits.edit import MAX_STRENGTH
from formless.errors import OutputError
from formless.models.sources.bundled import BUNDLED_MODELS
from formless.playground.chart import STYLE, chart
from formless.playground.session import Session, Sessions, file_name, problems
from formless.playground.ways import Way
from formless.playground.work import Playground

HOST = "127.0.0.1"
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
MONO = ("ui-monospace", "Menlo", "Consolas", "monospace")
EXAMPLES = 6
MARKS = {"comes out": "⚠ comes out", "still likely": "◐ still likely", "gone": "gone", "not known": "not known before"}
ORDER = ("comes out", "still likely", "not measured", "gone", "not known")
METHODS = {"cdr: takes away more, seconds": "cdr", "rocr: as published, faster": "rocr"}
_DARK = "() => { document.body.classList.toggle('dark') }"
_ACCESSIBLE = """() => {
  document.documentElement.lang = 'en';
  const status = document.querySelector('#status');
  status?.setAttribute('role', 'status');
  status?.setAttribute('aria-live', 'polite');
}"""


def build(playground: Playground, sessions: Sessions) -> gr.Blocks:
    """Return the page.

    Args:
        playground: Does the work.
        sessions: What the browsers have.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    with gr.Blocks(title="Formless playground", analytics_enabled=False, delete_cache=(3600, 24 * 3600)) as page:
        # The key is a secret by itself. With gradio's random secret, a browser could not read it after a restart.
        key = gr.BrowserState(None, storage_key="formless-session", secret="formless")
        with gr.Row(elem_id="head"):
            gr.Markdown("# Formless playground\nMake a model forget a concept, and see in which ways of asking it did.")
            theme = gr.Button("Light or dark", size="sm", scale=0, min_width=110)
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                model = gr.Dropdown(
                    list(BUNDLED_MODELS), label="Model", allow_custom_value=True, elem_id="model",
                    info="Bundled, or a folder, a GGUF file, or a hub id (owner/name).",
                )  # fmt: skip
                concept = gr.Textbox(label="Concept to forget", elem_id="concept", max_lines=1, placeholder="Marie Curie")
                if known := targets(playground.data)[:EXAMPLES]:
                    gr.Examples([[target.subject] for target in known], [concept], label="Examples")
                redirect = gr.Textbox(
                    label="Redirect concept", elem_id="redirect", max_lines=1, placeholder="chosen by the method",
                    info="Optional: what the name is read as instead.",
                )  # fmt: skip
                method = gr.Radio(list(METHODS.items()), label="Method", elem_id="method")
                with gr.Row():
                    unlearn = gr.Button("Unlearn", variant="primary", elem_id="unlearn", min_width=120)
                    cancel = gr.Button("Cancel", variant="stop", elem_id="cancel", min_width=120)
                status = gr.HTML(elem_id="status", apply_default_css=False)
                with gr.Group():
                    strength = gr.Slider(0, MAX_STRENGTH, step=0.1, label="Strength of the current edit", elem_id="strength")
                    first = gr.Slider(0, 1, step=1, label="First layer", elem_id="first")
                    count = gr.Slider(1, 2, step=1, label="Number of layers", elem_id="count")
                with gr.Accordion("Edits", elem_id="edits"):
                    applied = gr.CheckboxGroup(
                        [], label="Applied edits", info="Several are stacked on the model.", elem_id="applied"
                    )
                    current = gr.Dropdown([], label="Current edit", elem_id="current")
                    with gr.Row():
                        download = gr.DownloadButton("Download", size="sm", elem_id="download", min_width=90)
                        remove = gr.Button("Remove", size="sm", elem_id="remove", min_width=90)
                        upload = gr.UploadButton("Load a zip", size="sm", elem_id="upload", min_width=90, file_types=[".zip"])
                    folder = gr.Textbox(label="Folder on this machine", elem_id="folder", max_lines=1)
                    with gr.Row():
                        save = gr.Button("Save there", size="sm", elem_id="save", min_width=90)
                        load = gr.Button("Load from there", size="sm", elem_id="load", min_width=90)
            with gr.Column(scale=3, min_width=320):
                with gr.Row(equal_height=True):
                    question = gr.Textbox(label="Question", elem_id="question", lines=2, max_lines=4, scale=4, min_width=220)
                    ask = gr.Button("Ask", elem_id="ask", scale=1, min_width=90)
                with gr.Row():
                    original = gr.Textbox(label="Original model", interactive=False, lines=6, elem_id="original", min_width=260)
                    unlearned = gr.Textbox(
                        label="Unlearned model", interactive=False, lines=6, elem_id="unlearned", min_width=260
                    )
                note = gr.HTML(elem_id="note", apply_default_css=False)
                way = gr.Dropdown(
                    [], label="Ask it another way", elem_id="way",
                    info="⚠ marks a question whose right answer the unlearned model still says.",
                )  # fmt: skip
                picture = gr.HTML(elem_id="chart", apply_default_css=False)

        parts: dict[str, Any] = {
            "key": key, "model": model, "concept": concept, "redirect": redirect, "method": method, "question": question,
            "status": status, "original": original, "unlearned": unlearned, "note": note, "way": way, "chart": picture,
            "applied": applied, "current": current, "strength": strength, "first": first, "count": count,
            "download": download, "folder": folder,
        }  # fmt: skip
        outputs = list(parts.values())

        def shown(session: Session, before: dict[str, Any]) -> list[Any]:
            """Return what has changed since `before`, which is brought up to date; what a user types meanwhile stays."""
            now = view(session, playground)
            changed = [gr.skip() if name in before and before[name] == now[name] else now[name] for name in parts]
            before |= now
            return [
                gr.update(**change) if isinstance(change, dict) and "__type__" not in change else change for change in changed
            ]

        def refused(session: Session) -> list[Any]:
            return [status_line(session) if name == "status" else gr.skip() for name in parts]

        def working(work: Callable[..., Iterator[None]]) -> Callable[..., Iterator[list[Any]]]:
            """Return a handler that shows the session whenever its work has changed it."""

            def handle(key: object, model: str, *inputs: Any) -> Iterator[list[Any]]:
                with problems(ended := Session()):
                    session = sessions.get(key)
                    session.model = model or ""
                    before = view(session, playground)
                    for _ in work(session, *inputs):
                        yield shown(session, before)
                    return
                yield refused(ended)

            return handle

        def at_once(act: Callable[..., object]) -> Callable[..., list[Any]]:
            """Return a handler of something that needs no model."""

            def handle(key: object, *inputs: Any) -> list[Any]:
                with problems(ended := Session()):
                    session = sessions.get(key)
                    before = view(session, playground)
                    with problems(session):
                        act(session, *inputs)
                    return shown(session, before)
                return refused(ended)

            return handle

        queued: dict[str, Any] = {
            "outputs": outputs, "concurrency_id": "model", "concurrency_limit": 1, "show_progress_on": [status],
            "show_progress": "minimal", "api_visibility": "private",
        }  # fmt: skip
        quick: dict[str, Any] = {"outputs": outputs, "queue": False, "show_progress": "hidden", "api_visibility": "private"}

        def restore(key: object) -> list[Any]:
            return shown(sessions.open(key), {})

        page.load(restore, [key], **quick)
        page.load(None, None, None, js=_ACCESSIBLE)
        theme.click(None, None, None, js=_DARK)

        jobs = [
            gr.on(
                [unlearn.click, concept.submit, redirect.submit], working(playground.unlearn),
                [key, model, concept, redirect, method, question], **queued,
            ),
            gr.on([ask.click, question.submit], working(playground.ask), [key, model, question], **queued),
            way.input(working(lambda session, label: ask_way(playground, session, label)), [key, model, way], **queued),
            applied.input(working(playground.apply), [key, model, applied], **queued),
            load.click(working(playground.load), [key, model, folder], **queued),
            upload.upload(
                working(lambda session, path: playground.load(session, path, is_zip=True)), [key, model, upload], **queued
            ),
            gr.on(
                [strength.release, first.release, count.release],
                working(lambda session, strength, first, count: playground.change(session, strength, (first, count))),
                [key, model, strength, first, count], **queued,
            ),
        ]  # fmt: skip
        cancel.click(at_once(stop_work), [key], cancels=jobs, **quick)
        save.click(at_once(playground.save), [key, folder], **quick)
        remove.click(working(playground.remove), [key, model], **queued)
        current.input(at_once(choose), [key, current], **quick)
    return cast(gr.Blocks, page)


def stop_work(session: Session) -> None:
    """Stop what the session is doing."""
    session.stop.set()
    session.say("Cancelled.")


def choose(session: Session, name: str) -> None:
    """Make an edit the current one."""
    session.current = name


def ask_way(playground: Playground, session: Session, label: str) -> Iterator[None]:
    """Ask the question of a line of the list."""
    found = dict(labelled(session.ways)).get(label)
    return playground.ask(session, label or "", found)


def labelled(ways: list[Way]) -> list[tuple[str, Way]]:
    """Return the questions that can be asked with a line for each, those first in which the knowledge still comes out."""
    asked = sorted((way for way in ways if way.is_a_question), key=lambda way: ORDER.index(way.verdict))
    lines: dict[str, Way] = {}
    for way in asked:
        mark = f"{MARKS[way.verdict]} · " if way.verdict in MARKS else ""
        lines.setdefault(f"{mark}{way.name}: {way.text}", way)
    return list(lines.items())


def status_line(session: Session) -> str:
    """Return the status as HTML."""
    return f'<div class="fl-status{" failed" * session.failed}">{escape(session.status)}</div>'


def view(session: Session, playground: Playground) -> dict[str, Any]:
    """Return what each part of the page shows of a session: a value, or arguments of an update."""
    held = session.held.get(session.current or "")
    layers = held.layers if held else None
    last = max(session.depth - 1, 1)
    asked = labelled(session.ways)
    chosen = next((line for line, way in asked if (way.text, way.earlier) == (session.question, session.earlier)), None)
    subject = held.edit.info.subject if held else session.concept
    return {
        "key": session.key,
        "model": session.model,
        "concept": session.concept,
        "redirect": session.redirect,
        "method": session.method,
        "question": session.question,
        "status": status_line(session),
        "original": session.original,
        "unlearned": session.unlearned,
        "note": {"value": f"<p>{escape(session.note)}</p>", "visible": bool(session.note)},
        "way": {"choices": [line for line, _ in asked], "value": chosen},
        "chart": chart(session.ways),
        "applied": {
            "choices": list(session.held), "value": [name for name, own in session.held.items() if own.is_applied],
        },
        "current": {"choices": list(session.held), "value": session.current},
        "strength": {"value": held.strength if held else 1.0, "interactive": held is not None},
        "first": {"maximum": last, "value": layers[0] if layers else 0, "interactive": layers is not None},
        "count": {"maximum": max(2, min(last, 8)), "value": layers[1] if layers else 1, "interactive": layers is not None},
        "download": {"value": playground.download(session), "interactive": held is not None},
        "folder": f"edits/{file_name(subject)}" if subject else "",
    }  # fmt: skip


def refuse_used_port(port: int) -> None:
    """Refuse a port on which another program listens.

    Raises:
        OutputError: The port is in use, or may not be used.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise OutputError(
                f"the port {port} cannot be used ({error.strerror})", where="--port", remedy="give another"
            ) from error


def launch(page: gr.Blocks, port: int) -> str:
    """Serve the page to this machine alone, and return its address.

    Raises:
        OutputError: The port is in use.
    """
    refuse_used_port(port)
    theme = gr.themes.Base(primary_hue="indigo", neutral_hue="slate", font=FONTS, font_mono=MONO).set(
        body_text_color_subdued="*neutral_600", body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600", block_info_text_color_dark="*neutral_300",
        block_label_text_color="*neutral_700", block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200", input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
    )  # fmt: skip
    page.queue(max_size=64)
    _, address, _ = page.launch(
        server_name=HOST, server_port=port, share=False, inbrowser=False, quiet=True, prevent_thread_lock=True,
        theme=theme, css=STYLE, footer_links=[],
        run_history=False, enable_monitoring=False, ssr_mode=False, pwa=False, mcp_server=False, max_file_size="512mb",
        allowed_paths=[], show_error=False,
    )  # fmt: skip
    return str(address)


def wait(page: gr.Blocks) -> None:
    """Serve until the process is interrupted."""
    try:
        Event().wait()
    finally:
        page.close(verbose=False)
