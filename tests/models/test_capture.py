"""A batch that runs again from a changed layer on gives what a whole pass gives, and runs nothing below."""

from collections.abc import Callable

import pytest
import torch

from formless.models.capture import ResumableForward, added, capture
from formless.models.lm import LM
from formless.models.overlay import Factors

Tiny = Callable[..., LM]
FIRST, LAST = 1, 2
FAMILIES = [
    "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "gemma3", "phi", "phi3", "olmo2", "gpt2", "gptj", "gpt_neox",
]  # fmt: skip


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_resumed_pass_is_a_whole_pass(tiny: Tiny, model_type: str) -> None:
    lm = tiny(model_type)
    batch = lm.pad([lm.encode("Ada").ids, lm.encode("Ada wrote programs").ids])
    forward = ResumableForward(lm, batch, FIRST, LAST)
    whole = capture(lm, batch, keys=[FIRST], residuals=[LAST])
    first = forward.run(FIRST, key=FIRST)
    assert torch.equal(first.residuals[LAST], whole.residuals[LAST])
    assert torch.equal(first.keys[FIRST], whole.keys[FIRST])

    ran: list[int] = []
    layers = [lm.architecture.layer(lm.model, index) for index in range(4)]
    handles = [layer.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, layer in enumerate(layers)]
    width = whole.keys[FIRST].shape[-1]
    change = Factors(torch.randn(32, 1, generator=torch.Generator().manual_seed(0)), torch.ones(1, width))
    with added(lm.architecture.down_projection(lm.model, FIRST), change):
        again = forward.run(FIRST, key=LAST)
        assert ran == [FIRST, LAST]
        with added(lm.architecture.down_projection(lm.model, LAST), change):
            end = forward.run(LAST)
            assert ran == [FIRST, LAST, LAST]
            expected_end = capture(lm, batch, residuals=[LAST]).residuals[LAST]
        expected = capture(lm, batch, keys=[LAST], residuals=[LAST])
    for handle in handles:
        handle.remove()
    assert torch.allclose(again.residuals[LAST], expected.residuals[LAST], atol=1e-6)
    assert torch.allclose(again.keys[LAST], expected.keys[LAST], atol=1e-6)
    assert torch.allclose(end.residuals[LAST], expected_end, atol=1e-6)
    assert not torch.allclose(end.residuals[LAST], whole.residuals[LAST], atol=1e-3)


def test_a_resumed_pass_needs_a_layer_to_run(tiny: Tiny) -> None:
    lm = tiny()
    forward = ResumableForward(lm, lm.pad([lm.encode("Ada").ids]), FIRST, LAST)
    forward.run(FIRST)
    with pytest.raises(ValueError, match="layer 3 is above the last layer, 2"):
        forward.run(3)
