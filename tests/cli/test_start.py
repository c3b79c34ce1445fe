"""What happens before a command begins: what is imported, and when Ctrl-C ends it."""

from __future__ import annotations

import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from formless import __version__, provenance
from formless.cli import terminal
from formless.cli.main import main
from formless.models.lm import LM

MAPS = Path("/proc/self/maps")
BUSY_DELETING = """
import sys, time, types
from formless.__main__ import main

class Deleted:
    def __del__(self):
        print("deleting", flush=True)
        time.sleep(2)  # Python drops what is raised here

def run():
    Deleted()
    time.sleep(60)

sys.modules["formless.cli.main"] = types.SimpleNamespace(main=run)
main()
"""


def python(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_package_loads_what_is_asked_for_alone() -> None:
    code = "import sys, formless; print('torch' in sys.modules); formless.load; print('torch' in sys.modules)"
    assert python("-c", code).communicate() == ("False\nTrue\n", "")
    _, errors = python("-c", "import formless; formless.lood").communicate()
    assert "AttributeError: module 'formless' has no attribute 'lood'" in errors


def test_everything_that_the_package_offers_is_there() -> None:
    code = "from formless import *; import formless; print([name for name in formless.__all__ if name not in globals()])"
    assert python("-c", code).communicate() == ("[]\n", "")


SHOW_IMPORTS = """
import atexit, sys, time
def show():
    heavy = {"torch", "transformers", "datasets"}.intersection(sys.modules)
    print("CPU", f"{time.process_time():.2f}", *sorted(heavy), file=sys.stderr)
atexit.register(show)
from formless.__main__ import main
main()
"""


def heavy_imports(*arguments: str, folder: Path) -> list[str]:
    """The slow packages that a command has imported when it ends; its exit code is 0."""
    command = [sys.executable, "-c", SHOW_IMPORTS, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    _, seconds, *found = done.stderr.splitlines()[-1].split()
    print(f"formless {' '.join(arguments)}: {seconds} s of CPU time")
    return found


@pytest.fixture(scope="module")
def finished(tiny: Callable[..., LM], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `first` holds the finished runs of a tiny model."""
    folder = tmp_path_factory.mktemp("finished")
    lm = tiny(context=1024)
    lm.model.save_pretrained(folder / "tiny")
    lm.tokenizer.save_pretrained(folder / "tiny")
    command = [sys.executable, "-m", "formless", "run", "sample", "--targets", "1", "--suite", "fb", "--model", "tiny"]
    environment = os.environ | {"FORMLESS_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--method", "original,icu", "--out", "first"], cwd=folder, env=environment, check=True)
    return folder


@pytest.mark.parametrize(
    "arguments",
    ["--help", "--version", "unlearn --help", "models", "methods", "status first",
     "data check sample", "report first"],
)  # fmt: skip
def test_what_needs_no_model_imports_no_torch(finished: Path, arguments: str) -> None:
    assert heavy_imports(*arguments.split(), folder=finished) == []
    if arguments.startswith("report"):
        assert (finished / "first" / "report.html").exists()


def test_completion_imports_no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_FORMLESS_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "formless unl")
    monkeypatch.setenv("COMP_CWORD", "1")
    program = SHOW_IMPORTS.replace("main()\n", "sys.argv[0] = 'formless'\nmain()\n")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "unlearn\n"
    assert done.stderr.split()[2:] == []


def test_the_version_is_the_packages(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["formless", "--version"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == f"formless {__version__}"
    said = dict(line.split(" ", 1) for line in lines)
    assert [*said] == ["commit", "python", *provenance.PACKAGES[1:], "platform", "cpu"]
    assert said["torch"] == version("torch")
    assert said["python"] == platform.python_version()
    assert re.match(r"[0-9a-f]{40}(, changed since)?$|none, an installed package$", said["commit"])


@pytest.mark.parametrize(
    ("info", "said"),
    [
        ("flags : fpu avx512_bf16 amx_bf16 avx2\n", "bfloat16 in hardware: amx_bf16, avx512_bf16; float16 in hardware: no"),
        ("Features\t: asimd asimdhp bf16\n", "bfloat16 in hardware: bf16; float16 in hardware: asimdhp"),
        ("flags : fpu avx2\n", "bfloat16 in hardware: no; float16 in hardware: no"),
        (None, ""),
    ],
)
def test_what_the_cpu_computes_by_itself(tmp_path: Path, info: str | None, said: str) -> None:
    if info:
        (tmp_path / "cpuinfo").write_text(info, "utf-8")
    _, _, found = provenance._cpu(tmp_path / "cpuinfo").partition("; ")
    assert found == said


@pytest.mark.skipif(not MAPS.exists(), reason="no /proc")
def test_ctrl_c_while_torch_is_imported() -> None:
    process = python("-m", "formless", "chat", "hello")
    maps, deadline = Path(f"/proc/{process.pid}/maps"), time.monotonic() + 60
    while "libtorch" not in maps.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 130


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_an_object_is_deleted_ends_the_command(sent: signal.Signals, code: int) -> None:
    process = python("-c", BUSY_DELETING)
    assert process.stdout
    assert process.stdout.readline() == "deleting\n"
    process.send_signal(sent)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == code


def test_a_defect_is_one_line_and_its_traceback_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def defective(*_: object) -> None:
        raise AssertionError("first line\nsecond \ud800 line")

    monkeypatch.setattr(terminal, "load_model", defective)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["formless", "unlearn", "--target", "Paris", "--out", str(tmp_path / "edit")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 70
    (line,) = capsys.readouterr().err.splitlines()
    (kept,) = tmp_path.iterdir()
    assert line.startswith("error: this is a defect of Formless (AssertionError: first line second")
    assert line.endswith(f"; please report it with {kept}")
    assert "in defective" in kept.read_text("utf-8")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 70
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1].endswith("; please report it with the lines above")


def test_ctrl_c_in_a_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(terminal, "load_model", stopped)
    monkeypatch.setattr(sys, "argv", ["formless", "unlearn", "--target", "Paris", "--out", str(tmp_path / "edit")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert capsys.readouterr() == ("", "")
    assert not (tmp_path / "edit").exists()
