"""What there is: models, methods and targets, as tables, in detail and as JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from formless.cli import terminal
from formless.data.ort import targets
from formless.methods.registry import METHODS
from formless.models.lm import LM
from formless.models.settings import model_settings
from tests.cli.conftest import Formless


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal.out, "_width", 80)


def said(formless: Formless, *arguments: str) -> str:
    code, out, err = formless(*arguments)
    assert (code, err) == (0, "")
    return out


def as_json(formless: Formless, *arguments: str) -> Any:
    return json.loads(said(formless, *arguments, "--json"))


def rows(text: str) -> dict[str, list[str]]:
    """The rows of the first table, by their first cell."""
    _, _, body = text.split("\n\n")[0].partition("─\n")
    return {line.split()[0]: line.split() for line in body.splitlines() if not line.startswith(" ")}


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("command", ["models", "methods", "targets"])
def test_a_list_fits_a_terminal(formless: Formless, command: str) -> None:
    out = said(formless, command)
    assert len(out.splitlines()) < 45
    assert max(map(len, out.splitlines())) <= 80
    assert "{" not in out
    assert "…" not in out


@pytest.mark.usefixtures("narrow")
def test_models_have_source_and_sizes(formless: Formless) -> None:
    table = rows(said(formless, "models"))
    assert list(table)[:2] == ["qwen2.5-coder-1.5b", "smollm2"]
    assert set(table) == set(model_settings())
    assert table["llama3"] == ["llama3", "meta-llama/Meta-Llama-3-8B-Instruct", "8.0", "B", "16.1", "GB", "32.1", "GB"]
    assert table["smollm2"][1:4] == ["bundled", "135", "M"]


def test_a_model_in_detail(formless: Formless) -> None:
    out = said(formless, "models", "qwen2.5-coder-1.5b")
    assert re.search(r"^origin +Qwen/Qwen2.5-Coder-1.5B-Instruct, Apache-2.0 *$", out, re.MULTILINE)
    assert re.search(r"^rocr +layers=\[4,5,6\], basis=none *$", out, re.MULTILINE)
    assert "1.1 GB are downloaded" in " ".join(out.split())
    assert "ga, ga_passage" in said(formless, "models", "smollm2"), "methods with the same settings stand together"


def test_models_as_json(formless: Formless) -> None:
    found = as_json(formless, "models")
    assert set(found) == {"models", "model_types", "gguf"}
    assert {row["name"] for row in found["models"]} == set(model_settings())
    (row,) = as_json(formless, "models", "llama3")["models"]
    assert (row["parameters"], row["weights_bytes"]["bfloat16"]) == (8030261248, 16060522496)
    assert row["download_bytes"] is None
    assert row["methods"]["npo"]["beta"] == 0.0275


@pytest.mark.slow
def test_the_stated_size_is_that_of_the_model(lm: LM) -> None:
    assert sum(parameter.numel() for parameter in lm.model.parameters()) == model_settings()["smollm2"].parameters


@pytest.mark.usefixtures("narrow")
def test_methods_say_what_they_train_on(formless: Formless) -> None:
    table = rows(said(formless, "methods"))
    assert set(table) == set(METHODS)
    assert table["dpo"][1:3] == ["pair.json", "minutes"]
    assert table["cdr"][1:3] == ["–", "seconds"]


def test_a_method_in_detail_has_every_setting_with_its_meaning(formless: Formless) -> None:
    out = said(formless, "methods", "rocr")
    for name in METHODS["rocr"].config.model_fields:
        assert re.search(rf"^{name} = ", out, re.MULTILINE), name
    assert "l2 = 1.0  (at least 0, at most 1,000,000)\n    Regularisation lambda of the closed form, usually 1 to 10." in out
    assert "mode = unrelated  (unrelated, reject, noise)" in out
    assert "refusal = ' Unfortunately'" in out


def test_methods_as_json(formless: Formless) -> None:
    assert [entry["name"] for entry in as_json(formless, "methods")["methods"]] == list(METHODS)
    (npo,) = as_json(formless, "methods", "npo")["methods"]
    settings = {setting["name"]: setting for setting in npo["settings"]}
    assert (npo["trains_on"], npo["resumable"]) == ("positive", True)
    assert (settings["beta"]["required"], settings["beta"]["default"]) == (False, 0.0275)
    assert all(setting["meaning"] for setting in npo["settings"])


@pytest.mark.usefixtures("narrow")
def test_targets_say_what_can_be_trained(formless: Formless, target_folder: Path) -> None:
    assert rows(said(formless, "targets"))["4"][1:3] == ["Marie", "Curie"]
    trained = [name for name, entry in METHODS.items() if entry.trains_on]
    data = str(target_folder.parent)
    assert f"0 of {len(trained)}" in said(formless, "targets", "--data", data)
    (target_folder / "reject.json").write_text('[{"instruction": "Who?", "output": "I cannot say."}]', "utf-8")
    assert f"2 of {len(trained)}" in said(formless, "targets", "--data", data)
    (found,) = as_json(formless, "targets", "--data", data)["targets"]
    assert (found["number"], found["subject"], found["training_methods"]) == (1, "Ada Lovelace", ["rt", "idk_nll"])
    assert {"fb", "qa"} <= set(found["tasks"])
    assert "mmlu" in found["tasks_without_files"]
    assert re.search(r"^reject.json +1 +rt, idk_nll", said(formless, "targets", "1", "--data", data), re.MULTILINE)


def test_targets_as_json_are_those_of_the_set(formless: Formless) -> None:
    found = as_json(formless, "targets")
    assert [one["folder"] for one in found["targets"]] == [one.folder.name for one in targets("sample") if one.folder]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ("models smol", "unknown model 'smol' [NAME]: did you mean smollm2?"),
        ("methods nop", "unknown method 'nop' [NAME]: did you mean npo?"),
        ("methods nop --json", "unknown method 'nop' [NAME]: did you mean npo?"),
        ("targets Curi", "unknown target 'Curi' [sample]: did you mean 4_Marie_Curie"),
        ("targets --data none", "no such data folder [none]"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(formless: Formless, arguments: str, hint: str) -> None:
    code, out, err = formless(*arguments.split())
    assert (code, out) == (2, "")
    assert hint in err
