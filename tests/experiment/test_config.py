from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from formless.errors import UnknownNameError, UserError
from formless.experiment.config import Experiment, ModelChoice, build_experiment, experiment_keys
from formless.experiment.grid import grid
from formless.experiment.result import RunResult
from formless.methods.registry import method_config
from formless.models.settings import settings_for, shipped_yaml

SMALL: dict[str, Any] = {"models": ["smollm2"], "methods": ["rocr"]}


def test_an_entry_is_a_name_or_a_mapping_with_settings() -> None:
    methods = ["rocr", {"method": "npo", "beta": 0.2, "label": "npo-strong"}, {"method": "npo", "layers": [1, 2]}]
    found = build_experiment({"models": "smollm2", "methods": methods}, "here")
    assert [(entry.method, entry.label, entry.settings) for entry in found.methods] == [
        ("rocr", "rocr", {}),
        ("npo", "npo-strong", {"beta": 0.2}),
        ("npo", "npo", {"layers": [1, 2]}),
    ]
    assert [(model.name, model.device) for model in found.models] == [("smollm2", "auto")]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    methods = [{"method": "npo", "beta": 0.2, "label": "strong"}, "icu"]
    first = build_experiment(SMALL | {"methods": methods, "targets": "1-3", "seeds": [1, 2], "protocol": "published"}, "here")
    (tmp_path / "experiment.yaml").write_text(first.as_yaml(), "utf-8")
    assert build_experiment(experiment_keys(str(tmp_path)), tmp_path) == first
    assert first.style == {"protocol": "published"}


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"methodz": ["rocr"]}, "unknown key 'methodz'.*did you mean methods"),
        ({"models": [{"name": "smollm2", "dtyp": "float32"}]}, "unknown key 'dtyp'.*dtype"),
        ({"models": [{"name": "smollm2", "dtype": "int8"}]}, "models.0.dtype"),
        ({"models": []}, "models.*at least 1"),
        ({"methods": [{"beta": 1}]}, "methods.0.method.*required"),
        ({"methods": ["rocr", "rocr"]}, "two methods are labelled 'rocr'"),
        ({"methods": [{"method": "rocr", "label": "../up"}]}, "methods.0.label"),
        ({"methods": [{"method": "rocr", "label": ".."}]}, "methods.0.label"),
        ({"limit": 0}, "limit.*greater than or equal to 1"),
        ({"limit": True}, "limit.*true and false are no numbers"),
        ({"limit": float("inf")}, "limit.*finite"),
        ({"limit": 10**12}, "limit.*less than or equal to 1000000000"),
        ({"seeds": [1, True]}, "seeds.*true and false are no numbers"),
        ({"seeds": [-1]}, "seeds.0.*greater than or equal to 0"),
        ({"seeds": [2**32]}, "seeds.0.*less than 4294967296"),
        ({"targets": True}, "targets.*true and false are no numbers"),
        ({"targets": ["Ada", False]}, "targets.*true and false are no numbers"),
    ],
)
def test_a_wrong_key_is_named(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        build_experiment(SMALL | keys, "x.yaml")


def test_files_that_are_not_an_experiment(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean sample"):
        experiment_keys("smaple")
    for text, said in (("a: [", "is not YAML"), ("- a", "is not a mapping"), ("1: a", "is not a mapping")):
        (tmp_path / "x.yaml").write_text(text, "utf-8")
        with pytest.raises(UserError, match=said):
            experiment_keys(str(tmp_path / "x.yaml"))
    (tmp_path / "x.yaml").write_bytes(b"a: \xff")
    with pytest.raises(UserError, match="cannot be read"):
        experiment_keys(str(tmp_path / "x.yaml"))


def test_the_page_lists_every_key_and_field_and_its_example_holds() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "experiments.md").read_text("utf-8")
    (example,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    found = build_experiment(yaml.safe_load(example), "docs/reference/experiments.md")
    for model in found.models:
        for method in found.methods:
            method_config(settings_for(model.name), method.method, method.settings)
    for field in {*Experiment.model_fields, *ModelChoice.model_fields, *RunResult.model_fields} - {"format"}:
        assert f"`{field}`" in page, field


def test_every_shipped_experiment_is_a_grid() -> None:
    counts = {
        name: len(grid(build_experiment(experiment_keys(name.removesuffix(".yaml")), name)))
        for name, _ in shipped_yaml("experiments")
    }
    assert counts["sample.yaml"] == 36
    assert all(counts.values())
