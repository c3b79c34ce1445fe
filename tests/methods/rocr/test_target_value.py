"""The modes of the target value: a vector that makes the model refuse, and noise."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import formless
from formless.errors import EditError, UserError
from formless.methods.keys.contexts import chat_contexts, mean_layer_output, mentions
from formless.methods.registry import method_config
from formless.methods.rocr.config import TargetValueConfig
from formless.methods.rocr.target_value import refusing_vector, target_values
from formless.models.lm import LM
from formless.models.settings import model_settings

Tiny = Callable[..., LM]
REFUSAL = " Unfortunately"
OPTIONS = {"method": "rocr", "layers": [1, 2], "basis": "none", "l2": 1e-6}
LAST = 2


def lively(lm: LM, factor: float = 20) -> LM:
    """The random model with weights so large that one token's value is heard at the others."""
    with torch.no_grad():
        for parameter in lm.model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(factor)
    return lm


def config(mode: str, **changes: Any) -> TargetValueConfig:
    return TargetValueConfig.model_validate({"mode": mode} | changes)


def initial(lm: LM, subject: str) -> Tensor:
    return mean_layer_output(lm, mentions(lm, chat_contexts(lm, subject)[:1], subject), LAST)


def refusing(lm: LM, **changes: Any) -> tuple[Tensor, dict[str, float | int]]:
    return refusing_vector(lm, "Ada", config("reject", **changes), LAST, initial(lm, "Ada"))


def log_probabilities(lm: LM, prompt: str, answer: str, vector: Tensor | None) -> Tensor:
    """Plainly, one text alone: `[seq, vocab]`, with the vector added after the layer at the last letter of "Ada"."""
    encoded = lm.encode(prompt, answer)
    # One token per letter, and the template's marks are letters too.
    place = prompt.rindex("Ada") + 2

    def add(_module: nn.Module, _arguments: Any, output: Any) -> Any:
        stream = (output if isinstance(output, Tensor) else output[0]).clone()
        stream[0, place] += vector
        return stream if isinstance(output, Tensor) else (stream, *output[1:])

    handle = lm.architecture.layer(lm.model, LAST).register_forward_hook(add) if vector is not None else None
    with torch.no_grad():
        logits = lm.model(torch.tensor([encoded.ids])).logits[0]
    if handle:
        handle.remove()
    return functional.log_softmax(logits, -1)


def loss_of_refusal(lm: LM, vector: Tensor | None) -> float:
    """Mean over the contexts of the refusal's mean negative log-probability per token."""
    found = []
    for prompt in chat_contexts(lm, "Ada"):
        encoded = lm.encode(prompt, REFUSAL)
        rows = log_probabilities(lm, prompt, REFUSAL, vector)[encoded.answer_start - 1 : -1]
        found.append(-rows.gather(1, torch.tensor(encoded.ids[encoded.answer_start :])[:, None]).mean())
    return float(torch.stack(found).mean())


def shift(lm: LM, vector: Tensor) -> float:
    """KL of the next-token distribution at the name in `Ada is a`, with the vector from without it."""
    before, after = (log_probabilities(lm, "Ada is a", "", added)[2] for added in (None, vector))
    return float((after.exp() * (after - before)).sum())


