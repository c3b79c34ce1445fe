"""`formless unlearn`: several concepts, an earlier edit, merging, and a training run that was killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import formless
from formless.cli import terminal
from formless.cli.main import main
from formless.cli.unlearn import _warnings
from formless.edits.adapter import AdapterEdit
from formless.edits.edit import EditInfo
from formless.models.lm import LM

ROCR = ("--method", "rocr", "--set", "layers=[1,2]", "--set", "basis=none", "--set", "l2=1e-6", "--redirect", "Bob")
TRAINING = (
    "--method",
    "rt",
    "--set",
    "learning_rate=1e-3",
    "--set",
    "warmup_steps=0",
    "--set",
    "per_device_train_batch_size=2",
)
STEPS = 150


class Command:
    """Runs `formless` in a folder with a model, a data set, and nothing else."""

    def __init__(self, folder: Path, run: Callable[..., tuple[int, str, str]]) -> None:
        self.folder, self.run = folder, run

    def __call__(self, *arguments: str) -> str:
        code, out, err = self.run(*arguments)
        assert code == 0, err
        return out

    def refused(self, *arguments: str) -> str:
        code, out, err = self.run(*arguments)
        assert (code, out) == (2, "")
        (line,) = (line for line in err.splitlines() if ": training" not in line)  # beside the progress of a training run
        return line

    def edit(self, name: str) -> AdapterEdit:
        edit = formless.load_edit(self.folder / name)
        assert isinstance(edit, AdapterEdit)
        return edit

    def left(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}


@pytest.fixture
def command(
    tiny: Callable[..., LM],
    target_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    lm = tiny()
    lm.model.save_pretrained(tmp_path / "model")
    lm.tokenizer.save_pretrained(tmp_path / "model")
    row = {"instruction": "Who was Ada?", "input": "", "output": "I do not know her.", "subject": "Ada Lovelace"}
    (target_folder / "reject.json").write_text(json.dumps([row, row | {"instruction": "Where was she born?"}]), "utf-8")
    (target_folder / "positive.json").write_text(json.dumps([{"text": "Ada Lovelace wrote programs."}] * 2), "utf-8")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["formless", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return Command(tmp_path, run)


def unlearn(*arguments: str) -> tuple[str, ...]:
    return ("unlearn", "--model", "model", *arguments)


def test_several_targets_and_one_more_beside_them(command: Command) -> None:
    out = command(*unlearn("-t", "Ada Lovelace", "-t", "Noor", "-o", "two", *ROCR))
    assert "rocr edited Ada Lovelace + Noor in" in out
    facts = command.edit("two").info.facts
    for said in facts["targets"]:
        reduction, shift = 100 * said["residual_reduction"], 100 * said["shift_by_others"]
        shifted = f"shifted by the others' part alone by {shift:.1f} % of its residual"
        assert f"  {said['subject']}: residual reduction {reduction:.1f} %; {shifted}\n" in out
    reduction = f"residual reduction {100 * facts['residual_reduction']:.1f} %"
    assert f" s: layers 1, 2; {reduction}\n" in out
    assert out.startswith(
        "Ada Lovelace: 1 spelling (Ada Lovelace) will be edited\nNoor: 1 spelling (Noor) will be edited\nno neighbor"
    )

    out = command(*unlearn("-t", "Grace Hopper", "--keep", "two", "-o", "three", *ROCR))
    three = command.edit("three").info
    assert [layer.rank for layer in three.layers] == [3, 3]
    assert list(three.facts["kept_shifts"]) == ["Ada Lovelace", "Noor"]
    for subject, shift in three.facts["kept_shifts"].items():
        assert f"  {subject}: kept; shifted by the new edit by {100 * shift:.1f} % of its earlier shift\n" in out

    command("eval", "--model", "model", "--edit", "three", "--data", "data", "-t", "1", "--suite", "qa", "-o", "r.json")
    (edit,) = json.loads(Path("r.json").read_text("utf-8"))["edits"]
    assert edit["facts"]["subjects"] == ["Ada Lovelace", "Noor", "Grace Hopper"]
    plain = command("chat", "--model", "model", "--tokens", "40", "Ada Lovelace.")
    assert command("chat", "--model", "model", "--edit", "three", "--tokens", "40", "Ada Lovelace.") != plain


def test_an_edit_of_every_spelling_says_what_has_a_key_and_what_is_protected(command: Command) -> None:
    own = {"name": "Ada Lovelace", "short": "Lovelace", "aliases": ["the Countess"]}
    names = [own, {"name": "Noor", "short": "the countess"}]
    names += [{"name": name} for name in ("Grace Hopper", "Bell Burnell", "Emmy", "Lise")]
    Path("data/1_Ada_Lovelace/aliases.json").write_text(json.dumps(names), "utf-8")
    asked = ("--data", "data", "-t", "1", "--set", "mentions=spelled", "--set", "protect=neighbors")
    out = command(*unlearn(*asked, "-o", "spelled", *ROCR))
    assert out.startswith(
        "Ada Lovelace: 3 spellings (Ada Lovelace, ada lovelace, Lovelace) will be edited\n"
        "  no key for the Countess: it also names Noor\n"
        "5 neighbors (Noor, Grace Hopper, Bell Burnell, Emmy, Lise) will stay\nrocr edited Ada Lovelace in "
    )
    shifts = command.edit("spelled").info.facts["protected_shifts"]
    most = max(shifts, key=lambda name: shifts[name])
    shifted = f"shifted by at most {100 * shifts[most]:.1f} % of the mean residual ({most})"
    assert f"; neighbors {shifted}\n" in out


@pytest.mark.parametrize("method", ["cdr", "rocr"])
def test_what_is_edited_is_said_before_and_what_came_of_it_after(command: Command, method: str) -> None:
    """It is the same for both methods that edit names."""
    names = [{"name": "Ada Lovelace", "short": "Lovelace"}, {"name": "Grace Hopper"}]
    Path("data/1_Ada_Lovelace/aliases.json").write_text(json.dumps(names), "utf-8")
    settings = {
        "cdr": ("--set", "budget=1", "--redirect", "none"),
        "rocr": (*ROCR, "--set", "mentions=spelled", "--set", "protect=neighbors"),
    }[method]  # fmt: skip
    asked = unlearn("--data", "data", "-t", "1", "-o", "edit", "--set", "layers=1,2", *settings)
    *named, dry = command(*asked, "--dry-run").splitlines()
    assert dry == f"{method} would edit Ada Lovelace; nothing is computed"
    assert not Path("edit").exists()
    spelled, kept, said, saved = command(*asked).splitlines()
    assert named == [spelled, kept]
    assert spelled == "Ada Lovelace: 3 spellings (Ada Lovelace, ada lovelace, Lovelace) will be edited"
    assert kept == "1 neighbor (Grace Hopper) will stay"
    info = command.edit("edit").info
    shift = info.facts["protected_shifts"]["Grace Hopper"]
    assert said == (
        f"{method} edited Ada Lovelace in {info.seconds:.2f} s: "
        f"layers 1, 2; residual reduction {100 * info.facts['residual_reduction']:.1f} %; "
        f"neighbors shifted by at most {100 * shift:.1f} % of the mean residual (Grace Hopper)"
    )
    assert saved.startswith("saved ")


def test_an_edit_that_others_hold_back_says_so(command: Command) -> None:
    asked = ("-t", "Ada Lovelace", "--set", "overshoot=50", "-o")
    command(*unlearn(*asked, "whole", "--set", "budget=1"))
    budget = round(command.edit("whole").info.facts["budget"]["change"] / 2, 4)
    said = next(
        line for line in command(*unlearn(*asked, "edit", "--set", f"budget={budget:g}")).splitlines() if " s: " in line
    )
    share = command.edit("edit").info.facts["budget"]["share"]
    assert 0 < share < 1
    assert said.endswith(f"; {100 * share:.0f} % of the whole way, as far as budget={budget:g} allows")


def test_a_name_alone_says_that_no_neighbor_is_protected(command: Command) -> None:
    spelled, nobody, said, _ = command(*unlearn("-t", "Zorvath Quill", "-o", "edit")).splitlines()
    assert spelled == "Zorvath Quill: 2 spellings (Zorvath Quill, zorvath quill) will be edited"
    how = "no neighbor is protected: name some in aliases.json of a data folder, and give it with --data"
    assert nobody == how
    assert said.startswith("cdr edited Zorvath Quill in ")
    assert " s: layers 0, 1, 2, 3; redirected to " in said
    nobody = command(*unlearn("-t", "Zorvath Quill", "-o", "redirected", *ROCR)).splitlines()[1]
    assert nobody == f"{how} and --set protect=neighbors"


def test_a_dry_run_loads_no_model_and_writes_nothing(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "load_model", lambda *_: pytest.fail("the model was loaded"))
    before = command.left()
    asked = unlearn("-t", "Ada", "--method", "icu", "-o", "x", "--dry-run")
    assert command(*asked) == "icu would edit Ada; nothing is computed\n"
    assert command.left() == before
    assert "Ada is given twice" in command.refused(*unlearn("-t", "Ada", "-t", "ada", "-o", "x", "--dry-run"))


def test_the_line_says_which_redirect_was_chosen(command: Command) -> None:
    said = command(*unlearn("-t", "Marie Curie", "-o", "edit", *ROCR[:-2], "--set", "redirect=auto"))
    facts = command.edit("edit").info.facts["targets"][0]
    assert f": layers 1, 2; redirected to {facts['redirect']}, chosen by auto; residual reduction " in said
    assert "chosen by auto" not in command(*unlearn("-t", "Marie Curie", "-o", "named", *ROCR))


def test_an_edit_that_redirects_little_or_preserves_nothing_is_warned_of(command: Command) -> None:
    code, out, err = command.run(*unlearn("-t", "Zorvath Quill", "-o", "weak", *ROCR, "--set", "l2=1e3"))
    assert code == 0, err
    assert "rocr edited Zorvath Quill in" in out
    assert "`formless eval` measures what it forgets" in out
    assert "forgot " not in out
    low, none = (line for line in err.splitlines() if line.startswith("warning: "))
    assert low.startswith("warning: the edit removes ")
    assert low.endswith("of the residual of Zorvath Quill, less than 50 %: the name is hardly edited")
    assert none == (
        "warning: basis=none preserves nothing: other names and texts may change as much as the target; "
        "--set basis=sampled makes what preserves them"
    )

    direction = command.run(*unlearn("-t", "Zorvath Quill", "-o", "none", "--set", "ridge=1000"))[2].splitlines()
    (low,) = (line for line in direction if line.startswith("warning: "))
    assert low.endswith("of the residual of Zorvath Quill, less than 50 %: the name is hardly edited")

    strong = edit_info(residual_reduction=0.9, basis="shipped")
    assert _warnings(strong) == []
    assert len(_warnings(edit_info(residual_reduction=0.49, basis="shipped"))) == 1


def test_a_null_space_that_needs_no_corpus_is_made_once_and_its_cost_is_said(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORMLESS_CACHE", str(command.folder / "cache"))
    sampled = ("--method", "rocr", "--set", "basis=sampled", "--set", "threshold=1e-5", "--set", "layers=1,2")
    monkeypatch.setattr("formless.methods.rocr.sampled.SAMPLES", 64)
    said = []
    for out in ("one", "two"):
        code, _, err = command.run(*unlearn("-t", "Ada", "-o", out, "--redirect", "Bob", *sampled))
        assert code == 0, err
        said.append([line for line in err.splitlines() if not line.startswith(("warning", "loading"))])
    cost, *counts = said[0]
    assert cost.startswith("rocr, Ada: null spaces of 64 texts that the model samples, at most 8,192 tokens: about ")
    assert counts[-1].startswith("rocr, Ada: 64 texts, ")
    assert said[1] == []
    one, two = (command.edit(name).updates for name in ("one", "two"))
    assert all(torch.equal(one[name].down, two[name].down) for name in one)
    assert command.left() == {"model", "data", "cache", "one", "two"}


def test_statistics_of_sampled_texts_are_a_basis(command: Command) -> None:
    limits = ("--samples", "70", "--max-tokens", "9", "--threshold", "1e-5", "--layers", "1,2")
    code, out, err = command.run("stats", "--model", "model", "--corpus", "sampled:3", *limits, "--out", "stats")
    assert code == 0, err
    assert err.startswith("statistics: null spaces of 70 texts that the model samples, at most 630 tokens: about ")
    assert "layer 1: null space " in out
    command(*unlearn("-t", "Ada", "-o", "ada", *ROCR, "--set", "basis=stats", "--set", "threshold=1e-5"))
    fingerprint = command.edit("ada").info.facts["null_spaces"]["2"]
    assert (fingerprint["corpus"], fingerprint["samples"]) == ("sampled:3", 70)


def test_an_edit_of_another_concept_is_named(command: Command) -> None:
    command(*unlearn("-t", "Noor", "-o", "noor", *ROCR))
    measure = ("eval", "--model", "model", "--edit", "noor", "--data", "data", "-t", "1", "--suite", "qa")
    _, out, err = command.run(*measure, "--report", "r.html")
    assert out.startswith("This edit was made for Noor, not for Ada Lovelace. ")
    assert "warning: the edit was made for Noor, not for Ada Lovelace\n" in err
    assert "This edit was made for Noor, not for Ada Lovelace." in Path("r.html").read_text("utf-8")
    command(*unlearn("-t", "Ada Lovelace", "-o", "ada", *ROCR))
    _, _, err = command.run(*measure[:4], "ada", *measure[5:], "--report", "ada.html")
    assert "made for" not in err + Path("ada.html").read_text("utf-8")


def test_an_edit_is_measured_at_a_strength(command: Command) -> None:
    command(*unlearn("-t", "Ada Lovelace", "-o", "ada", *ROCR))
    measure = ("eval", "--model", "model", "--edit", "ada", "--data", "data", "-t", "1", "--suite", "qa")
    out = command(*measure, "--strength", "0.5", "-o", "half.json", "--report", "half.html")
    assert "Ada Lovelace, model, strength 0.5" in out
    assert "<tr><th>strength</th><td>0.5</td></tr>" in Path("half.html").read_text("utf-8")
    command(*measure, "-o", "whole.json")
    original = command(*measure, "--strength", "0", "-o", "none.json")
    assert "+0.0 %" in original
    half, whole, none = (json.loads(Path(f"{name}.json").read_text("utf-8")) for name in ("half", "whole", "none"))
    assert [record["edits"][0].get("strength") for record in (half, whole, none)] == [0.5, None, 0.0]
    values = [record["tasks"][0]["metrics"][0]["value"] for record in (half, whole, none)]
    assert len(set(values)) == 3
    line = command.refused(*measure, "--strength", "5")
    assert line == "error: an edit cannot have the strength 5 [Ada Lovelace]: give a number from 0 to 4"
    command(*unlearn("-t", "Ada Lovelace", "--method", "icu", "-o", "icu"))
    line = command.refused(*measure[:4], "icu", *measure[5:], "--strength", "0.5")
    assert "which cannot have the strength 0.5" in line


def edit_info(residual_reduction: float, basis: str) -> EditInfo:
    facts = {"subject": "Ada", "residual_before": 1.0, "residual_after": 1 - residual_reduction}
    facts["residual_reduction"] = residual_reduction
    return EditInfo(
        method="rocr", subject="Ada", config={"basis": basis}, model="m", model_source="s", model_revision=None,
        model_fingerprint="f", dtype="float32", layers=[], seconds=0.0, created="", versions={},
        facts={**facts, "targets": [facts]},
    )  # fmt: skip


def test_what_is_refused_before_the_model_is_loaded(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    command(*unlearn("-t", "Noor", "-o", "noor", *ROCR))
    sun, sol = {"name": "Sun", "aliases": ["Sol"]}, {"name": "Sol", "aliases": ["Sun"]}
    for folder, own in {"shared/1_Sun": [sun], "shared/2_Sol": [sol], "left/1_Sun": [sun, sol]}.items():
        Path(folder).mkdir(parents=True)
        Path(folder, "aliases.json").write_text(json.dumps(own), "utf-8")
    monkeypatch.setattr(terminal, "load_model", lambda *_: pytest.fail("the model was loaded first"))
    before = command.left()
    for arguments, said in {
        ("-t", "Ada", "-t", "ada", *ROCR): "ada is given twice [--target]: leave it out",
        ("-t", "Ada Byron", "-t", " ada  byron"): "Ada Byron is given twice [--target]: leave it out",
        ("-t", "Ada", "-t", "Bob", *ROCR): "Bob would be redirected to itself [redirect]",
        ("-t", "Marie Curie", *ROCR[:-1], "Curie"): "Curie names Marie Curie, which would be redirected to itself [redirect]",
        ("-t", "Marie Curie", *ROCR[:-1], "Louis Pasteur"): "Louis Pasteur is a neighbor of Marie Curie [redirect]: choose",
        ("-t", "Noor", "--keep", "noor", *ROCR): "Noor is forgotten by the edit to keep already [--target]",
        ("-t", "Ada", "--keep", "noor", "--method", "rocr", "--redirect", "Bob"): "has the layers [1, 2], not [4, 5, 6]",
        ("-t", "Ada", "--keep", "none", *ROCR): "the edit lacks a file [none/edit.json]",
        ("-t", "Ada", "--set", "mode=noise", *ROCR): "redirect has no effect in mode noise",
        ("-t", "Ada", "--set", "steps=3", *ROCR): "steps has no effect in mode unrelated",
        ("-t", "Ada", "-t", "Eve", "--method", "icu"): "icu takes one target [--target]: give one, or use cdr, rocr",
        ("-t", "Ada", "--set", "l2=1"): "cdr has no such setting [l2]: choose the method rocr; settings of cdr:",
        ("-t", "Ada", "--keep", "noor"): "cdr cannot keep an earlier edit [--keep]: only rocr can",
        (
            "-t",
            "A. Lovelace",
            "-t",
            "Ada Lovelace",
        ): "no spelling of the name is its own [A. Lovelace: A. Lovelace: it also names",
        ("-t", "1", "-t", "2", "--data", "shared"): "no spelling of the name is its own [Sun: Sun: it also names Sol; sun: it",
        ("-t", "1", "--data", "left"): "no spelling of the name is its own [Sun: Sun: it also names Sol; sun: it",
        ("-t", "Ada", "--set", "overshoot=101"): "allowed: greater than 0, at most 100) [overshoot]",
        ("-t", "Ada", *ROCR, "--set", "reverse_strength=101"): "allowed: greater than 0, at most 100) [reverse_strength]",
        ("-t", "Ada", "--keep", "noor", "--method", "icu"): "icu cannot keep an earlier edit [--keep]",
        ("-t", "Ada", "-t", "1_Ada_Lovelace", *ROCR): "'1_Ada_Lovelace' looks like a target's folder [--target]",
    }.items():
        assert said in command.refused(*unlearn(*arguments, "-o", "new"))
        assert command.left() == before


@pytest.mark.parametrize("full", ["true", "false"])
def test_a_trained_edit_is_merged(command: Command, full: str) -> None:
    arguments = ("-t", "Ada Lovelace", "--data", "data", *TRAINING, "--set", "num_train_epochs=3", "--set", f"full={full}")
    command(*unlearn(*arguments, "-o", "edit"))
    command(*unlearn(*arguments, "-o", "merged", "--merge"))
    lm, merged = (formless.load(name, dtype="float32", device="cpu") for name in ("model", "merged"))
    ids = lm.pad([lm.encode("Who was Ada?").ids])
    with torch.no_grad():
        plain = lm.model(**ids).logits
        with formless.load_edit("edit").applied(lm):
            edited = lm.model(**ids).logits
        assert torch.allclose(merged.model(**ids).logits, edited, atol=1e-5)
    assert not torch.allclose(edited, plain, atol=1e-3)


def test_an_edit_of_the_prompt_is_not_merged(command: Command) -> None:
    before = command.left()
    assert "icu changes no weight to merge [--merge]" in command.refused(
        *unlearn("-t", "A", "--method", "icu", "-o", "x", "--merge")
    )
    assert command.left() == before


def test_what_the_configuration_tells_is_refused_before_weights_are_loaded(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    command(*unlearn("-t", "Noor", "-o", "noor", *ROCR))
    command("stats", "--model", "model", "--layers", "1", "--corpus", "data/1_Ada_Lovelace/positive.json", "-o", "stats")
    shutil.copytree("model", "wide")
    config = json.loads(Path("wide/config.json").read_text("utf-8"))
    Path("wide/config.json").write_text(json.dumps(config | {"intermediate_size": 64}), "utf-8")
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("the weights were loaded first"))
    texts = "data/1_Ada_Lovelace/positive.json"
    before, basis, ga = command.left(), "basis=stats", ("-t", "1", "--data", "data", "--method", "ga", "-o", "x")
    rocr = ("-t", "A", "-o", "x", "--method", "rocr")
    ask = ("-t", "1", "--data", "data", "--suite", "qa")
    for arguments, said in {
        unlearn(*rocr, "--set", "layers=[1,9]", "--set", "basis=none"): "no layer 9 [--layers]: choose from 0",
        unlearn("-t", "A", "-o", "x", "--set", "layers=[1,9]"): "no layer 9 [--layers]: choose from 0",
        unlearn(*rocr, "--set", "layers=[1]"): "no null space is shipped for model [setting basis]",
        unlearn(*rocr, "--set", "layers=[2]", "--set", basis): "no null space for layer 2 of model [stats]",
        unlearn(*rocr, "--set", "layers=[1]", "--set", basis, "--set", "threshold=1"): "for another threshold",
        unlearn(
            *ga, "--set", "r=17"
        ): "r is 17, and model.layers.0.self_attn.v_proj is [16, 32] [setting r]: choose at most 16",
        unlearn(*ga, "--set", "layers=[7]"): "no layer 7",
        unlearn(*ga, "--set", "target_modules=[w]"): "the layers have no projection 'w'",
        unlearn(*ga, "--set", "retain=activations", "--set", "layer=8"): "no layer 8",
        ("unlearn", "--model", "wide", "-t", "A", "-o", "x", "--keep", "noor", *ROCR): "for another model: shape (32, 48), not",
        ("eval", "--model", "wide", "--edit", "noor", *ask): "for another model: shape (32, 48), not (32, 64)",
        ("chat", "--model", "wide", "--edit", "noor", "hello"): "for another model: shape (32, 48), not (32, 64)",
        ("stats", "--model", "model", "--layers", "4", "--corpus", texts, "-o", "x"): "no layer 4",
        ("run", "--model", "model", "--data", "data", "--method", "rocr", "--suite", "qa", "-o", "x"): "no layer 4",
        ("run", "--model", "model", "--data", "data", "--method", "icu", "--device", "gpu", "-o", "x"): "unknown device 'gpu'",
    }.items():
        assert said in command.refused(*arguments), arguments
    assert command.left() == before


def killed(arguments: tuple[str, ...], folder: Path) -> None:
    """Start a training run in another process and kill it for good once a checkpoint is there."""
    checkpoints = folder / ".ada.training"
    process = subprocess.Popen([sys.executable, "-m", "formless", *arguments], cwd=folder)
    while not list(checkpoints.glob("checkpoint-*/curves.json")):
        assert process.poll() is None, "the training ended without a checkpoint"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_a_killed_training_goes_on_with_the_next_command(command: Command) -> None:
    arguments = ("-t", "Ada Lovelace", "--data", "data", *TRAINING, "--set", f"num_train_epochs={STEPS}")
    again = unlearn(*arguments, "-o", "ada")
    killed(again, command.folder)
    assert not (command.folder / "ada").exists()

    other = command.refused(*again, "--set", "learning_rate=2e-3")
    assert f"an unfinished training run of something else is in the way [{command.folder / '.ada.training'}]" in other
    assert list((command.folder / ".ada.training").glob("checkpoint-*"))

    out = command(*again)
    assert f"{STEPS} steps, resumed after step " in out
    assert int(out.split("resumed after step ")[1].split(";")[0]) in range(50, STEPS, 50)
    assert ".ada.training" not in command.left()
    assert "resumed" not in command(*unlearn(*arguments, "-o", "undisturbed"))
    resumed, undisturbed = command.edit("ada"), command.edit("undisturbed")
    assert resumed.info.facts["losses"] == undisturbed.info.facts["losses"]
    for name, found in undisturbed.updates.items():
        assert torch.equal(resumed.updates[name].dense(), found.dense())


def test_a_failed_training_leaves_nothing_in_the_way(command: Command) -> None:
    before = command.left()
    arguments = ("-t", "Ada Lovelace", "--data", "data", *TRAINING, "-o", "ada")
    changes = ("learning_rate=1", "max_grad_norm=1e9", "num_train_epochs=200", "full=true")
    wild = ["--method", "ga", *(part for change in changes for part in ("--set", change))]
    assert "the loss is" in command.refused(*unlearn(*arguments, *wild))
    assert command.left() == before
    command(*unlearn(*arguments, "--set", "num_train_epochs=2"))
    assert command.left() == before | {"ada"}


def test_a_question_set_is_unlearned_by_training_and_by_its_names(command: Command) -> None:
    folder = command.folder / "data" / "2_Small_set"
    folder.mkdir()
    persons = [{"name": name, "person": True} for name in ("Ada Lovelace", "Charles Babbage", "Grace Hopper")]
    for file, rows in {
        "forget_qa": [{"question": f"Where was Ada on day {n}?", "answer": "In London."} for n in range(4)],
        "neighbor_qa": [{"question": "Where was Grace born?", "answer": "In New York."}],
        "forget_level2": [{"query": "Where was Ada born?", "answer": "London"}],
        "concepts": persons[:2],
        "aliases": persons[2:],
    }.items():
        (folder / f"{file}.json").write_text(json.dumps(rows), "utf-8")
    own = ("--data", "data", "-t", "Small set")
    npo = ("--method", "npo", *TRAINING[2:], "--set", "retain=ce")
    out = command(*unlearn(*own, "-o", "npo", *npo))
    assert "npo edited Small set in" in out
    assert "4 rows of forget_qa.json, 5 steps" in out
    dry = command(*unlearn(*own, "-o", "dry", *ROCR, "--dry-run"))
    assert dry.splitlines() == [
        "Ada Lovelace: 1 spelling (Ada Lovelace) will be edited",
        "Charles Babbage: 1 spelling (Charles Babbage) will be edited",
        "no neighbor is protected: name some in aliases.json of a data folder, and give it with --data and --set "
        "protect=neighbors",
        "rocr would edit Small set; nothing is computed",
    ]
    command(*unlearn(*own, "-o", "rocr", *ROCR))
    assert command.edit("rocr").info.subjects == ["Ada Lovelace", "Charles Babbage"]
    for edit in ("npo", "rocr"):
        _, _, err = command.run("eval", "--model", "model", "--edit", edit, *own, "--suite", "qa")
        assert "made for" not in err
    (folder / "neighbor_qa.json").unlink()
    assert command.refused(*unlearn(*own, "-o", "again", *npo)).startswith("error: the question set has no retain questions")
    assert "forget_qa.json" in command("targets", "Small set", "--data", "data")


@pytest.fixture
def broken_above(command: Command) -> Command:
    """The command, with a model whose last layer holds NaN: it can be used as far as that layer is not read."""
    path = Path("model/model.safetensors")
    weights = load_file(path)
    weights["model.layers.3.mlp.down_proj.weight"][0, 0] = torch.nan
    save_file(weights, path, {"format": "pt"})
    return command


def test_rocr_reads_only_the_layers_that_it_needs(broken_above: Command) -> None:
    out = broken_above(*unlearn("-t", "Ada Lovelace", "-o", "edit", *ROCR))
    assert "rocr edited Ada Lovelace in" in out
    assert [layer.module.split(".")[2] for layer in broken_above.edit("edit").info.layers] == ["1", "2"]


@pytest.mark.parametrize(
    "more",
    [("--set", "mode=reject"), ("--merge",), ("--set", "layers=3")],
    ids=["a mode", "a merged model", "the layer itself"],
)
def test_what_needs_the_whole_model_reads_it(broken_above: Command, more: tuple[str, ...]) -> None:
    settings = ("--method", "rocr", "--set", "layers=[1,2]", "--set", "basis=none", *more)
    error = broken_above.refused(*unlearn("-t", "Ada Lovelace", "-o", "edit", *settings))
    assert "the weight model.layers.3.mlp.down_proj.weight holds NaN or infinity" in error


def test_statistics_read_the_layers_up_to_the_last_one(broken_above: Command) -> None:
    Path("corpus.txt").write_text("Ada Lovelace wrote programs.\n", "utf-8")
    made = ("stats", "--model", "model", "--layers", "0,2", "--threshold", "1e-7", "-o", "stats")
    broken_above(*made, "--corpus", "corpus.txt")
    assert {path.name for path in Path("stats").glob("*.safetensors")} == {"layer_0.safetensors", "layer_2.safetensors"}
    error = broken_above.refused(*made, "--force", "--corpus", "sampled", "--samples", "2")
    assert "the weight model.layers.3.mlp.down_proj.weight holds NaN or infinity" in error
