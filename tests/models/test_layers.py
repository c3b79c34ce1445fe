"""What single layers hold: the last layer gives what the model gives, in every family, whatever the batch."""

from collections.abc import Callable

import numpy as np
import pytest

from formless.errors import UserError
from formless.models.capture import capture
from formless.models.families import Architecture, known_model_types
from formless.models.lm import LM
from formless.models.scores import Score, Skipped

Tiny = Callable[..., LM]
QUERIES = [("Ada wrote", " programs"), ("Who?", " Ada Lovelace"), ("A", "b"), ("", "x" * 600)]


@pytest.mark.parametrize("model_type", known_model_types())
def test_the_last_layer_gives_what_the_model_gives(tiny: Tiny, model_type: str) -> None:
    lm = tiny(model_type)
    found, expected = lm.score_layers(QUERIES), lm.score(QUERIES)
    assert found[3] == expected[3]
    assert isinstance(found[3], Skipped)
    for layers, score in zip(found[:3], expected[:3], strict=True):
        assert isinstance(layers, tuple)
        assert isinstance(score, Score)
        assert len(layers) == 4
        assert layers[-1].log_probabilities == pytest.approx(score.log_probabilities, abs=1e-4)
        assert layers[-1].greedy == score.greedy
        assert layers[0].log_probabilities != pytest.approx(score.log_probabilities, abs=1e-3)


def test_a_layer_is_read_at_the_last_token(tiny: Tiny) -> None:
    lm = tiny()
    texts = ["Ada", "Ada wrote programs.", "x" * 600, "Ada."]
    found = lm.read_layers(texts)
    assert found[2] == Skipped("600 tokens are more than the model's 512")
    for text, states in zip(texts, found, strict=True):
        if isinstance(states, Skipped):
            continue
        whole = capture(lm, lm.pad([lm.encode(text).ids]), residuals=range(4)).residuals
        assert states.shape == (4, 32)
        assert states.dtype == np.float32
        for index in range(4):
            assert states[index] == pytest.approx(whole[index][0, -1].numpy(), abs=1e-5)
    assert lm.read_layers([""]) == [Skipped("the text has no token")]


def test_a_family_without_a_final_norm_says_so(tiny: Tiny) -> None:
    lm = tiny()
    lm.architecture = Architecture("other", (), "model.layers", "mlp.down_proj")
    with pytest.raises(UserError, match="does not say where its final norm is \\[other\\]: name `final_norm`"):
        lm.score_layers([("Ada", " wrote")])
    assert len(lm.read_layers(["Ada"])) == 1
