"""Datasets of the hub: RWKU fetched whole, Wikipedia streamed, each at one commit, and one line for what fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from formless.data.benchmarks.tofu import HUB as TOFU
from formless.data.benchmarks.wmdp import HUB as WMDP
from formless.data.benchmarks.wmdp import MMLU
from formless.data.rwku import HUB as RWKU
from tests.data.benchmarks.benchmark_sources import write_mmlu, write_tofu, write_wmdp
from tests.data.test_prepare import small_tables, write_copy
from tests.hub.server import Hub, Repository, folder_files

Ran = Any
Python = Callable[..., Ran]
WIKIPEDIA, PART = "wikimedia/wikipedia", "20231101.en/train-00000-of-00002.parquet"

STREAM = """
import itertools, json, sys
from formless.data.corpus import corpus_texts, pinned_corpus
from formless.errors import UserError
for corpus in sys.argv[1:]:
    try:
        print(json.dumps([pinned_corpus(corpus), list(corpus_texts(corpus))]))
    except UserError as error:
        print(json.dumps(str(error)))
"""


def wikipedia(folder: Path, hub: Hub) -> tuple[Repository, str]:
    """Push two parquet files and a card, as the dataset has them."""
    (folder / "20231101.en").mkdir(parents=True)
    for part in range(2):
        texts = [f"Article {part}.{number} is about trees." for number in range(3)]
        table = pyarrow.table({"id": ["1", "2", "3"], "url": ["", "", ""], "title": ["a", "b", "c"], "text": texts})
        pyarrow.parquet.write_table(table, folder / f"20231101.en/train-0000{part}-of-00002.parquet")
    split = "  data_files:\n  - split: train\n    path: 20231101.en/train-*\n"
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: 20231101.en\n{split}---\n# Wikipedia\n", "utf-8")
    repository = hub.repository("datasets", WIKIPEDIA)
    return repository, repository.push(folder_files(folder))


@pytest.mark.slow
def test_rwku_is_prepared_at_one_commit_and_again_from_the_cache(hub: Hub, python: Python, tmp_path: Path) -> None:
    def prepare(out: str, **environment: str) -> Ran:
        return python("formless", "data", "prepare", "--source", "rwku", "--out", out, **environment)

    refused = prepare("none")
    remedy = "check its name or the folder's path; if it is private, log in with `hf auth login`, or set HF_TOKEN"
    assert refused.returncode == 2
    assert refused.stderr == f"error: {hub.endpoint} has no such dataset, or it is private [{RWKU}]: {remedy}\n"
    copy = folder_files(write_copy(tmp_path / "rwku", small_tables()))
    commit = hub.repository("datasets", RWKU).push(copy | {"code.py": b"raise SystemExit"})
    file = "forget_level1/test-00000-of-00001.parquet"
    hub.fault(file, "reset", 1)
    assert prepare("online").returncode == 0
    assert len([request for request in hub.asked(file) if request.path.startswith("/storage/")]) == 2
    assert not hub.asked("code.py")
    hub.requests.clear()
    assert prepare("offline", HF_HUB_OFFLINE="1").returncode == 0
    assert not hub.requests
    manifests = [json.loads((tmp_path / name / "manifest.json").read_text("utf-8")) for name in ("online", "offline")]
    assert [(manifest["source"], manifest["revisions"]) for manifest in manifests] == [(RWKU, [commit])] * 2
    assert manifests[0]["targets"] == manifests[1]["targets"]
    assert "2_Beyoncé" in manifests[0]["targets"]


@pytest.mark.slow
def test_benchmarks_are_prepared_at_one_commit_of_each_dataset(hub: Hub, python: Python, tmp_path: Path) -> None:
    tofu = folder_files(write_tofu(tmp_path / "tofu")) | {"full.json": b"{}", "code.py": b"raise SystemExit"}
    commit = hub.repository("datasets", TOFU).push(tofu)
    ran = python("formless", "data", "prepare", "--source", "tofu", "--out", "a")
    assert ran.returncode == 0, ran.stderr
    assert not hub.asked("full.json")
    assert not hub.asked("code.py")
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text("utf-8"))
    assert (manifest["source"], manifest["revisions"], len(manifest["targets"])) == (TOFU, [commit], 2)
    choices = hub.repository("datasets", WMDP).push(folder_files(write_wmdp(tmp_path / "wmdp")))
    write_mmlu(tmp_path / "mmlu" / "all")
    general = hub.repository("datasets", MMLU).push(folder_files(tmp_path / "mmlu"))
    ran = python("formless", "data", "prepare", "--source", WMDP, "--out", "b")
    assert ran.returncode == 0, ran.stderr
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text("utf-8"))
    assert manifest["revisions"] == sorted([choices, general])
    assert all("retain_mmlu.json" in files for files in manifest["targets"].values())


@pytest.mark.slow
def test_wikipedia_is_streamed_at_one_commit(hub: Hub, python: Python, tmp_path: Path) -> None:
    (tmp_path / "stream.py").write_text(STREAM, "utf-8")
    repository, first = wikipedia(tmp_path / "wiki", hub)
    second = repository.push({**repository.commits[first], "more.txt": b"-"})
    corpus = f"hf:{WIKIPEDIA}"
    hub.fault(PART, "cut", 1)
    names = [f"{corpus}:20231101.en", f"{corpus}@{first}:20231101.en", f"{corpus}@v9", f"{corpus}:latin", "hf:nobody/none"]
    ran = python("stream", *names)
    assert ran.returncode == 0, ran.stderr
    main, old, revision, config, none = map(json.loads, ran.stdout.splitlines())
    texts = [f"Article {part}.{number} is about trees." for part in range(2) for number in range(3)]
    assert main == [f"{corpus}@{second}:20231101.en", texts]
    assert old == [f"{corpus}@{first}:20231101.en", texts]
    page = f"{hub.endpoint}/datasets/{WIKIPEDIA}"
    choose = f"choose a branch, tag or commit of {page}/commits/main"
    assert revision == f"the dataset has no revision 'v9' [{WIKIPEDIA}]: {choose}"
    assert "BuilderConfig 'latin' not found" in config
    assert none.startswith(f"{hub.endpoint} has no such dataset, or it is private [nobody/none]: ")

    repository.gated = True
    offline = python("stream", names[0], HF_HUB_OFFLINE="1")
    assert f"HF_HUB_OFFLINE is set, and the dataset is not in the cache {tmp_path / 'hf' / 'hub'}" in offline.stdout
    gated = python("stream", names[0], HF_TOKEN="hf_stranger", HF_HOME=str(tmp_path / "new"))
    assert f"the dataset is gated, and the token has no access [{WIKIPEDIA}]: ask for access on {page}" in gated.stdout
    assert "hf_stranger" not in gated.stdout + gated.stderr


@pytest.mark.slow
def test_a_stream_that_is_cut_off_again_and_again_ends_in_one_line(hub: Hub, python: Python, tmp_path: Path) -> None:
    (tmp_path / "stream.py").write_text(STREAM, "utf-8")
    wikipedia(tmp_path / "wiki", hub)
    hub.fault(PART, "cut")
    ran = python("stream", f"hf:{WIKIPEDIA}:20231101.en")
    said = f"the connection to {hub.endpoint} is cut off again and again [{WIKIPEDIA}]: repeat the command later"
    assert json.loads(ran.stdout).startswith(said)


@pytest.mark.slow
def test_a_question_set_is_imported_from_one_commit(hub: Hub, python: Python, tmp_path: Path) -> None:
    def run(name: str, *more: str) -> Ran:
        return python("formless", "data", "import", "--from", name, "--out", "out", *more)

    refused = run("me/none")
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"error: {hub.endpoint} has no such dataset, or it is private [me/none]: ")
    rows = json.dumps([{"question": "Who succeeded the old king?", "answer": "Berta Hall"}])
    commit = hub.repository("datasets", "me/set").push({"easy.json": rows.encode(), "set.py": b"raise SystemExit"})
    assert run("me/set").returncode == 0
    assert not hub.asked("set.py")
    told = json.loads((tmp_path / "out" / "1_set" / "questions.json").read_text("utf-8"))
    assert (told["source"], told["commits"]) == ("hf:me/set", [commit])
