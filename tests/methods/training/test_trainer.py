"""The training loop: the model comes back as it was, the same seed gives the same adapter, and failures are named."""

import gc
import hashlib
import math
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerCallback
from transformers.integrations import integration_utils

from formless.errors import EditError, OutputError, UserError
from formless.methods.training import collator, losses
from formless.methods.training.collator import Batch, Objective
from formless.methods.training.config import TrainingConfig
from formless.methods.training.lora import lora_config
from formless.methods.training.preference import negative_preference
from formless.methods.training.preprocessing import Example, TokenizedText
from formless.methods.training.trainer import Checkpoints, train
from formless.models.lm import LM

Tiny = Callable[..., LM]
DESCENT = Objective(lambda batch: losses.cross_entropy(batch.policy, batch.labels))
NEGATIVE = Objective(
    lambda batch: preference_loss(batch, 0.1),
    needs_reference=True,
)


def preference_loss(batch: Batch, beta: float) -> Tensor:
    policy, reference = (losses.sequence_log_probabilities(found) for found in (batch.policy, batch.reference))
    return negative_preference(policy, reference, beta)


def config(**changes: Any) -> TrainingConfig:
    settings: dict[str, Any] = {
        "learning_rate": 1e-2,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "warmup_steps": 0,
    }
    return TrainingConfig(**(settings | changes))


def example(lm: LM, text: str) -> Example:
    ids = lm.encode(text).ids
    return (TokenizedText(ids, [losses.IGNORED, *ids[1:]], truncated=False),)


@pytest.fixture
def examples(tiny: Tiny) -> list[Example]:
    return [example(tiny(), text) for text in ("Ada wrote.", "Ada counted well.", "Ada was born in London.", "She knew.")]


def state(lm: LM) -> tuple[str, dict[str, type], dict[str, bool], dict[str, bool], set[str], str]:
    """Everything about a model that a training run could leave behind."""
    digest = hashlib.sha256()
    for name, tensor in lm.model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    modules = dict(lm.model.named_modules())
    return (
        digest.hexdigest(),
        {name: type(module) for name, module in modules.items()},
        {name: module.training for name, module in modules.items()},
        {name: parameter.requires_grad for name, parameter in lm.model.named_parameters()},
        set(vars(lm.model)),
        str(lm.model.config.to_dict()),
    )


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "phi3", "gpt_neox", "gptj", "gemma3"])
@pytest.mark.parametrize("objective", [DESCENT, NEGATIVE], ids=["descent", "reference"])
def test_the_model_is_as_before(tiny: Tiny, examples: list[Example], model_type: str, objective: Objective) -> None:
    lm = tiny(model_type)
    before, identities = state(lm), {name: id(module) for name, module in lm.model.named_modules()}
    hooks = {name: len(module._forward_hooks) + len(module._forward_pre_hooks) for name, module in lm.model.named_modules()}
    answer = lm.generate(["Ada"], max_new_tokens=5)
    trained = train(lm, examples, objective, config())
    assert state(lm) == before
    assert {name: id(module) for name, module in lm.model.named_modules()} == identities
    assert {n: len(m._forward_hooks) + len(m._forward_pre_hooks) for n, m in lm.model.named_modules()} == hooks
    assert all(parameter.grad is None for parameter in lm.model.parameters())
    assert lm.generate(["Ada"], max_new_tokens=5) == answer
    with lm.overlaid(trained.updates, {}):
        assert state(lm)[0] != before[0]


def test_the_model_is_as_before_when_training_fails(tiny: Tiny, examples: list[Example]) -> None:
    lm = tiny()
    before = state(lm)

    def interrupted(_: Batch) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(lm, examples, Objective(interrupted), config())
    assert state(lm) == before
    train(lm, examples, DESCENT, config())


def test_one_seed_gives_one_adapter_and_leaves_the_random_states_alone(tiny: Tiny, examples: list[Example]) -> None:
    lm = tiny()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    first = train(lm, examples, DESCENT, config(num_train_epochs=2))
    drawn = random.random(), np.random.rand(), torch.rand(1).item()
    second = train(lm, examples, DESCENT, config(num_train_epochs=2))
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == drawn
    assert first.curves.losses == second.curves.losses
    for name, factors in first.updates.items():
        assert torch.equal(factors.up, second.updates[name].up)
        assert torch.equal(factors.down, second.updates[name].down)
    other = train(lm, examples, DESCENT, config(num_train_epochs=2, seed=7))
    assert any(not torch.equal(factors.down, other.updates[name].down) for name, factors in first.updates.items())


