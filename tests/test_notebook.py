"""The notebook runs in a real kernel and shows what it should; a kernel that is interrupted leaves the model as it was."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "examples" / "unlearn.ipynb"
SECONDS = 900  # a cell; the machine may be busy
SET_UP = """
import hashlib
import formless
lm = formless.load("smollm2", progress=False)
target = formless.find_target("sample", "Albert Einstein")
edit = formless.unlearn(lm, "Albert Einstein", "rocr", progress=False)
def tell(*_):
    print("working", flush=True)
def state():
    digest = hashlib.sha256()
    for name, parameter in lm.model.named_parameters():
        digest.update(f"{name} {parameter.requires_grad}".encode() + parameter.detach().numpy().tobytes())
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in lm.model.modules())
    modules = [(name, type(module), module.training) for name, module in lm.model.named_modules()]
    return digest.hexdigest(), hooks, modules, list(lm.edits), lm.overlay.is_empty
before = state()
"""
WORK = {
    "cdr": "formless.unlearn(lm, target, progress=tell)",
    "training": 'formless.unlearn(lm, target, "npo", max_rows=40, progress=tell)',
    "all weights": 'formless.unlearn(lm, target, "ga", full=True, max_rows=8, per_device_train_batch_size=1, progress=tell)',
    "evaluation": 'with edit.applied(lm): formless.evaluate(lm, target, "qa,gen_qa", progress=tell)',
}


def read() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_no_output_is_kept() -> None:
    code = [cell for cell in read().cells if cell.cell_type == "code"]
    assert code
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    notebook = read()
    NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [(cell.source, output) for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for _, output in outputs if output.output_type == "error"]
    assert not [output for _, output in outputs if output.get("name") == "stderr"]
    shown = {
        source.splitlines()[-1]: output.data["text/html"] for source, output in outputs if "text/html" in output.get("data", {})
    }
    for last in ("lm", "target", "original", "edit", "comparison", 'formless.load_edit("einstein_edit")'):
        assert "<table" in shown[last], last
    assert shown["comparison.heat_maps()"].count("<svg") == 2
    assert not re.search(r"(src|href)=.?https?:|@import|url\(.?http|<script", "".join(shown.values()))
    said = [output.text for source, output in outputs if "lm.chat" in source and output.output_type == "stream"]
    assert "physicist" in said[0]
    assert "physicist" not in said[1]
    assert said[2] == said[0]
    probabilities = [float(found) for _, output in outputs for found in re.findall(r"= (0\.\d+)", output.get("text", ""))]
    assert len(probabilities) == 3
    assert max(probabilities[1:]) < probabilities[0]
    bars = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"].state.values()
    assert any(bar.model_name == "FloatProgressModel" for bar in bars)
    assert {path.name for path in (tmp_path / "einstein_edit").iterdir()} >= {"adapter_model.safetensors", "edit.json"}


@pytest.mark.slow
def test_an_interrupted_kernel_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(tmp_path))
    try:

        def run(code: str, interrupt: bool = False) -> tuple[dict[str, Any], str]:
            """Run a cell; interrupt the kernel once it prints."""
            printed = ""

            def show(message: dict[str, Any]) -> None:
                nonlocal printed
                if message["msg_type"] == "stream":
                    if interrupt and not printed:
                        manager.interrupt_kernel()
                    printed += message["content"]["text"]

            reply = client.execute_interactive(code, timeout=SECONDS, output_hook=show)
            return reply["content"], printed

        assert run(SET_UP)[0]["status"] == "ok"
        for name, work in WORK.items():
            assert run(work, interrupt=True)[0].get("ename") == "KeyboardInterrupt", name
            assert run("print(state() == before)")[1] == "True\n", name
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
