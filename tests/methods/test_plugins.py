"""Methods of other packages: docs/how-to/add_method.md as it stands, installed, listed, run; and packages that are broken."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from formless.models.lm import LM
from tests.methods.training.test_training_methods import ada as ada  # a small target

DOCS = Path(__file__).parents[2] / "docs" / "how-to" / "add_method.md"
PROGRAM = """
import pathlib, sys
import formless
from formless.data.target import Target
lm = formless.load(sys.argv[1], dtype="float32", device="cpu")
settings = {"learning_rate": 0.02, "gradient_accumulation_steps": 1, "warmup_steps": 0, "floor": 7.5}
settings["per_device_train_batch_size"] = 2
edit = formless.unlearn(lm, Target("Ada Lovelace", pathlib.Path(sys.argv[2])), "bounded", **settings)
(before,) = lm.score_texts(["Ada Lovelace wrote programs."])
with edit.applied(lm):
    (after,) = lm.score_texts(["Ada Lovelace wrote programs."])
print(edit.info.method, edit.info.config["floor"], sum(after.log_probabilities) < sum(before.log_probabilities) - 1e-3)
"""


def install(site: Path, package: str, code: str, entry_points: str) -> None:
    """What pip leaves of a package."""
    (site / f"{package}.py").write_text(code)
    meta = site / f"{package}-1.0.dist-info"
    meta.mkdir(parents=True)
    (meta / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (meta / "entry_points.txt").write_text(entry_points)


def run(site: Path, *command: str) -> str:
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "240"}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def blocks(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    return str(found)


def test_the_documented_method_works_as_it_stands(tiny: Callable[..., LM], ada: object, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    entry = re.findall(r"^bounded = .*$", blocks("toml"), re.MULTILINE)[0].replace("formless_example.bounded", "forgetful")
    install(site, "forgetful", blocks("python"), f"[formless.methods]\n{entry.replace(chr(34), '')}\n")
    lm = tiny()
    lm.model.save_pretrained(tmp_path / "model")
    lm.tokenizer.save_pretrained(tmp_path / "model")
    said = run(site, "-c", PROGRAM, str(tmp_path / "model"), str(tmp_path / "data" / "1_Ada_Lovelace"))
    assert "bounded 7.5 True" in said
    listed = run(site, "-m", "formless", "methods")
    assert re.search(r"bounded +positive\.json", listed)
    assert len(blocks("python").splitlines()) < 50


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import nothing_of_the_kind", "it cannot be loaded: ModuleNotFoundError: No module named 'nothing_of_the_kind'"),
        ("BOUNDED = 3", "it is not a MethodEntry"),
        ("from formless.methods.training.ascent import GA as BOUNDED", "another method has its name"),
    ],
)
def test_a_broken_package_is_named_and_left_out(tmp_path: Path, code: str, said: str) -> None:
    site = tmp_path / "site"
    site.mkdir()
    install(site, "forgetful", code, "[formless.methods]\nbounded = forgetful:BOUNDED\n")
    out = run(site, "-m", "formless", "methods")
    assert f"warning: the method 'bounded' of forgetful is left out: {said}\n" in out
    assert "gradient ascent on biographies" in out