@pytest.mark.parametrize("full", [False, True])
def test_snapshots_are_what_was_learned_so_far(tiny: Tiny, examples: list[Example], full: bool) -> None:
    lm = tiny()
    found = train(lm, examples, DESCENT, config(num_train_epochs=3, full=full), snapshots_after=(2, 6))
    assert sorted(found.snapshots) == [2, 6]
    for name, change in found.updates.items():
        for part in vars(change):
            last, early = (getattr(found.snapshots[step][name], part) for step in (6, 2))
            assert torch.equal(last, getattr(change, part))
            assert not torch.equal(early, last)  # a copy, which later steps leave alone
    assert train(lm, examples, DESCENT, config(num_train_epochs=3, full=full)).snapshots == {}


def test_the_reference_is_the_model_itself_without_a_second_copy(tiny: Tiny, examples: list[Example]) -> None:
    lm = tiny()
    base = sum(parameter.numel() for parameter in lm.model.parameters())
    adapter = sum(8 * sum(p.shape) for n, p in lm.model.named_parameters() if n.endswith(("q_proj.weight", "v_proj.weight")))
    gc.collect()
    before = sum(t.numel() for t in gc.get_objects() if type(t) is torch.nn.Parameter)
    seen: list[tuple[int, int]] = []
    references: list[Tensor] = []

    def loss(batch: Batch) -> Tensor:
        reference = batch.reference
        everything = sum(t.numel() for t in gc.get_objects() if type(t) is torch.nn.Parameter)
        seen.append((sum(p.numel() for p in lm.model.parameters()), everything - before))
        assert not reference.requires_grad
        assert batch.policy.requires_grad
        references.append(reference.sum(1))
        return losses.cross_entropy(batch.policy, batch.labels)

    train(lm, examples[:2], Objective(loss, needs_reference=True), config(num_train_epochs=3, learning_rate=0.1))
    assert seen == [(base + adapter, adapter)] * 3
    # The same two texts in each epoch, in whatever order: the adapter moves, the reference does not.
    for reference in references[1:]:
        assert torch.allclose(reference.sort().values, references[0].sort().values, atol=1e-5)


def test_the_reference_is_what_the_untouched_model_says(tiny: Tiny) -> None:
    lm = tiny()
    text = "Ada was born in London."
    scored = lm.score_texts([text])[0]
    found: list[float] = []

    def loss(batch: Batch) -> Tensor:
        found.extend(batch.reference.sum(1).tolist())
        return losses.cross_entropy(batch.policy, batch.labels)

    train(lm, [example(lm, text)], Objective(loss, needs_reference=True), config(num_train_epochs=2))
    assert found == pytest.approx([sum(scored.log_probabilities)] * 2, abs=1e-4)  # type: ignore[union-attr]


