import itertools
from collections.abc import Callable

import pytest
import torch

from formless.errors import EditError
from formless.models.lm import LM
from formless.models.overlay import Factors

Tiny = Callable[..., LM]


def update(lm: LM, layer: int, seed: int) -> dict[str, Factors]:
    generator = torch.Generator().manual_seed(seed)
    factors = Factors(torch.randn(32, 1, generator=generator), torch.randn(1, 48, generator=generator))
    return {lm.architecture.down_projection_name(layer): factors}


def state(lm: LM) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_updates_come_off_in_any_order_bit_for_bit(tiny: Tiny, order: tuple[int, ...], dtype: torch.dtype) -> None:
    lm = tiny(dtype=dtype)
    before = state(lm)
    updates = [update(lm, 1, seed=0), update(lm, 1, seed=1), update(lm, 2, seed=2)]
    for one in updates:
        lm.overlay.add(one)
    left = list(updates)
    for index in order:
        lm.overlay.remove(updates[index])
        left = [one for one in left if one is not updates[index]]
        fresh = tiny(dtype=dtype)
        for one in left:
            fresh.overlay.add(one)
        assert same(state(lm), state(fresh))
    assert same(state(lm), before)
    assert lm.overlay.is_empty


def test_an_error_inside_the_block_restores_too(tiny: Tiny) -> None:
    lm = tiny()
    before = state(lm)
    with pytest.raises(ZeroDivisionError), lm.overlaid(update(lm, 1, 0), {}):
        raise ZeroDivisionError
    assert same(state(lm), before)
    assert lm.edits == []


def test_the_same_update_twice_is_refused(tiny: Tiny) -> None:
    lm = tiny()
    one = update(lm, 1, 0)
    with lm.overlaid(one, {}), pytest.raises(EditError, match="applied already"), lm.overlaid(one, {}):
        pass
    assert lm.overlay.is_empty


def test_weights_that_someone_else_changed_are_not_silently_restored(tiny: Tiny) -> None:
    lm = tiny()
    name = lm.architecture.down_projection_name(1)
    with pytest.raises(EditError, match="changed while an edit was applied"), lm.overlaid(update(lm, 1, 0), {}):
        lm.model.get_parameter(f"{name}.weight").data[0, 0] += 1


def test_an_update_of_another_shape_or_module_is_refused_before_anything_changes(tiny: Tiny) -> None:
    lm = tiny()
    before = state(lm)
    good, name = update(lm, 1, 0), lm.architecture.down_projection_name(2)
    with pytest.raises(EditError, match=r"shape \(5, 48\), not \(32, 48\)"):
        lm.overlay.add(good | {name: Factors(torch.ones(5, 1), torch.ones(1, 48))})
    with pytest.raises(EditError, match="no such module"):
        lm.overlay.add(good | {"model.layers.99.mlp.down_proj": good[lm.architecture.down_projection_name(1)]})
    assert same(state(lm), before)
    assert lm.overlay.is_empty


def test_an_update_that_is_not_finite_never_reaches_the_weights(tiny: Tiny) -> None:
    lm = tiny()
    before, broken = state(lm), update(lm, 1, 0)
    next(iter(broken.values())).down[0, 0] = float("nan")
    with pytest.raises(EditError, match="NaN or infinity"), lm.overlaid(broken, {}):
        pass
    assert same(state(lm), before)
    assert lm.overlay.is_empty
