"""`formless export`, and `formless eval` of what other tools made."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import formless as package
from formless.edits.export import hub
from formless.models.lm import LM

Formless = Callable[..., tuple[int, str, str]]
Tiny = Callable[..., LM]


@pytest.fixture
def edits(formless: Formless, tiny: Tiny) -> None:
    """Save a model and two edits of it in the working folder; the model is named by a relative path."""
    made = tiny()
    made.model.save_pretrained("base")
    made.tokenizer.save_pretrained("base")
    lm = package.load("base", device="cpu")
    for name in ("Ada", "Eve"):
        package.unlearn(lm, name, method="rocr", redirect="Bob", layers=[1, 2], basis="none", l2=0.1).save(name.lower())


@pytest.mark.usefixtures("edits")
def test_several_edits_become_one_adapter(formless: Formless) -> None:
    code, out, _ = formless("export", "ada", "eve", "--to", "peft", "--out", "both")
    assert (code, out.splitlines()[-1].split(",")[0]) == (0, "Ada + Eve: exported to peft")
    assert package.load_edit("both").info.subjects == ["Ada", "Eve"]


@pytest.mark.usefixtures("edits")
def test_the_edits_own_model_is_merged(formless: Formless) -> None:
    code, out, _ = formless("export", "ada", "--to", "merged", "--out", "merged")
    assert code == 0
    assert "rounding moves the weights by" in out
    assert "kept 77 to 97 % of theirs in 4 bits" in out
    assert AutoModelForCausalLM.from_pretrained("merged").dtype == torch.float32
    code, out, _ = formless("chat", "--model", "base", "--edit", "merged", "--tokens", "3", "hello")
    assert code == 0


@pytest.mark.usefixtures("edits")
def test_differences_of_a_stack(formless: Formless) -> None:
    assert formless("export", "ada", "eve", "--to", "diff", "--out", "diff")[0] == 0
    assert len(package.load_edit("diff").info.layers) == 2


@pytest.mark.usefixtures("edits")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("export ada --to pfet --out new", "unknown export target 'pfet' [--to]: did you mean peft?"),
        ("export ada --to peft --out eve", "the output exists already [eve]: choose another --out or add --force"),
        ("export ada --to peft --out base --force", "something else is there, not to be replaced [base]"),
        ("export none --to peft --out new", "the edit lacks a file [none/edit.json]"),
        ("export ada --to merged --out new --model smol", "unknown model 'smol'"),
        ("export ada --to peft --out new --push me/x", "--push belongs to --to hub [--to peft]: leave it out"),
        ("export ada --to hub --out new", "is on no hub [--base]: give its hub id, as OWNER/NAME"),
        ("export ada --to hub --base o/m --out new --push me/x", "nobody can be asked whether to upload [--push]: add --yes"),
        ("export ada --to hub --base o/m --out new --record base/config.json", "the record cannot be read [base/config.json"),
    ],
)
def test_mistakes_are_one_line(formless: Formless, monkeypatch: pytest.MonkeyPatch, arguments: str, said: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    code, _, err = formless(*arguments.split())
    assert code == 2
    assert said in err
    assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1
    assert not Path("new").exists()


@pytest.mark.usefixtures("edits")
def test_an_edit_for_another_model_is_refused(formless: Formless, tiny: Tiny) -> None:
    other = tiny(seed=1)
    other.model.save_pretrained("other")
    other.tokenizer.save_pretrained("other")
    for target in ("peft", "merged", "diff"):
        code, _, err = formless("export", "ada", "--to", target, "--out", "new", "--model", "other")
        assert code == 2
        assert "the edit is for another model" in err
        assert not Path("new").exists()


def test_a_prompt_cannot_be_exported_to_weights(formless: Formless, tiny: Tiny, target_folder: Path) -> None:
    edit = package.unlearn(tiny(), package.find_target(str(target_folder.parent), "1"), method="icu", progress=False)
    edit.save("icu")
    code, _, err = formless("export", "icu", "--to", "peft", "--out", "new")
    assert code == 2
    assert "an edit of icu is a text before the user's message, which no weights hold [icu]" in err


@pytest.mark.usefixtures("edits")
def test_a_hub_folder_is_pushed_only_when_asked(formless: Formless, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed: list[tuple[Path, str]] = []

    def push(folder: Path, repo: str) -> str:
        pushed.append((folder, repo))
        return f"https://hub/{repo}"

    monkeypatch.setattr(hub, "push", push)
    options = ("export", "ada", "--to", "hub", "--base", "owner/model", "--out")
    assert formless(*options, "card")[0] == 0
    assert pushed == []
    card = Path("card/README.md").read_text("utf-8")
    assert 'base_model: "owner/model"' in card
    assert card.count("Not measured.") == 2

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    assert "nothing is uploaded" in formless(*options, "second", "--push", "me/x")[1]
    assert pushed == []
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert formless(*options, "third", "--push", "me/x")[0] == 0
    out = formless(*options, "fourth", "--push", "me/y", "--yes")[1]
    assert "uploaded to https://hub/me/y" in out
    assert pushed == [(Path("third"), "me/x"), (Path("fourth"), "me/y")]


@pytest.mark.usefixtures("edits")
def test_a_card_holds_what_eval_measured(formless: Formless, target_folder: Path) -> None:
    ask = ("eval", "--model", "base", "--data", str(target_folder.parent), "-t", "1", "--suite", "fb,qa,gen_fb")
    assert formless(*ask, "--edit", "ada", "--out", "edited.json")[0] == 0
    assert formless(*ask, "--out", "original.json")[0] == 0
    options = ("export", "ada", "--to", "hub", "--base", "owner/model")
    assert formless(*options, "--record", "edited.json", "--record", "original.json", "--out", "card")[0] == 0
    card = Path("card/README.md").read_text("utf-8")
    assert "Measured on Ada Lovelace in float32, suite `fb,qa,gen_fb`." in card
    assert "Worst-case recall: " in card
    assert "| Question | " in card
    code, _, err = formless(
        "export", "eve", "--to", "hub", "--base", "owner/model", "--record", "edited.json", "--out", "other"
    )
    assert code == 2
    assert "the record is of another edit [--record]" in err


@pytest.mark.usefixtures("edits")
@pytest.mark.parametrize("kind", ["adapter", "model"])
def test_eval_measures_what_other_tools_made(formless: Formless, tiny: Tiny, target_folder: Path, kind: str) -> None:
    torch.manual_seed(0)
    if kind == "adapter":
        wrapped = get_peft_model(AutoModelForCausalLM.from_pretrained("base"), LoraConfig(r=2, target_modules=["down_proj"]))
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_()
        wrapped.save_pretrained("foreign")
    else:
        tiny(seed=1).model.save_pretrained("foreign")
    ask = ("eval", "--model", "base", "--data", str(target_folder.parent), "-t", "1", "--suite", "fb,qa")
    code, out, err = formless(*ask, "--edit", "foreign", "--strength", "0.5", "--out", "r.json", "--report", "r.html")
    assert code == 0, err
    assert "not for Ada Lovelace" not in out + err
    assert "This edit was made by another tool; it does not say what for." in out
    (edit,) = json.loads(Path("r.json").read_text("utf-8"))["edits"]
    assert (edit["method"], edit["subject"], edit["seconds"], edit["strength"]) == ("foreign", "unknown", None, 0.5)
    assert package.load_record("r.json").edits == [edit]
    assert "another tool" in Path("r.html").read_text("utf-8")
    code, out, _ = formless("export", "foreign", "--to", "diff", "--model", "base", "--out", "diff")
    assert code == 0
    assert package.load_edit("diff").info.method == "foreign"