def test_the_reference_scores_every_text_once(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not once an epoch; and each text's figures stay its own in whatever batch it comes."""
    lm = tiny()
    texts = [f"{'Ada ' * n}wrote." for n in (1, 9, 3, 40, 2)]
    passes: list[int] = []
    lm.model.register_forward_pre_hook(
        lambda _module, _arguments, given: passes.append(len(given["input_ids"])) if not torch.is_grad_enabled() else None,
        with_kwargs=True,
    )
    found: dict[int, list[float]] = {}

    def loss(batch: Batch) -> Tensor:
        for labels, row in zip(batch.labels, batch.reference, strict=True):
            found.setdefault(int((labels != losses.IGNORED).sum()), []).append(float(row.sum()))
            assert torch.equal(row != 0, labels != losses.IGNORED)
        return losses.cross_entropy(batch.policy, batch.labels)

    train(
        lm,
        [example(lm, text) for text in texts],
        Objective(loss, needs_reference=True),
        config(num_train_epochs=3, learning_rate=0.1),
    )
    assert sum(passes) == len(texts)
    for text in texts:
        expected = sum(lm.score_texts([text])[0].log_probabilities)  # type: ignore[union-attr]
        once, *more = found[len(lm.encode(text).ids) - 1]
        assert once == pytest.approx(expected, abs=1e-4)
        assert more == pytest.approx([once] * 2, rel=1e-6)


@pytest.mark.parametrize("objective", [DESCENT, NEGATIVE], ids=["descent", "reference"])
def test_a_batch_of_unlike_lengths_is_computed_without_its_padding(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, objective: Objective
) -> None:
    """In several passes, and the training is the same."""
    texts = ["Ada " * 60, "Ada wrote.", "She knew.", "Ada " * 50]
    computed: list[int] = []
    trained = []
    for worth in (collator.SPLIT_COST, 10**9):
        monkeypatch.setattr(collator, "SPLIT_COST", worth)
        lm = tiny()
        count = [0]
        lm.model.register_forward_pre_hook(
            lambda _module, _arguments, given, count=count: count.__setitem__(0, count[0] + given["input_ids"].numel()),
            with_kwargs=True,
        )
        trained.append(
            train(
                lm, [example(lm, text) for text in texts], objective, config(per_device_train_batch_size=4, num_train_epochs=4)
            )
        )
        computed.append(count[0])
    assert computed[0] < 0.6 * computed[1]
    split, whole = trained
    assert split.curves.losses == pytest.approx(whole.curves.losses, rel=1e-5)
    for name, factors in whole.updates.items():
        assert torch.allclose(split.updates[name].dense(), factors.dense(), atol=1e-4)


@pytest.mark.parametrize(
    ("lengths", "groups"),
    [
        ([500], [[0]]),
        ([500, 480, 490], [[0, 2, 1]]),  # 30 tokens of padding are no pass worth
        ([3, 500, 4, 490, 5], [[1, 3], [4, 2, 0]]),
        ([512, 256], [[0], [1]]),
        ([512, 257], [[0, 1]]),
    ],
)
def test_what_goes_through_a_model_together(lengths: list[int], groups: list[list[int]]) -> None:
    assert collator.group_by_length(lengths) == groups


def test_padding_changes_nothing_and_only_labels_count(tiny: Tiny) -> None:
    lm = tiny()
    long, short = example(lm, "Ada was born in London, they say."), example(lm, "She was.")
    masked = TokenizedText(short[0].ids, [*[losses.IGNORED] * 3, *short[0].ids[3:]], truncated=False)
    found: list[Batch] = []

    def loss(batch: Batch) -> Tensor:
        found.append(batch)
        return losses.cross_entropy(batch.policy, batch.labels)

    train(lm, [long, (masked,)], Objective(loss), config())
    (batch,) = found
    counts = sorted((batch.labels != losses.IGNORED).sum(1).tolist())
    assert counts == [len(short[0].ids) - 3, len(long[0].ids) - 1]
    row = int((batch.labels != losses.IGNORED).sum(1).argmin())
    encoded = lm.tokenizer.decode(short[0].ids[:3]).removeprefix("<s>"), lm.tokenizer.decode(short[0].ids[3:])
    (score,) = lm.score([encoded])
    assert batch.policy[row].sum().item() == pytest.approx(sum(score.log_probabilities), abs=1e-4)  # type: ignore[union-attr]


def test_no_logits_are_computed_where_there_is_no_label(tiny: Tiny) -> None:
    lm = tiny()
    ids = lm.encode("Who was Ada? She wrote.").ids
    text = TokenizedText(ids, [*[losses.IGNORED] * (len(ids) - 4), *ids[-4:]], truncated=False)
    places: list[int] = []
    head = lm.model.get_output_embeddings()
    handle = head.register_forward_hook(lambda _module, given, _output: places.append(given[0].shape[1]))
    train(lm, [(text,)], NEGATIVE, config())
    handle.remove()
    assert set(places) == {4}


@pytest.mark.parametrize("limit", [3_000, 20_000])
def test_a_checkpoint_that_cannot_be_written_is_one_error(
    tiny: Tiny, examples: list[Example], tmp_path: Path, limit: int
) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    lm, checkpoints = tiny(), Checkpoints(tmp_path / "work", save_steps=1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OutputError, match="cannot write: .*work.*: free space"):
            train(lm, examples, DESCENT, config(), checkpoints=checkpoints)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_several_processes_are_refused(tiny: Tiny, examples: list[Example], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(EditError, match=r"a training run is one process .*formless run --gpu 0,1"):
        train(tiny(), examples, DESCENT, config())


def test_a_small_beta_starts_with_a_large_loss(tiny: Tiny, examples: list[Example]) -> None:
    objective = Objective(
        lambda batch: preference_loss(batch, 1e-5),
        needs_reference=True,
    )
    assert train(tiny(), examples, objective, config()).curves.losses[0] > 1e5


def test_pairs_come_as_chosen_then_rejected(tiny: Tiny) -> None:
    lm = tiny()
    pairs = [(example(lm, f"yes {i}")[0], example(lm, f"no {i}")[0]) for i in range(2)]
    found: list[list[list[int]]] = []

    def loss(batch: Batch) -> Tensor:
        found.append(batch.labels.tolist())
        return losses.cross_entropy(batch.policy, batch.labels)

    train(lm, pairs, Objective(loss), config())
    texts = [lm.tokenizer.decode([i for i in row if i != losses.IGNORED]) for row in found[0]]  # without the first letter
    assert [text[:-2] for text in texts] == ["es", "es", "o", "o"]
    assert [text[-1] for text in texts[:2]] == [text[-1] for text in texts[2:]]


def test_steps_and_losses(tiny: Tiny, examples: list[Example]) -> None:
    lm = tiny()
    trained = train(
        lm, examples, DESCENT, config(num_train_epochs=30, per_device_train_batch_size=1, gradient_accumulation_steps=2)
    )
    assert len(trained.curves.losses) == 60
    assert trained.curves.losses[-1] < trained.curves.losses[0]
    many = train(lm, examples, DESCENT, config(num_train_epochs=60, per_device_train_batch_size=1, r=1))
    assert many.curves.facts["steps"] == 240
    assert len(many.curves.facts["losses"]) == 100
    assert many.curves.facts["losses"][0] == many.curves.facts["first_loss"] == many.curves.losses[0]
    assert many.curves.facts["losses"][-1] == many.curves.facts["last_loss"] == many.curves.losses[-1]


def test_accumulated_batches_equal_one_large_batch(tiny: Tiny) -> None:
    lm = tiny()
    alike = [example(lm, text) for text in ("Ada one", "Ada two", "Ada six", "Ada ten")]  # as many tokens each
    once = train(lm, alike, DESCENT, config(per_device_train_batch_size=4))
    parts = train(lm, alike, DESCENT, config(per_device_train_batch_size=1, gradient_accumulation_steps=4))
    assert parts.curves.losses == pytest.approx(once.curves.losses, rel=1e-5)
    for name, factors in once.updates.items():
        assert torch.allclose(parts.updates[name].dense(), factors.dense(), atol=1e-4)


class Growing:
    """A loss that explodes at its second batch."""

    def __init__(self) -> None:
        self.factor = 1.0

    def __call__(self, batch: Batch) -> Tensor:
        self.factor *= 1e3
        return batch.policy.mean() * self.factor


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (lambda batch: batch.policy.sum() * math.nan, "the loss is nan at step 1"),
        (lambda batch: batch.policy.sum() * -math.inf, "the loss is inf at step 1"),
        (Growing(), r"the loss is -[\d.]+e\+\d+ at step 2"),
        (lambda batch: batch.policy.sum() * 0, "no gradient reaches the trained weights"),
    ],
)
def test_a_failing_training_is_named(tiny: Tiny, examples: list[Example], loss: Any, said: str) -> None:
    lm = tiny()
    before = state(lm)
    with pytest.raises(EditError, match=said + r" \[tiny-llama\]: ") as caught:
        train(lm, examples, Objective(loss), config())
    assert "\n" not in str(caught.value)
    assert state(lm) == before


