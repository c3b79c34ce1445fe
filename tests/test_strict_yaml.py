"""YAML that users write: nothing is dropped in silence, and every fault is one kind of error."""

from pathlib import Path

import pytest
import yaml

from formless.errors import UserError
from formless.experiment.config import experiment_keys
from formless.strict_yaml import load_yaml


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3", "x: [{k: 1, k: 1}]", '{a: 1, "a": 2}', "1: a\n1: b"])
def test_a_key_given_twice_is_refused(text: str) -> None:
    with pytest.raises(yaml.YAMLError, match="is given twice"):
        load_yaml(text)


def test_everything_else_is_read_as_ever() -> None:
    text = "base: &b {x: 1, y: 2}\nown: {<<: *b, x: 3}\nlist: [a, 1, 2.0, null, true]"
    assert load_yaml(text) == yaml.safe_load(text)
    assert load_yaml("") is None


@pytest.mark.parametrize(
    "text", ["a: 2026-13-45", "[" * 5000, "a: " + "9" * 5000, "a: 0x" + "f" * 5000, "!!python/name:os.system x", "? [a]\n: 1"]
)
def test_what_cannot_be_read_is_one_kind_of_error(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        load_yaml(text)


def test_an_experiment_says_which_key_is_doubled(tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    path.write_text("models: [smollm2]\nmethods: [rocr]\nlimit: 3\nlimit: 30\n")
    with pytest.raises(UserError, match=r"not YAML .*e\.yaml.*'limit' is given twice.*line 4"):
        experiment_keys(str(path))
