import pytest

from formless.errors import UserError
from formless.methods.registry import METHODS
from formless.models.loading import load
from formless.models.settings import model_settings, settings_for


@pytest.mark.parametrize("name", sorted(model_settings()))
def test_every_shipped_model_file_fits_its_methods(name: str) -> None:
    settings = model_settings()[name]
    assert settings.source == "bundled" or settings.source.count("/") == 1
    for method, options in settings.methods.items():
        METHODS[method].config.model_validate(options)


def test_the_papers_layers() -> None:
    rocr = METHODS["rocr"].config
    layers = {name: rocr.model_validate(s.methods.get("rocr", {})).layers for name, s in model_settings().items()}  # type: ignore[attr-defined]
    assert layers["llama3"] == layers["mistral"] == (4, 5, 6)
    assert layers["qwen2.5"] == layers["vicuna"] == (4, 5, 6, 7, 8)


def test_a_hub_id_finds_its_settings() -> None:
    assert settings_for("lmsys/vicuna-7b-v1.5").methods["rocr"] == {"layers": [4, 5, 6, 7, 8]}  # redirects to nobody alive
    assert settings_for("someone/else").methods == {}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smollm", "unknown model 'smollm'.*did you mean smollm2"),
        ("../nowhere/at/all", "unknown model"),
        ("no-such-owner/no-such-model", "the model is not in the cache.*no-such-owner/no-such-model"),
    ],
)
def test_unknown_models_are_named(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load(name)
    assert "\n" not in str(caught.value)


def test_unknown_dtypes_and_devices_are_named() -> None:
    with pytest.raises(UserError, match="unknown dtype 'float8'"):
        load("smollm2", dtype="float8")
    with pytest.raises(UserError, match="unknown device 'gpu'"):
        load("smollm2", device="gpu")
