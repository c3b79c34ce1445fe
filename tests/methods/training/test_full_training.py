"""Training of all weights: the model comes back bit for bit, the reference is the original, and the edit is an edit."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

import formless
from formless.data.target import Target
from formless.edits.difference import DifferenceEdit
from formless.errors import EditError, UserError
from formless.methods.training import losses, trainer
from formless.methods.training.collator import Batch, Objective
from formless.methods.training.config import TrainingConfig
from formless.methods.training.preprocessing import TokenizedText
from formless.methods.training.trainer import train
from formless.models.lm import LM
from tests.methods.training.test_training_methods import ada as ada  # the same small target
from tests.methods.training.test_training_methods import gains

Tiny = Callable[..., LM]
STEPS = {
    "learning_rate": 0.002,
    "num_train_epochs": 4,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 1,
    "warmup_steps": 0,
    "full": True,
}


def digest(lm: LM) -> str:
    found = hashlib.sha256()
    for tensor in lm.model.state_dict().values():
        found.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def logits(lm: LM) -> Tensor:
    with torch.no_grad():
        return lm.model(**lm.pad([lm.encode("Ada wrote").ids])).logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", ["ga", "npo", "dpo", "rmu", "task_vector"])
def test_the_weights_come_back_and_the_edit_moves_them(tiny: Tiny, ada: Target, method: str, dtype: torch.dtype) -> None:
    lm = tiny(dtype=dtype)
    before, places = digest(lm), {name: p.data_ptr() for name, p in lm.model.named_parameters()}
    edit = formless.unlearn(lm, ada, method, **STEPS)
    assert digest(lm) == before
    assert {name: p.data_ptr() for name, p in lm.model.named_parameters()} == places
    assert all(p.dtype == dtype and p.grad is None for p in lm.model.parameters())
    assert isinstance(edit, DifferenceEdit)
    with edit.applied(lm):
        assert digest(lm) != before
        assert {layer.rank for layer in edit.info.layers if layer.module.endswith("layernorm.weight")} == {1}
    assert digest(lm) == before


def test_the_saved_and_the_merged_edit_are_the_edit(tiny: Tiny, ada: Target, tmp_path: Path) -> None:
    lm = tiny()
    edit = formless.unlearn(lm, ada, "ga", **STEPS)
    assert isinstance(edit, DifferenceEdit)
    with edit.applied(lm):
        edited = logits(lm)
    assert (edited - logits(lm)).abs().max() > 1e-3
    edit.save(tmp_path / "edit")
    assert {path.name for path in (tmp_path / "edit").iterdir()} == {"differences.safetensors", "edit.json"}
    with formless.load_edit(tmp_path / "edit").applied(lm):
        assert torch.equal(logits(lm), edited)
    edit.save_merged(lm, tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    with torch.no_grad():
        assert torch.allclose(merged(**lm.pad([lm.encode("Ada wrote").ids])).logits, edited, atol=1e-5)


@pytest.mark.slow
def test_what_is_forgotten_grows_less_probable(tiny: Tiny, ada: Target) -> None:
    lm = tiny()
    for method in ("ga", "npo", "simnpo", "undial", "ce_u", "wga", "grad_diff", "task_vector"):
        edit = formless.unlearn(lm, ada, method, **STEPS)
        assert gains(lm, edit, ("Ada Lovelace wrote programs.",))[0] < -1e-4


def test_the_reference_is_the_original_while_the_weights_move(tiny: Tiny) -> None:
    lm = tiny()
    ids = lm.encode("Ada was born in London.").ids
    text = TokenizedText(ids, [losses.IGNORED, *ids[1:]], truncated=False)
    with torch.no_grad():
        (untouched,) = lm.score_texts(["Ada was born in London."])
    policies, references = [], []

    def loss(batch: Batch) -> Tensor:
        policies.append(batch.policy.sum().item())
        references.append(batch.reference.sum().item())
        return losses.cross_entropy(batch.policy, batch.labels)

    train(lm, [(text,)], Objective(loss, needs_reference=True), TrainingConfig(**(STEPS | {"learning_rate": 0.01})))
    expected = sum(untouched.log_probabilities)  # type: ignore[union-attr]
    assert references == pytest.approx([expected] * 4, abs=1e-4)
    assert policies[0] == pytest.approx(expected, abs=1e-4)
    assert policies[-1] > policies[0] + 1e-2


def test_a_failing_training_leaves_the_weights(tiny: Tiny, ada: Target) -> None:
    lm = tiny()
    before = digest(lm)
    with pytest.raises(EditError, match="the loss is"):
        formless.unlearn(lm, ada, "ga", **(STEPS | {"learning_rate": 1.0, "num_train_epochs": 200, "max_grad_norm": 1e9}))
    assert digest(lm) == before


def test_settings_of_an_adapter_are_refused(tiny: Tiny, ada: Target) -> None:
    said = r"target_modules has no effect here \[setting target_modules\]: leave it out, or set full=false"
    with pytest.raises(UserError, match=said):
        formless.unlearn(tiny(), ada, "ga", target_modules=("q_proj",), **STEPS)


def test_every_run_of_a_process_computes_in_the_same_precision(
    tiny: Tiny, ada: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run marked the model as prepared, and the next ones went without mixed precision."""
    monkeypatch.setattr(trainer, "_cpu_has_bfloat16", lambda: True)
    lm = tiny(dtype=torch.bfloat16)
    first, second = (formless.unlearn(lm, ada, "ga", progress=False, **STEPS).info.facts["losses"] for _ in range(2))
    assert first == second
    monkeypatch.setattr(trainer, "_cpu_has_bfloat16", lambda: False)
    assert formless.unlearn(lm, ada, "ga", progress=False, **STEPS).info.facts["losses"] != first
