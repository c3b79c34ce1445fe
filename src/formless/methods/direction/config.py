"""The settings of Concept Direction Removal and its registry entry; no torch is imported here."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from formless.data.spellings import naming
from formless.errors import EditError
from formless.methods.base import JointMethod, Layers, MethodConfig, MethodEntry, TunedSetting
from formless.methods.direction.kept import reference_names
from formless.methods.keys.candidates import AUTO, NOBODY, check_redirect
from formless.methods.keys.names import Names, concepts_of, folded, names_of, neighbor_names, protected

if TYPE_CHECKING:
    from formless.data.target import Target
    from formless.edits.edit import Edit
    from formless.models.lm import LM
    from formless.models.meta import MetaModel

DEPTH_SHARE = 0.215
"""Where `layers` begin unless they are given, as a share of the model's depth: layer 6 of 28."""

LAYER_COUNT = 3


class DirectionConfig(MethodConfig):
    """Settings of Concept Direction Removal.

    Args:
        redirect: The concept that every spelling of the name is read as; `auto` chooses one for each target, `none` moves the
            name itself against the concept's direction.
        layers: Layers that set the concept apart from its neighbors, each once, in ascending order; unless given three that
            begin at a fifth of the depth. The name is redirected in the three that end where they begin.
        overshoot: How far a name's state moves there at most against the concept's direction: 1 to the neighbors' mean state, 8
            seven times as far beyond it. Usually 2 to 16.
        budget: How far what the model says about others may move: the mean of |p'/p - 1| of its probability. The movement is
            made smaller until that moves no further. Usually 0.01 to 0.1; 1 sets no limit.
        ridge: lambda of the closed form, relative to the mean squared norm of the names' keys; usually 0.02 to 1.
    """

    redirect: str = AUTO
    layers: Layers | None = None
    overshoot: float = Field(default=8.0, gt=0, le=100)
    budget: float = Field(default=0.04, gt=0, le=1)
    ridge: float = Field(default=0.05, gt=0, le=1e3)

    def layers_of(self, depth: int) -> tuple[int, ...]:
        """Return the layers that set the concept apart in a model of that depth."""
        first = round(DEPTH_SHARE * depth)
        return self.layers or tuple(range(first, min(first + LAYER_COUNT, depth)))

    def redirecting_layers(self, depth: int) -> tuple[int, ...]:
        """Return the layers that redirect the name: three that end where the others begin; none without a redirect."""
        first = self.layers_of(depth)[0]
        return () if self.redirect == NOBODY else tuple(range(max(0, first - LAYER_COUNT + 1), first + 1))

    def edited_layers(self, depth: int) -> tuple[int, ...]:
        """Return all layers that the edit changes in a model of that depth."""
        return tuple(sorted({*self.redirecting_layers(depth), *self.layers_of(depth)}))

    def check_targets(self, targets: Sequence[Target], keep: Edit | None) -> None:
        """Refuse an earlier edit, a redirect that does not serve, shared names, and a target with nothing to set it apart from.

        Raises:
            DataError: A target's `aliases.json` cannot be read, or a question set does not name its concepts.
            EditError: There is no target, a target is given twice, an earlier edit is given, the redirect is a mention of a
                target or of a neighbor, no candidate of `auto` is left, every spelling of a target also names a neighbor or
                another target, or neither a neighbor nor a well-known name is left to keep.
        """
        if not targets:
            raise EditError("no target is given", where="--target", remedy="name at least one concept")
        if keep is not None:
            raise EditError("an earlier edit cannot be kept", where=keep.info.subject, remedy="compute one edit of all targets")
        targets = concepts_of(targets)
        names = [folded(target.subject) for target in targets]
        for target, name in zip(targets, names, strict=True):
            if names.count(name) > 1:
                raise EditError(f"{target.subject} is given twice", where="--target", remedy="leave it out")
        if self.redirect != NOBODY:
            check_redirect(self.redirect, targets)
        _, kept = self.edited_names(targets)
        known = reference_names(kept, [naming(target)[0] for target in targets])
        if alone := next((target.subject for target in targets if not known and not {*neighbor_names(target)} & {*kept}), None):
            what = "nothing is known that is to stay and that the concept could be set apart from"
            raise EditError(what, where=alone, remedy="name neighbors in its aliases.json and give --data")

    def edited_names(self, targets: Sequence[Target]) -> tuple[Sequence[Names], Collection[str]]:
        """Return every spelling of each target, and the neighbors that are no target.

        Raises:
            DataError: A target's `aliases.json` cannot be read.
            EditError: A target has no spelling of its own.
        """
        targets = concepts_of(targets)
        return names_of(targets, "spelled"), protected(targets)

    def check_model(self, model: LM | MetaModel) -> None:
        """Refuse a model without one of the layers.

        Raises:
            UserError: There is no such layer.
        """
        depth = model.architecture.depth(model.model)
        for layer in (*self.layers_of(depth), *self.redirecting_layers(depth)):  # a missing layer is one that was given
            model.architecture.down_projection(model.model, layer)


def _build(config: DirectionConfig) -> JointMethod:
    from formless.methods.direction.method import DirectionRemoval

    return DirectionRemoval(config)


CDR = MethodEntry(
    name="cdr",
    about="removal of a concept's direction, at every spelling of its name; training-free",
    paper="ours",
    config=DirectionConfig,
    build=_build,
    takes_several_targets=True,
    reads_names=True,
    reports_progress=True,
    tuned=TunedSetting("budget", (0.01, 0.04, 0.16)),
    cost="seconds",
)