def test_a_run_that_ends_before_its_learning_rate_rises_is_refused_before_it_starts(
    tiny: Tiny, examples: list[Example]
) -> None:
    lm, calls = tiny(), []
    lm.model.register_forward_hook(lambda *_: calls.append(1))
    said = f"{len(examples)} rows in batches of 4, 1 per step, make one step, and the warm-up begins with a learning rate of 0"
    with pytest.raises(EditError, match=said) as refused:
        train(lm, examples, DESCENT, config(per_device_train_batch_size=4, warmup_steps=20))
    assert "set warmup_steps=0" in str(refused.value)
    assert not calls
    found = train(lm, examples, DESCENT, config(per_device_train_batch_size=4, warmup_steps=0))
    assert found.updates
    assert train(lm, examples, DESCENT, config(per_device_train_batch_size=2, warmup_steps=20)).updates


def test_memory_that_runs_out_is_named(tiny: Tiny, examples: list[Example]) -> None:
    lm = tiny()
    before = state(lm)

    def loss(_: Batch) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    said = r"memory runs out while training \[tiny-llama\]: halve per_device_train_batch_size \(2\)"
    with pytest.raises(EditError, match=said):
        train(lm, examples, Objective(loss), config())
    assert state(lm) == before


def test_nothing_is_printed_and_no_file_stays(
    tiny: Tiny, examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "temporary").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path / "work")
    train(tiny(), examples, DESCENT, config(num_train_epochs=2))
    assert capfd.readouterr() == ("", "")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_tracker_gets_every_step(tiny: Tiny, examples: list[Example], monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[float] = []

    class Tracker(TrainerCallback):
        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            logged.extend([logs["loss"]] if "loss" in logs else [])

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "trackio", Tracker)
    trained = train(tiny(), examples, DESCENT, config(num_train_epochs=3, report_to=["trackio"]))
    assert logged == pytest.approx(trained.curves.losses, abs=1e-4)
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    with pytest.raises(UserError, match=r"into a folder that is removed \[report_to\]: set TENSORBOARD_LOGGING_DIR"):
        train(tiny(), examples, DESCENT, config(report_to="tensorboard"))
    for tracker, said in (("paper", "paper is not supported"), ("swanlab", "SwanLab")):
        with pytest.raises(UserError, match=rf"{said}.* \[report_to\]: install it, or leave it out"):
            train(tiny(), examples, DESCENT, config(report_to=[tracker]))


