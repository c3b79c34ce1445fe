"""The registry of methods: what its entries promise, settings by their old names, and that listing them needs no torch."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

import formless
from formless.data.target import FILES, Target
from formless.errors import UnknownNameError, UserError
from formless.methods.base import MethodConfig, MethodEntry
from formless.methods.registry import METHODS, build_method, check_request, method_config, with_checkpoints
from formless.methods.rocr.config import RocrConfig
from formless.methods.training.ascent import GA
from formless.methods.training.config import TrainingConfig
from formless.methods.training.method import TrainingMethod
from formless.methods.training.spec import TrainingSpec
from formless.models.lm import LM
from formless.models.settings import ModelSettings, model_settings

HEAVY = ("torch", "transformers", "datasets", "peft", "scipy", "matplotlib", "accelerate")
LISTED = f"""
import sys
from formless.methods.registry import METHODS
for entry in METHODS.values():
    print(entry.name, entry.trains_on, entry.cost, list(entry.config.model_fields)[:1])
sys.exit(", ".join(name for name in {HEAVY} if name in sys.modules) or None)
"""
PLAIN = ModelSettings(name="plain", source="plain")


def settings(name: str, **options: Any) -> Any:
    return method_config(PLAIN, name, options)


def test_listing_the_methods_imports_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", LISTED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(METHODS)


def test_what_the_entries_promise(tmp_path: Path) -> None:
    for name, entry in METHODS.items():
        assert (entry.name, bool(entry.about), bool(entry.paper)) == (name, True, True)
        assert entry.trains_on is None or entry.trains_on in FILES
        assert entry.resumable == isinstance(entry, TrainingSpec) == (entry.trains_on is not None)
        options = {"learning_rate": 1e-3} if entry.trains_on else {}
        method = build_method(name, settings(name, **options))
        resumed = with_checkpoints(name, method, tmp_path)
        assert (resumed is method) != entry.resumable
        if entry.resumable:
            assert cast(TrainingMethod, resumed).work == tmp_path
    assert [name for name, entry in METHODS.items() if entry.takes_several_targets] == ["cdr", "rocr"]
    assert [name for name, entry in METHODS.items() if entry.keeps_earlier_edits] == ["rocr"]


def test_an_entry_builds_its_method() -> None:
    built = GA.build(GA.config(learning_rate=1e-3))
    assert isinstance(built, TrainingMethod)
    assert built.spec is GA


def test_an_unknown_method_is_refused() -> None:
    for call in (lambda: settings("gaa"), lambda: build_method("gaa", MethodConfig())):
        with pytest.raises(UnknownNameError, match="unknown method 'gaa': did you mean ga"):
            call()


def test_an_entry_without_files_takes_one_target(tiny: Callable[..., LM]) -> None:
    two = [Target("Ada"), Target("Eve")]
    edit = formless.unlearn(tiny(), "Ada", "rocr", layers=[1, 2], basis="none")
    for name, entry in METHODS.items():
        if name == "rocr":
            continue
        config = settings(name)
        if entry.takes_several_targets:
            check_request(name, config, two, None, ())
        else:
            with pytest.raises(UserError, match=rf"{name} takes one target .*use cdr, rocr"):
                check_request(name, config, two, None, ())
        with pytest.raises(UserError, match=rf"{name} cannot keep an earlier edit .*only rocr can"):
            check_request(name, config, two[:1], edit, ())
    check_request("rocr", RocrConfig(), two, None, ())


@pytest.mark.parametrize(("old", "new"), TrainingConfig.renamed.items())
def test_old_names_are_accepted_with_one_warning(old: str, new: str) -> None:
    value: Any = ("q_proj",) if new == "target_modules" else 3
    with pytest.warns(FutureWarning) as caught:
        found = settings("npo", **{old: value})
    assert [str(warning.message) for warning in caught] == [f"the setting {old} is now called {new}"]
    assert getattr(found, new) == value
    with pytest.warns(FutureWarning, match=f"the setting {old} is now called {new}"):
        assert getattr(TrainingConfig.model_validate({"learning_rate": 1e-3, old: value}), new) == value
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert settings("npo", **{new: value}) == found


def test_an_old_name_overrides_the_models_setting_by_its_new_name() -> None:
    with pytest.warns(FutureWarning):
        found: Any = method_config(model_settings()["smollm2"], "ga", {"cutoff": 33})
    assert (found.max_length, found.per_device_train_batch_size) == (33, 4)
    old_file = ModelSettings(name="old", source="old", methods={"ga": {"cutoff": 20, "batch": 3}})
    with pytest.warns(FutureWarning):
        found = method_config(old_file, "ga", {"max_length": 21})
    assert (found.max_length, found.per_device_train_batch_size) == (21, 3)


def test_both_names_of_a_setting_are_refused() -> None:
    with pytest.raises(UserError, match=r"a setting of ga is wrong \[r is given twice, once by its old name rank\]"):
        settings("ga", rank=4, r=8)
    with pytest.raises(ValueError, match="max_length is given twice"):
        TrainingConfig.model_validate({"learning_rate": 1e-3, "cutoff": 64, "max_length": 64})


def test_an_old_name_without_effect_is_refused_too(tiny: Callable[..., LM]) -> None:
    with pytest.warns(FutureWarning), pytest.raises(UserError, match="r has no effect here"):
        formless.unlearn(tiny(), "Ada", "ga", rank=4, full=True)


def test_names_are_unique_and_shipped_settings_use_the_new_ones() -> None:
    assert all(isinstance(entry, MethodEntry) for entry in METHODS.values())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for model in model_settings().values():
            for name in METHODS:
                method_config(model, name, {})
