from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import formless
from formless.errors import EditError, UserError
from formless.methods.keys.closed_form import Identity, closed_form
from formless.methods.keys.contexts import chat_contexts, mentions
from formless.methods.rocr.config import RocrConfig
from formless.methods.rocr.nullspace import BasisProjection, DenseProjection, Fingerprint, from_second_moment
from formless.methods.rocr.redirect import redirect
from formless.models.capture import capture
from formless.models.lm import LM

Tiny = Callable[..., LM]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


OPTIONS = {"method": "rocr", "redirect": "Bob", "layers": [1, 2], "basis": "none"}


def moment(d: int = 40, tokens: int = 60, seed: int = 0) -> torch.Tensor:
    """A second moment of keys that use few directions."""
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(tokens, 8, generator=generator) @ torch.randn(8, d, generator=generator)
    keys += 0.05 * torch.randn(tokens, d, generator=generator)
    return (keys.T @ keys / tokens).double()


def dense_projection(second: torch.Tensor, threshold: float) -> torch.Tensor:
    """P as the published code makes it: by SVD, as a matrix."""
    u, values, _ = torch.linalg.svd(second)
    kept = u[:, values < threshold]
    return kept @ kept.T


def projection_of(second: torch.Tensor, threshold: float) -> BasisProjection:
    basis, spans, values = from_second_moment(second, threshold)
    print_ = Fingerprint(
        model="m", model_fingerprint="f", layer=0, corpus="c", samples=1, tokens=1,
        threshold=threshold, rank=1, dimension=len(values), spectrum=(),
    )  # fmt: skip
    return BasisProjection(basis, spans, print_)


@pytest.mark.parametrize("threshold", [2e-3, 2e-2, 1e3])
@pytest.mark.parametrize("l2", [1.0, 10.0])
def test_the_update_equals_the_published_dense_solve(threshold: float, l2: float) -> None:
    second = moment()
    p = dense_projection(second, threshold)
    assert p.norm() > 1
    key, residual = torch.randn(40, dtype=torch.double), torch.randn(12, dtype=torch.double)
    lhs = p @ torch.outer(key, key) + l2 * torch.eye(40, dtype=torch.double)
    published = torch.linalg.solve(lhs, p @ torch.outer(key, residual)).T  # [hidden, d]
    ours = closed_form(key[None].float(), residual[None].float(), projection_of(second, threshold), l2).dense()
    assert torch.linalg.norm(ours - published) <= 1e-5 * torch.linalg.norm(published) + 1e-7


def test_several_keys_equal_the_dense_solve_too() -> None:
    second = moment()
    p = dense_projection(second, 2e-2)
    keys, residuals = torch.randn(3, 40, dtype=torch.double), torch.randn(3, 12, dtype=torch.double)
    published = torch.linalg.solve(p @ keys.T @ keys + torch.eye(40, dtype=torch.double), p @ keys.T @ residuals).T
    ours = closed_form(keys.float(), residuals.float(), projection_of(second, 2e-2), 1.0).dense()
    assert torch.linalg.norm(ours - published) <= 1e-5 * torch.linalg.norm(published)


def test_without_projection_and_regularisation_the_key_maps_exactly_to_its_new_value() -> None:
    weight, key, residual = torch.randn(12, 40), torch.randn(40), torch.randn(12)
    edited = weight + closed_form(key[None], residual[None], Identity(), 0.0).dense()
    assert torch.allclose(edited @ key, weight @ key + residual, atol=1e-5)


def test_a_preserved_key_does_not_move() -> None:
    second = moment()
    projection = projection_of(second, 2e-2)
    preserved = torch.linalg.eigh(second)[1][:, -3:].T.float()  # [3, d], directions that the corpus uses
    delta = closed_form(torch.randn(1, 40), torch.randn(1, 12), projection, 1.0).dense()
    assert torch.linalg.norm(delta @ preserved.T) < 1e-5 * torch.linalg.norm(delta)


def test_both_sides_of_the_basis_and_the_published_matrix_project_alike(tmp_path: Path) -> None:
    second, keys = moment(), torch.randn(5, 40)
    sides = set()
    for threshold in (1e-4, 1.0):
        p = dense_projection(second, threshold).float()
        projection = projection_of(second, threshold)
        sides.add(projection.spans_null_space)
        assert projection.basis.shape[1] <= 20
        assert torch.allclose(projection.apply(keys), keys @ p, atol=1e-5)
        assert torch.allclose(DenseProjection(p, tmp_path).apply(keys), keys @ p, atol=1e-6)
    assert sides == {True, False}


def test_keys_that_are_not_finite_or_vanish_stop_the_edit() -> None:
    with pytest.raises(EditError, match="NaN or infinite"):
        closed_form(torch.tensor([[float("nan"), 1.0]]), torch.ones(1, 2), Identity(), 1.0)
    nothing = DenseProjection(torch.zeros(2, 2), Path("p.pt"))
    for l2 in (0.0, 1.0):
        with pytest.raises(EditError, match="vanishes in the null space: nothing would be edited"):
            closed_form(torch.ones(1, 2), torch.ones(1, 2), nothing, l2)
    with pytest.raises(EditError, match="depend on each other"):
        closed_form(torch.ones(2, 2), torch.ones(2, 2), Identity(), 0.0)


