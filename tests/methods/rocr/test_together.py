"""Several concepts in one edit, and a new edit beside one that is kept."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

import formless
from formless.edits.adapter import AdapterEdit
from formless.errors import EditError, UserError
from formless.methods.keys.closed_form import closed_form
from formless.methods.keys.contexts import chat_contexts, mean_layer_output, mentions
from formless.methods.rocr.nullspace import DenseProjection
from formless.models.lm import LM
from formless.models.overlay import Factors

Tiny = Callable[..., LM]
OPTIONS = {"method": "rocr", "redirect": "Bob", "layers": [1, 2], "basis": "none", "l2": 1e-6}
LAST = 2


def unlearned(lm: LM, *subjects: str, keep: formless.Edit | None = None, **options: object) -> AdapterEdit:
    edit = formless.unlearn(lm, list(subjects), keep=keep, **(OPTIONS | options))
    assert isinstance(edit, AdapterEdit)
    return edit


def value(lm: LM, subject: str) -> torch.Tensor:
    """Where the residual stream stands at a name, mean over the chat contexts."""
    return mean_layer_output(lm, mentions(lm, chat_contexts(lm, subject), subject), LAST)


def goal(lm: LM) -> torch.Tensor:
    return mean_layer_output(lm, mentions(lm, chat_contexts(lm, "Bob")[:1], "Bob"), LAST)


def ranks(edit: AdapterEdit, chosen: list[int]) -> dict[str, Factors]:
    return {name: Factors(found.up[:, chosen], found.down[chosen]) for name, found in edit.updates.items()}


@pytest.mark.parametrize("l2", [1.0, 10.0])
@pytest.mark.parametrize("earlier", [0, 1, 4])
def test_keys_beside_kept_ones_equal_the_published_dense_solve(l2: float, earlier: int) -> None:
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(40, 30, dtype=torch.double))[0]
    p = basis @ basis.T
    keys, residuals = torch.randn(2, 40, dtype=torch.double), torch.randn(2, 12, dtype=torch.double)
    kept = torch.randn(earlier, 40, dtype=torch.double)
    c_prev = kept.T @ kept
    lhs = p @ (keys.T @ keys + c_prev) + l2 * torch.eye(40, dtype=torch.double)
    published = torch.linalg.solve(lhs, p @ keys.T @ residuals).T  # [hidden, d]
    ours = closed_form(keys, residuals, DenseProjection(p.float(), Path("p.pt")), l2, kept=kept)
    assert ours.down.shape == (2, 40)
    assert torch.linalg.norm(ours.dense() - published) <= 1e-5 * torch.linalg.norm(published)
    if earlier:  # the kept keys matter, and move less than they would
        alone = closed_form(keys, residuals, DenseProjection(p.float(), Path("p.pt")), l2).dense()
        assert torch.linalg.norm(ours.dense() @ kept.T.float()) < 0.9 * torch.linalg.norm(alone @ kept.T.float())


def test_a_kept_key_that_the_projection_swallows_stays_without_being_solved_for() -> None:
    p = DenseProjection(torch.diag(torch.tensor([1.0, 1.0, 0.0])), Path("p.pt"))
    key, swallowed = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[0.0, 0.0, 3.0]])
    delta = closed_form(key, torch.ones(1, 2), p, 0.0, kept=swallowed).dense()
    assert torch.allclose(delta @ key[0], torch.ones(2))
    assert torch.equal(delta @ swallowed[0], torch.zeros(2))
    with pytest.raises(EditError, match=r"vanishes in the null space.*\[Noor\]"):
        closed_form(torch.cat([key, swallowed]), torch.ones(2, 2), p, 1.0, names=["Ada", "Noor"])


def test_two_concepts_are_met_together_with_one_rank_each(tiny: Tiny) -> None:
    lm = tiny()
    aim, before = goal(lm), {name: value(lm, name) for name in ("Ada", "Grace Hopper")}
    edit = unlearned(lm, "Ada", "Grace Hopper")
    facts = edit.info.facts
    assert (edit.info.subject, facts["subjects"]) == ("Ada + Grace Hopper", ["Ada", "Grace Hopper"])
    assert [layer.rank for layer in edit.info.layers] == [2, 2]
    for place, said in enumerate(facts["targets"]):
        name = said["subject"]
        with edit.applied(lm):
            left = (aim - value(lm, name)).norm()
        way = (aim - before[name]).norm()
        assert said["residual_reduction"] == pytest.approx(float(1 - left / way), abs=1e-3)
        assert said["residual_reduction"] > 0.9
        with lm.overlaid(ranks(edit, [1 - place]), {}):
            moved = (value(lm, name) - before[name]).norm()
        assert said["shift_by_others"] == pytest.approx(float(moved / way), abs=1e-3)
        assert said["shift_by_others"] > 0.01
    before_all, after_all = ([said[f"residual_{when}"] ** 2 for said in facts["targets"]] for when in ("before", "after"))
    assert facts["residual_reduction"] == pytest.approx(1 - (sum(after_all) / sum(before_all)) ** 0.5)


def test_solved_together_meets_more_than_two_edits_on_top_of_each_other(tiny: Tiny) -> None:
    lm = tiny()
    aim = goal(lm)
    left: dict[str, float] = {}
    for how, edits in {
        "together": [unlearned(lm, "Ada", "Grace Hopper")],
        "stacked": [unlearned(lm, "Ada"), unlearned(lm, "Grace Hopper")],
    }.items():
        with ExitStack() as stack:
            for edit in edits:
                stack.enter_context(edit.applied(lm))
            left[how] = sum(float((aim - value(lm, name)).norm()) for name in ("Ada", "Grace Hopper"))
    assert left["together"] < 0.5 * left["stacked"]


def test_one_name_in_a_list_is_the_name_alone(tiny: Tiny) -> None:
    lm = tiny()
    one, listed = formless.unlearn(lm, "Ada", **OPTIONS), unlearned(lm, "Ada")
    assert isinstance(one, AdapterEdit)
    assert all(torch.equal(one.updates[name].dense(), found.dense()) for name, found in listed.updates.items())
    assert "shift_by_others" not in listed.info.facts["targets"][0]


def test_a_long_sequence_is_saved_without_nesting(tiny: Tiny, tmp_path: Path) -> None:
    lm, names, edit = tiny(), [f"Ada {letter}" for letter in "abcd"], None
    for name in names:
        edit = unlearned(lm, name, keep=edit)
    assert edit is not None
    edit.save(tmp_path / "edit")
    facts = formless.load_edit(tmp_path / "edit").info.facts
    before = [*facts["edits_before"], facts["earlier_edit"]]
    assert [info["facts"]["targets"][0]["subject"] for info in before] == names[:3]
    assert not any({"edits_before", "earlier_edit"} & info["facts"].keys() for info in before)
    assert facts["kept_shifts"].keys() == {*names[:3]}


def test_a_nested_sequence_of_before_is_read_and_unnested(tiny: Tiny) -> None:
    lm = tiny()
    first = formless.unlearn(lm, ["Ada", "Eve"], **OPTIONS)
    both = unlearned(lm, "Noor", keep=first)
    third = unlearned(lm, "Grace", keep=both)
    nested = third.info.facts["edits_before"].pop()
    del third.info.facts["edits_before"]
    third.info.facts["earlier_edit"]["facts"]["earlier_edit"] = nested
    found = unlearned(lm, "Emmy", keep=third).info.facts
    assert found["kept_shifts"].keys() == {"Ada", "Eve", "Noor", "Grace"}
    assert [info["subject"] for info in found["edits_before"]] == ["Ada + Eve", "Ada + Eve + Noor"]


def test_an_earlier_edit_stays_beside_a_new_one(tiny: Tiny, tmp_path: Path) -> None:
    lm = tiny()
    aim, before = goal(lm), {name: value(lm, name) for name in ("Ada", "Grace Hopper", "Noor")}
    unlearned(lm, "Ada", "Grace Hopper").save(tmp_path / "earlier")
    earlier = formless.load_edit(tmp_path / "earlier")
    assert isinstance(earlier, AdapterEdit)
    with earlier.applied(lm):
        then = {name: value(lm, name) for name in before}
    unlearned(lm, "Noor", keep=earlier).save(tmp_path / "both")
    both = formless.load_edit(tmp_path / "both")
    assert isinstance(both, AdapterEdit)

    assert [layer.rank for layer in both.info.layers] == [3, 3]
    for name, found in both.updates.items():
        assert torch.equal(found.up[:, :2], earlier.updates[name].up)
        assert torch.equal(found.down[:2], earlier.updates[name].down)
    assert both.info.facts["subjects"] == ["Ada", "Grace Hopper", "Noor"]
    assert both.info.facts["earlier_edit"]["facts"]["subjects"] == ["Ada", "Grace Hopper"]
    with both.applied(lm):
        now = {name: value(lm, name) for name in before}
    for name in ("Ada", "Grace Hopper"):
        drift = float((now[name] - then[name]).norm() / (then[name] - before[name]).norm())
        assert both.info.facts["kept_shifts"][name] == pytest.approx(drift, abs=1e-3)
        assert drift < 0.05
    (said,) = both.info.facts["targets"]
    way = (aim - then["Noor"]).norm()
    assert said["residual_reduction"] == pytest.approx(float(1 - (aim - now["Noor"]).norm() / way), abs=1e-3)
    assert said["residual_reduction"] > 0.9
    assert said["shift_by_others"] == pytest.approx(float((then["Noor"] - before["Noor"]).norm() / way), abs=1e-3)

    alone = unlearned(lm, "Noor")  # computed without a look at the earlier edit
    with earlier.applied(lm), alone.applied(lm):
        loose = {name: (value(lm, name) - then[name]).norm() for name in ("Ada", "Grace Hopper")}
    kept = {name: (now[name] - then[name]).norm() for name in loose}
    assert sum(kept.values()) < 0.2 * sum(loose.values())


def test_an_edit_can_be_kept_again_and_again(tiny: Tiny) -> None:
    lm = tiny()
    edit = unlearned(lm, "Ada")
    for count, name in enumerate(("Grace Hopper", "Noor"), start=2):
        edit = unlearned(lm, name, keep=edit)
        assert [layer.rank for layer in edit.info.layers] == [count, count]
        assert list(edit.info.facts["kept_shifts"]) == ["Ada", "Grace Hopper"][: count - 1]
    aim = goal(lm)
    before = {name: (aim - value(lm, name)).norm() for name in ("Ada", "Grace Hopper", "Noor")}
    with edit.applied(lm):
        assert all((aim - value(lm, name)).norm() < 0.2 * start for name, start in before.items())


def test_the_model_is_left_alone(tiny: Tiny) -> None:
    lm = tiny()
    before = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    unlearned(lm, "Noor", "Fay", keep=unlearned(lm, "Ada", "Grace Hopper"))
    assert all(torch.equal(before[name], tensor) for name, tensor in lm.model.state_dict().items())
    assert (lm.edits, lm.overlay.is_empty) == ([], True)


@pytest.mark.parametrize(
    ("subjects", "kept", "options", "message"),
    [
        ([], None, {}, "no target is given"),
        (["Ada", " ada"], None, {}, r"ada is given twice \[--target\]"),
        (["Ada", "Bob"], None, {}, "Bob would be redirected to itself"),
        (["Ada"], "Ada", {}, r"Ada is forgotten by the edit to keep already \[--target\]: leave it out"),
        (["Grace Hopper"], "Ada", {"layers": [1]}, r"the edit to keep has the layers \[1, 2\], not \[1\]"),
        (["Grace Hopper"], "Ada", {"redirect": "Ada"}, "Ada is forgotten by the edit to keep"),
    ],
)
def test_what_cannot_be_done_together(
    tiny: Tiny, subjects: list[str], kept: str | None, options: dict[str, object], message: str
) -> None:
    lm = tiny()
    with pytest.raises(EditError, match=message):
        unlearned(lm, *subjects, keep=unlearned(lm, kept) if kept else None, **options)


def test_only_an_edit_of_rocr_for_this_model_is_kept(tiny: Tiny) -> None:
    with pytest.raises(EditError, match="only an edit of rocr can be kept, not one of icu"):
        unlearned(tiny(), "Grace Hopper", keep=formless.unlearn(tiny(), "Ada", "icu"))
    with pytest.raises(EditError, match="for another model"):
        unlearned(tiny(seed=1), "Grace Hopper", keep=unlearned(tiny(), "Ada"))


def test_other_methods_take_one_target_and_keep_nothing(tiny: Tiny) -> None:
    for given, message in ((["Ada", "Grace Hopper"], "icu takes one target"), ([], "icu takes one target")):
        with pytest.raises(UserError, match=message):
            formless.unlearn(tiny(), given, "icu")
    with pytest.raises(UserError, match="icu cannot keep an earlier edit"):
        formless.unlearn(tiny(), "Grace Hopper", "icu", keep=unlearned(tiny(), "Ada"))
