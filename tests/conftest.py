"""Models and data that tests share: one small real model, tiny random ones of every family, RWKU where it is there."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from functools import partial, wraps
from hashlib import sha256
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything reads it: no test needs the hub
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and so would what tests start

import hypothesis
import pytest
import torch
from filelock import FileLock
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

import formless
from formless.edits.edit import Edit
from formless.methods.registry import unlearn as registry_unlearn
from formless.models.lm import LM
from formless.models.settings import ModelSettings
from formless.models.sources.bundled import bundled_model
from tests import tiers

hypothesis.settings.register_profile("no deadline", deadline=None)  # the machine may be busy
hypothesis.settings.load_profile("no deadline")
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()
SHARED = Path(__file__).parents[2] / "shared"
RWKU = SHARED / "rwku" / "Target"

SIZES: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2}, "mistral": {"num_key_value_heads": 2}, "qwen2": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8}, "gemma2": {"num_key_value_heads": 2, "head_dim": 8},
    "gemma3_text": {"num_key_value_heads": 2, "head_dim": 8}, "phi3": {"num_key_value_heads": 2, "pad_token_id": 0},
    "olmo2": {"num_key_value_heads": 2}, "phi": {}, "gpt2": {"n_inner": 48}, "gptj": {"n_inner": 48, "rotary_dim": 4},
    "gpt_neox": {}, "gemma3": {},
}  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Fetch the real model once, before two processes of pytest-xdist would at the same time."""
    option = config.option
    if getattr(option, "numprocesses", None) and not option.collectonly and "not slow" not in option.markexpr:
        bundled_model()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow by its nature, before `-m` chooses; files that hold such tests come first."""
    for item in items:
        if isinstance(item, pytest.Function) and tiers.is_slow(item):
            item.add_marker("slow")
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)  # no process is left with minutes of work when the others have none


@pytest.fixture(autouse=True)
def _stays_fast(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A test without the mark may not start what has it."""
    if request.node.get_closest_marker("slow") is None:
        tiers.stay_fast(monkeypatch, tmp_path_factory.getbasetemp() / "no_cache")


@pytest.fixture(scope="session")
def lm() -> LM:
    """The embedded model; a test that changes it must change it back."""
    return formless.load("smollm2", dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def edits_folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The folder of edits that all processes of a test run share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "edits"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def shared_edits(monkeypatch: pytest.MonkeyPatch, edits_folder: Path) -> None:
    """`formless.unlearn` computes an edit of a model once in a test run, and loads it from disk from then on."""

    @wraps(registry_unlearn)
    def once(lm: LM, subject: Any, /, *rest: Any, progress: Any = False, **options: Any) -> Edit:
        key = repr((lm.name, lm.fingerprint, lm.model.dtype, subject, rest, sorted(options.items())))
        folder = edits_folder / sha256(key.encode()).hexdigest()[:16]
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                registry_unlearn(lm, subject, *rest, progress=progress, **options).save(folder)
        return formless.load_edit(folder)

    monkeypatch.setattr("formless.methods.registry.unlearn", once)
    monkeypatch.setattr("formless.unlearn", once)


@pytest.fixture
def rwku() -> Path:
    """Real RWKU targets."""
    if not RWKU.is_dir():
        pytest.skip("RWKU data does not lie beside the project (../shared/rwku/Target)")
    return RWKU


@pytest.fixture
def tofu() -> Path:
    """A part of TOFU."""
    if not (SHARED / "tofu").is_dir():
        pytest.skip("TOFU does not lie beside the project (../shared/tofu)")
    return SHARED / "tofu"


@pytest.fixture
def muse() -> Path:
    """The questions of MUSE-Books."""
    if not (SHARED / "muse").is_dir():
        pytest.skip("MUSE does not lie beside the project (../shared/muse)")
    return SHARED / "muse"


@pytest.fixture(scope="session")
def letters() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with one token per byte, and a chat template."""
    return byte_tokenizer()


@pytest.fixture(scope="session")
def tiny(letters: PreTrainedTokenizerFast) -> Callable[..., LM]:
    """Build a random model of a family: four layers, hidden 32, MLP 48."""
    return partial(tiny_model, letters)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer with one token per byte, and a chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = {token: index for index, token in enumerate(["<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=tokens, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>", chat_template=template
    )


def tiny_model(
    letters: PreTrainedTokenizerFast,
    model_type: str = "llama",
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    context: int = 512,
    **more: Any,
) -> LM:
    """Return a random model of a family: four layers, hidden 32, MLP 48."""
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": len(letters), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
        "num_attention_heads": 4, "max_position_embeddings": context, "bos_token_id": 0, "eos_token_id": 1,
    }  # fmt: skip
    sizes |= {name: more.pop(name) for name in sizes.keys() & more.keys()}
    extra = SIZES[model_type] | more
    if model_type == "gemma3":
        vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        text = sizes | {"num_key_value_heads": 2, "head_dim": 8}
        config = AutoConfig.for_model("gemma3", text_config=text, vision_config=vision)
    elif model_type in ("gpt2", "gptj"):
        names = {"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head"}
        kept = {names.get(k, k): v for k, v in sizes.items() if k not in ("intermediate_size", "max_position_embeddings")}
        config = AutoConfig.for_model(model_type, n_positions=context, **kept, **extra)
    else:
        config = AutoConfig.for_model(model_type, **sizes, **extra)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return LM(model, letters, f"tiny-{model_type}", settings=ModelSettings(name=f"tiny-{model_type}", source="tests/tiny"))


@pytest.fixture
def target_folder(tmp_path: Path) -> Path:
    """A data set with one small complete target."""
    return write_small_target(tmp_path / "data")


def write_small_target(data: Path) -> Path:
    """Write a small target with every form of question into a data set."""
    folder = data / "1_Ada_Lovelace"
    folder.mkdir(parents=True)
    common = {"subject": "Ada Lovelace", "level": "1", "type": "cloze"}
    cloze = [
        {"query": "Ada Lovelace was born in ___.", "answer": "London", **common},
        {"query": "Ada Lovelace, born in ___, wrote programs.", "answer": "1815", **common},
    ]
    question = [{"query": "Where was Ada Lovelace born?", "answer": "London", **common, "level": "2"}]
    choice = [{"query": "Ada Lovelace was born in ___.\nA. Rome\nB. London\nC. Bonn\nD. Oslo", "answer": "B", **common}]
    truth = [{"query": "Ada Lovelace was born in London.", "answer": "True", **common}]
    for prefix in ("forget", "neighbor"):
        for name, rows in (("level1", cloze), ("level2", question), ("mcp", choice), ("tf", truth)):
            (folder / f"{prefix}_{name}.json").write_text(json.dumps(rows), "utf-8")
    return folder