def test_a_concept_is_not_redirected_to_itself(tiny: Tiny) -> None:
    with pytest.raises(EditError, match="bob would be redirected to itself"):
        formless.unlearn(tiny(), "bob", **OPTIONS)


def test_the_last_token_of_the_name_is_found_in_every_context(lm: LM) -> None:
    prompts = chat_contexts(lm, "Albert Einstein")
    assert len(prompts) == 6
    assert "Please answer the question about Albert Einstein." in prompts[1]
    assert all(prompt.endswith("assistant\nAnswer:") for prompt in prompts)
    found = mentions(lm, prompts, "Albert Einstein")
    ids = found.batch["input_ids"][torch.arange(6), found.positions]
    assert {lm.tokenizer.decode([i]) for i in ids} == {" Einstein"}


@pytest.mark.parametrize("subject", ["", "  ", "Nobody"])
def test_a_subject_that_is_not_in_its_context_is_an_error(lm: LM, subject: str) -> None:
    with pytest.raises(EditError, match="is not found in its context"):
        mentions(lm, ["Ada wrote programs."], subject)


def test_the_residual_is_met_and_the_model_is_left_alone(tiny: Tiny) -> None:
    lm = tiny()
    before = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    config = RocrConfig(redirect="Bob", layers=(1, 2), basis="none", l2=0.0)
    result = redirect(lm, "Ada", config, dict.fromkeys((1, 2), Identity()))
    assert result.residual_after < 0.5 * result.residual_before
    assert all(torch.equal(before[name], tensor) for name, tensor in lm.model.state_dict().items())
    again = redirect(lm, "Ada", config, dict.fromkeys((1, 2), Identity()))
    assert torch.equal(again.factors[2].dense(), result.factors[2].dense())


def test_the_redirected_name_reads_as_the_other_concept(tiny: Tiny) -> None:
    lm = tiny()
    edit = formless.unlearn(lm, "Ada", **OPTIONS, l2=0.01)
    there = mentions(lm, chat_contexts(lm, "Ada"), "Ada")
    other = mentions(lm, chat_contexts(lm, "Bob")[:1], "Bob")
    target = other.at(capture(lm, other.batch, residuals=[2]).residuals[2]).mean(0)
    with edit.applied(lm):
        moved = there.at(capture(lm, there.batch, residuals=[2]).residuals[2]).mean(0)
    facts = edit.info.facts
    assert torch.linalg.norm(target - moved).item() == pytest.approx(facts["residual_after"], rel=1e-2)
    assert 0 < facts["residual_after"] < 0.9 * facts["residual_before"]


def test_bfloat16_models_get_the_same_edit_to_their_rounding(tiny: Tiny) -> None:
    exact: Any = formless.unlearn(tiny(), "Ada", **OPTIONS)
    rounded: Any = formless.unlearn(tiny(dtype=torch.bfloat16), "Ada", **OPTIONS)
    for name, factors in exact.updates.items():
        assert rounded.updates[name].up.dtype == torch.float32
        error = torch.linalg.norm(rounded.updates[name].dense() - factors.dense()) / torch.linalg.norm(factors.dense())
        assert error < 0.05


@pytest.mark.parametrize("poison", ["weight", "embedding"])
def test_nan_in_the_model_stops_the_edit(tiny: Tiny, poison: str) -> None:
    lm = tiny()
    with torch.no_grad():
        if poison == "weight":
            lm.architecture.down_projection(lm.model, 2).weight[0, 0] = float("inf")
        else:
            lm.model.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(EditError, match="NaN or infinite"):
        formless.unlearn(lm, "Ada", **OPTIONS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": [2, 1]}, "not in ascending order"),
        ({"layers": []}, "not in ascending order"),
        ({"layers": [1, 7]}, "no layer 7.*choose from 0 to 3"),
        ({"layerz": [1]}, "rocr has no such setting.*layerz.*settings of rocr: redirect, mode"),
        ({"l2": -1}, "a setting of rocr is wrong.*l2"),
        ({"current_value": "both"}, "a setting of rocr is wrong.*current_value"),
        ({"basis": "shipped"}, "no null space is shipped for tiny-llama.*formless stats"),
    ],
)
def test_wrong_settings_say_what_and_where(tiny: Tiny, options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        formless.unlearn(tiny(), "Ada", **(OPTIONS | options))


def test_an_edited_model_is_not_edited_again_unnoticed(tiny: Tiny) -> None:
    lm = tiny()
    edit = formless.unlearn(lm, "Ada", **OPTIONS)
    with edit.applied(lm), pytest.raises(EditError, match="has an edit on it"):
        formless.unlearn(lm, "Cyd", **OPTIONS)
