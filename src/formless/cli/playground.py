"""`formless playground`."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated

import typer

from formless.cli import terminal
from formless.errors import UserError


def playground_command(
    model: terminal.ModelOption = "smollm2",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port on 127.0.0.1.")] = 7860,
    data: Annotated[str, typer.Option(help="Data folder or 'sample': the concepts with known facts.")] = "sample",
    dtype: terminal.DtypeOption = "auto",
    device: terminal.DeviceOption = "auto",
) -> None:
    """Serve a page on which one talks to a model before and after an edit. This machine alone can open it.

    Example: formless playground

    Example: formless playground --model qwen2.5-coder-1.5b --dtype bfloat16 --port 8000
    """
    if find_spec("gradio") is None:
        raise UserError("the playground needs gradio", remedy="pip install 'formless[playground]'")
    from formless.data.ort import data_folder
    from formless.models.settings import find_model
    from formless.playground.host import Host
    from formless.playground.page import build, launch, refuse_used_port, wait
    from formless.playground.session import Session, Sessions
    from formless.playground.work import Playground

    refuse_used_port(port)
    data_folder(data)
    find_model(model)
    terminal.quiet_transformers()
    page = build(Playground(Host(dtype, device), data), Sessions(new=lambda: Session(model=model)))
    address = launch(page, port)
    terminal.log.print(f"open {address} in a browser; Ctrl-C ends", soft_wrap=True)
    wait(page)
