"""Commands in poor surroundings: no home, no Unicode, no working directory, no streams, and limits that are soon met."""

from __future__ import annotations

import pwd
import re
import resource
import sys
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from formless import store
from formless.cli import terminal
from formless.errors import UserError
from formless.models.lm import LM
from tests.experiment.conftest import write_target
from tests.faults.commands import GA, ROCR, assert_one_line, formless, lay_out, scratch, shell
from tests.faults.processes import Command

GONE = "mkdir gone; cd gone; rmdir ../gone;"
NAME = "Zoë 株"


@pytest.fixture(scope="module")
def finished(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with finished runs, whose data holds a name that is not ASCII."""
    folder = lay_out(tmp_path_factory.mktemp("finished") / "work", model)
    place = write_target(folder / "names", 1)
    for path in place.iterdir():
        path.write_text(path.read_text("utf-8").replace("Person 1", NAME), "utf-8")
    place.rename(place.with_name("1_Zoë_株"))
    write_experiment(folder, ["original", "icu"], data="names")
    assert formless(folder, "run", "x.yaml", "--out", "runs").code == 0
    return folder


def write_experiment(folder: Path, methods: list[object], **keys: str) -> None:
    known = {"models": "model", "methods": methods, "data": "people", "suite": "fb"}
    (folder / "x.yaml").write_text(yaml.safe_dump(known | keys), "utf-8")


ASCII = "LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0"
NO_CONFIG = "^$|^mkdir -p failed.*\nMatplotlib created.*\n$"
NO_LETTER = r"^error: a file's name holds \\xeb, .*ascii lacks: set LC_ALL=C.UTF-8 .*\n$"
# A line of bash, its exit code, and what must be on standard output and on standard error.
LINES = [
    ("formless data check names", "HOME", 1, "1_Zoë_株", "^$"),
    ("HOME=/dev/null/none formless report runs --force --out a.html", "FORMLESS_CACHE", 0, "report: a.html", NO_CONFIG),
    (f"{ASCII} formless data check names", "", 1, r"1_Zo\\udcc3\\udcab", "^$"),
    (f"{ASCII} formless summarize runs", "", 2, "^$", NO_LETTER),
    ("LC_ALL=C PYTHONIOENCODING=ascii formless data forms --data names --force", "", 0, r"1_Zo\\xeb_\\u682a/forget_tf", "^$"),
    ("LC_ALL=C PYTHONIOENCODING=ascii formless status runs", "", 0, "all runs are complete", "^$"),
    (f"{ASCII} formless data new -t 'Zoë 株' --facts facts.txt --out new", "", 2, "^$", r"^error: an argument .*: set LC_ALL"),
    (f"{GONE} formless status runs", "", 2, "^$", "^error: the working directory has been removed: change to .*\n$"),
    ("formless status runs | true", "", 141, "^$", "^$"),
    ("formless --help | true; exit ${PIPESTATUS[0]}", "", 141, "^$", "^$"),
    ("formless status runs >&-", "", 0, "^$", "^$"),
    ("formless status nowhere >&-", "", 2, "^$", "^error: no experiment was started in this folder.*\n$"),
    ("formless status runs 2>&-", "", 0, "all runs are complete", "^$"),
    ("formless status nowhere 2>&-", "", 2, "^$", "^$"),
    ("formless status runs <&- >&- 2>&-", "", 0, "^$", "^$"),
    ("formless status runs <&-", "", 0, "all runs are complete", "^$"),
    ("formless status runs >/dev/full", "", 2, "^$", "(?i)^error: .*no space left on device.*\n$"),
    ("formless status nowhere 2>/dev/full", "", 2, "^$", "^$"),
    ("ulimit -n 8; formless status runs", "", 0, "all runs are complete", "^$"),
    ("ulimit -f 0; formless summarize runs --csv a.csv", "", 2, "", r"^error: cannot write: file too large \[a.csv\]: .*\n$"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("line", "remove", "code", "out", "err"), LINES, ids=[line for line, *_ in LINES])
def test_a_line_of_bash(finished: Path, line: str, remove: str, code: int, out: str, err: str) -> None:
    ended = shell(finished, line, timeout=60, remove=(remove,), HF_HOME=str(finished / "hub"))
    assert ended.code == code, ended
    assert re.search(out, ended.out), ended
    assert re.search(err, ended.err), ended
    assert "Traceback" not in ended.out + ended.err


def test_no_home_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(user: int) -> None:
        raise KeyError(user)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("FORMLESS_CACHE", raising=False)
    with pytest.raises(UserError, match=r"no home folder is known \[HOME\]: set FORMLESS_CACHE to a folder"):
        store.cache_folder()
    monkeypatch.setenv("FORMLESS_CACHE", "/elsewhere")
    assert store.cache_folder() == Path("/elsewhere")


@pytest.fixture
def folder(model: Path, tmp_path: Path) -> Path:
    """A folder with an experiment: the original model, a solved edit and a training run, of one target."""
    made = lay_out(tmp_path / "work", model)
    write_experiment(made, ["original", ROCR, GA], targets="1")
    return made


RUN = ("run", "x.yaml", "--out", "out")


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 1000, 20_000])
def test_files_may_not_grow(size: int, server: ForkServerContext, folder: Path) -> None:
    """The output of the command itself is in files too, which may not grow either."""
    ended = Command(server, folder, *RUN, limits={resource.RLIMIT_FSIZE: size}).ended()
    assert ended.code == 2, ended
    if size:
        assert_one_line(ended, r"error: cannot write: (file too large|torch fails to write .*) \[.+\]: free space")
    assert_resumes(folder)


@pytest.mark.slow
@pytest.mark.parametrize("count", [5, 12, 14])
def test_few_files_may_be_open(count: int, server: ForkServerContext, folder: Path) -> None:
    ended = Command(server, folder, *RUN, limits={resource.RLIMIT_NOFILE: count}).ended()
    assert ended.code in (0, 1, 2), ended
    assert "Traceback" not in ended.out + ended.err
    if ended.code == 2:
        assert_one_line(ended, "(?i)error: .*too many open files")
    if ended.code == 1:
        assert re.search("(?i)failed: .*too many open files", ended.out), ended
    assert count > 5 or ended.code
    assert_resumes(folder)


def assert_resumes(folder: Path) -> None:
    """Without the limit the same command completes all runs, and nothing unfinished lies about."""
    assert formless(folder, *RUN).code == 0
    assert len(list(folder.rglob("record.json"))) == 3
    assert not scratch(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "megabytes"),
    [(("chat", "--model", "large", "hello"), 80), (RUN, 0), (RUN, 80)],
)  # fmt: skip
def test_memory_runs_out(
    arguments: tuple[str, ...], megabytes: int, server: ForkServerContext, folder: Path, tiny: Callable[..., LM]
) -> None:
    lm = tiny()
    config = lm.model.config
    config.update({"hidden_size": 512, "head_dim": 128, "intermediate_size": 6_000})
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder / "large")  # 150 MB
    lm.tokenizer.save_pretrained(folder / "large")
    write_experiment(folder, ["original"], targets="1", models="large")
    ended = Command(server, folder, *arguments, limits={resource.RLIMIT_AS: megabytes * 2**20}).ended()
    assert "Traceback" not in ended.out + ended.err
    if ended.code == 1:
        assert re.search("failed: .*(memory|large)", ended.out), ended
    else:
        assert_one_line(ended, "(?i)error: .*(memory|large)")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "free memory, or choose a smaller model"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."), "memory runs out"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "memory runs out"),
        (UnicodeEncodeError("ascii", "a\xeb", 1, 2, "ordinal not in range(128)"), r"holds \xeb, which the locale's encoding"),
        (UnicodeEncodeError("cp437", "a\xeb", 1, 2, "no such letter"), "this is a defect of Formless"),
    ],
)  # fmt: skip
def test_the_surroundings_are_told_from_defects(
    error: Exception, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_model(*_: object) -> None:
        raise error

    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(terminal, "load_model", load_model)
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    ended = formless(tmp_path, "chat", "hello")
    assert (ended.code, ended.out) == (70 if "defect" in said else 2, "")
    assert said in ended.error