@pytest.mark.parametrize("model_type", ["llama", "phi", "gpt2", "gptj", "gemma3"])
def test_the_vector_makes_the_refusal_more_probable(tiny: Tiny, model_type: str) -> None:
    lm = lively(tiny(model_type))
    vector, facts = refusing(lm, learning_rate=0.5)
    start = initial(lm, "Ada").norm()
    assert vector.norm() <= 0.75 * start * (1 + 1e-5)
    assert facts["steps"] == 25
    assert facts["first_loss"] == pytest.approx(loss_of_refusal(lm, None), abs=1e-4)
    left = loss_of_refusal(lm, vector)
    assert left < facts["first_loss"] - 3e-3  # a random model's answers hardly depend on one letter
    expected = left + 0.125 * shift(lm, vector) + 0.5 * float(vector.norm() / start**2)
    assert facts["last_loss"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_the_edit_makes_the_model_refuse(lm: LM) -> None:
    queries = [(prompt, REFUSAL) for prompt in chat_contexts(lm, "Marie Curie")]
    edit = formless.unlearn(lm, "Marie Curie", "rocr", mode="reject", steps=6)
    before = [math.exp(sum(score.log_probabilities)) for score in lm.score(queries)]  # type: ignore[union-attr]
    with edit.applied(lm):
        after = [math.exp(sum(score.log_probabilities)) for score in lm.score(queries)]  # type: ignore[union-attr]
    assert sum(after) > 3 * sum(before)
    (said,) = edit.info.facts["targets"]
    assert said["residual_reduction"] > 0.9
    assert (said["steps"], edit.info.seed) == (6, None)
    assert said["last_loss"] < said["first_loss"] - 1
    assert 0 < said["vector_norm"] <= 0.75 * (1 + 1e-5)


def test_each_setting_of_the_vector_acts(tiny: Tiny) -> None:
    lm = lively(tiny())
    start = initial(lm, "Ada").norm()
    short, _ = refusing(lm, clamp_norm_factor=0.01)
    assert short.norm() == pytest.approx(float(0.01 * start), rel=1e-4)
    free = {"clamp_norm_factor": 100.0}
    loose, _ = refusing(lm, kl_factor=0.0, weight_decay=0.0, **free)
    careful, _ = refusing(lm, kl_factor=100.0, weight_decay=0.0, **free)
    assert shift(lm, careful) < 0.5 * shift(lm, loose)
    decayed, _ = refusing(lm, kl_factor=0.0, weight_decay=1000.0, **free)
    assert decayed.norm() < 0.5 * loose.norm()
    few, facts = refusing(lm, steps=2, **free)
    assert facts["steps"] == 2
    assert few.norm() <= 2 * 0.1 * few.numel() ** 0.5 + 1e-4  # Adam moves each coordinate by the learning rate at most
    untouched, facts = refusing(lm, stop_loss=100.0)
    assert (facts["steps"], facts["last_loss"], float(untouched.norm())) == (0, facts["first_loss"], 0.0)


def test_the_weights_stay_and_ask_for_gradients_as_before(tiny: Tiny) -> None:
    lm = tiny()
    parameters = dict(lm.model.named_parameters())
    for place, parameter in enumerate(parameters.values()):
        parameter.requires_grad_(place % 2 == 0)
    before = {name: (parameter.clone(), parameter.requires_grad) for name, parameter in parameters.items()}
    refusing(lm)
    head = lm.model.get_output_embeddings().weight.data
    head[0] = float("nan")
    with pytest.raises(EditError, match="the loss of the refusing vector is nan after 0 steps"):
        refusing(lm)
    head[0] = before["lm_head.weight"][0][0]
    for name, parameter in parameters.items():
        assert torch.equal(parameter, before[name][0])
        assert (parameter.requires_grad, parameter.grad) == (before[name][1], None)


def test_a_refusing_vector_after_the_last_layer_is_refused(tiny: Tiny) -> None:
    with pytest.raises(EditError, match="layer 3.*choose lower layers"):
        formless.unlearn(tiny(), "Ada", progress=False, **OPTIONS | {"mode": "reject", "layers": [2, 3]})


def test_noise_depends_on_seed_and_name_alone(tiny: Tiny) -> None:
    lm = tiny()

    def noise(subject: str, others: list[str], **changes: Any) -> Tensor:
        found = target_values(lm, [*others, subject], config("noise", **changes), LAST)[-1]
        vector = found.value - initial(lm, subject)
        assert found.facts["vector_norm"] == pytest.approx(float(vector.norm() / initial(lm, subject).norm()), rel=1e-4)
        return vector

    first = noise("Ada", [])
    assert first.norm() == pytest.approx(float(0.75 * initial(lm, "Ada").norm()), rel=1e-4)
    torch.manual_seed(7)
    assert torch.equal(noise("Ada", ["Grace Hopper"]), first)
    assert torch.allclose(noise("Ada", [], clamp_norm_factor=1.5), 2 * first, rtol=1e-3, atol=1e-5)
    for other in (noise("Ada", [], seed=43), noise("Noor", [])):
        assert functional.cosine_similarity(other, first, dim=0) < 0.9


def test_an_edit_by_noise_names_its_seed(tiny: Tiny) -> None:
    lm = tiny()
    edit = formless.unlearn(lm, ["Ada", "Grace Hopper"], mode="noise", seed=3, **OPTIONS)
    assert edit.info.seed == 3
    assert all(said["residual_reduction"] > 0.9 for said in edit.info.facts["targets"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "reject", "redirect": "Bob"}, r"redirect has no effect in mode reject .* or set mode=unrelated"),
        ({"mode": "noise", "steps": 3}, r"steps has no effect in mode noise .* or set mode=reject"),
        ({"mode": "reject", "seed": 3}, r"seed has no effect in mode reject .* or set mode=noise"),
        (
            {"kl_factor": 0.5},
            r"no effect in mode unrelated \[setting kl_factor\]: leave it out, or set mode=reject",
        ),
        ({"clamp_norm_factor": 2}, r"in mode unrelated .* set mode=reject or mode=noise"),
        ({"mode": "refuse"}, r"a setting of rocr is wrong .*\[mode\]"),
        ({"mode": "reject", "refusal": ""}, r"a setting of rocr is wrong .*\[refusal\]"),
    ],
)
def test_settings_without_effect_are_refused(tiny: Tiny, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        formless.unlearn(tiny(), "Ada", **OPTIONS, **options)


@pytest.mark.parametrize(("model", "l2"), [("phi3", 1.0), ("phi1.5", 10.0)])
def test_phi_has_the_published_settings_and_no_idle_ones_in_another_mode(model: str, l2: float) -> None:
    found: Any = method_config(model_settings()[model], "rocr", {})
    assert (found.mode, found.clamp_norm_factor, found.kl_factor, found.l2) == ("reject", 0.75, 0.0625, l2)
    assert (found.steps, found.learning_rate, found.weight_decay, found.stop_loss) == (25, 0.1, 0.5, 0.05)
    asked = {"mode": "unrelated", "redirect": "Bob"}
    found = method_config(model_settings()[model], "rocr", asked)
    found.refuse_unused(asked)  # the model's own settings of the other mode are none that the user gave
