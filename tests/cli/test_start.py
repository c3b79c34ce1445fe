"""What happens before a verb begins, and when Ctrl-C ends one."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from formless.cli import terminal
from formless.cli.main import main

MAPS = Path("/proc/self/maps")


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


@pytest.mark.skipif(not MAPS.exists(), reason="no /proc")
def test_ctrl_c_while_torch_is_imported() -> None:
    process = python("-m", "formless", "models")
    maps, deadline = Path(f"/proc/{process.pid}/maps"), time.monotonic() + 60
    while "libtorch" not in maps.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 130


def test_ctrl_c_in_a_verb(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(terminal, "load_model", stopped)
    monkeypatch.setattr(sys, "argv", ["formless", "unlearn", "--target", "Paris", "--out", str(tmp_path / "edit")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert capsys.readouterr() == ("", "")
    assert not (tmp_path / "edit").exists()