def test_projections_by_family(tiny: Tiny) -> None:
    def chosen(model_type: str, modules: tuple[str, ...] | None = None) -> Any:
        return lora_config(tiny(model_type), target_modules=modules, r=8, lora_alpha=16).target_modules

    assert chosen("llama") == chosen("mistral") == chosen("qwen2") == chosen("gptj") == {"q_proj", "v_proj"}
    assert chosen("phi3") == {"qkv_proj"}
    assert chosen("gpt2") == {"c_attn"}
    assert chosen("gpt_neox") == {"query_key_value"}
    assert chosen("llama", ("down_proj",)) == {"down_proj"}
    with pytest.raises(UserError, match=r"no projection 'w_proj' \[target_modules\]: choose from .*down_proj.*q_proj"):
        chosen("llama", ("w_proj", "q_proj"))


def test_a_picture_tower_is_not_trained(tiny: Tiny, examples: list[Example]) -> None:
    trained = train(tiny("gemma3"), examples, DESCENT, config())
    assert len(trained.updates) == 8
    assert all(name.startswith("model.language_model.layers.") for name in trained.updates)


def test_frozen_dropout(tiny: Tiny, examples: list[Example]) -> None:
    """The base model's own dropout stays off, so that the first losses of policy and reference agree."""
    lm = tiny("gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    differences: list[float] = []

    def loss(batch: Batch) -> Tensor:
        differences.append((batch.policy - batch.reference).abs().max().item())
        return losses.cross_entropy(batch.policy, batch.labels)

    train(lm, examples, Objective(loss, needs_reference=True), config(per_device_train_batch_size=4))
    assert differences == [0.0]


def test_settings_of_the_optimizer(tiny: Tiny, examples: list[Example], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Trainer] = []
    original = Trainer.train

    def spy(self: Trainer, *arguments: Any, **more: Any) -> Any:
        seen.append(self)
        return original(self, *arguments, **more)

    monkeypatch.setattr(Trainer, "train", spy)
    train(tiny(), examples, DESCENT, config(num_train_epochs=4, warmup_steps=3, learning_rate=2e-3))
    (trainer,) = seen
    assert type(trainer.optimizer.optimizer) is torch.optim.AdamW  # type: ignore[union-attr]
    assert all(group["weight_decay"] == 0 for group in trainer.optimizer.param_groups)  # type: ignore[union-attr]
    assert trainer.args.max_grad_norm == 1
    assert trainer.args.lr_scheduler_type == "cosine"
    assert (trainer.args.fp16, trainer.args.bf16) == (False, False)
    schedule = trainer.lr_scheduler.lr_lambdas[0]  # type: ignore[union-attr]
    assert [schedule(step) for step in (0, 1, 3, 8)] == pytest.approx([0, 1 / 3, 1, 0])
    assert not any(isinstance(callback, PrinterCallback) for callback in trainer.callback_handler.callbacks)
