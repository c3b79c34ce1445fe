"""The settings of ROCR and its registry entry; no torch is imported here."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Final, Literal

from pydantic import Field

from formless.errors import EditError, UserError
from formless.methods.base import JointMethod, Layers, MethodConfig, MethodEntry, TunedSetting
from formless.methods.keys.candidates import AUTO, check_redirect
from formless.methods.keys.names import MentionKeys, Names, Protect, concepts_of, folded, names_of, protected_names
from formless.methods.rocr.questions import edit_questions

if TYPE_CHECKING:
    from formless.data.target import Target
    from formless.edits.edit import Edit
    from formless.models.lm import LM
    from formless.models.meta import MetaModel

Mode = Literal["unrelated", "reject", "noise"]

PUBLISHED_REDIRECT: Final = "Donald Trump"
"""The paper's redirect. It is no default: the edited model makes up facts about a living politician."""


class TargetValueConfig(MethodConfig):
    """Settings of the target value z*.

    The defaults are the paper's for Llama-3-8B and Mistral-7B, except for the redirect, `PUBLISHED_REDIRECT` there;
    `clamp_norm_factor` is the one of smaller models.

    Args:
        redirect: Mode "unrelated": the concept whose value becomes the target value; `auto` chooses one for each target.
        mode: `unrelated` (another concept), `reject` (a vector that makes the model refuse) or `noise` (a random vector).
        refusal: Mode "reject": the text with which the contexts are to continue.
        steps: Mode "reject": maximum number of Adam steps, usually 10 to 50.
        learning_rate: Mode "reject": learning rate of Adam, usually 0.05 to 0.5.
        weight_decay: Mode "reject": weight of the vector's norm over the initial value's squared norm, usually 0 to 1.
        kl_factor: Mode "reject": weight of the KL divergence after `{subject} is a`, usually 0.06 to 1.
        stop_loss: Mode "reject": loss (nats) under which the optimisation stops.
        clamp_norm_factor: Norm of the vector over the norm of the initial value, usually 0.5 to 4; a maximum in mode "reject",
            the exact ratio in mode "noise".
        seed: Mode "noise": seed of the random vector.
    """

    redirect: str = AUTO
    mode: Mode = "unrelated"
    refusal: str = Field(default=" Unfortunately", min_length=1)
    steps: int = Field(default=25, ge=1, le=100_000)
    learning_rate: float = Field(default=0.1, gt=0, le=10)
    weight_decay: float = Field(default=0.5, ge=0, le=1e4)
    kl_factor: float = Field(default=0.125, ge=0, le=1e4)
    stop_loss: float = Field(default=0.05, ge=0, le=1e3)
    clamp_norm_factor: float = Field(default=0.75, gt=0, le=1e3)
    seed: int = Field(default=42, ge=0, lt=2**32)

    def refuse_unused(self, given: Collection[str]) -> None:
        """Refuse settings that have no effect in this mode.

        Raises:
            UserError: A setting has no effect; the error names the modes in which it has one.
        """
        for name in given:
            modes = _MODES.get(name, (self.mode,))
            if self.mode not in modes:
                remedy = f"leave it out, or set mode={' or mode='.join(modes)}"
                raise UserError(f"{name} has no effect in mode {self.mode}", where=f"setting {name}", remedy=remedy)


# The modes in which a setting has an effect; all modes for the others.
_MODES: dict[str, tuple[Mode, ...]] = {
    "redirect": ("unrelated",),
    "refusal": ("reject",),
    "steps": ("reject",),
    "learning_rate": ("reject",),
    "weight_decay": ("reject",),
    "kl_factor": ("reject",),
    "stop_loss": ("reject",),
    "clamp_norm_factor": ("reject", "noise"),
    "seed": ("noise",),
}


class RocrConfig(TargetValueConfig):
    """Settings of ROCR; the defaults are the paper's for Llama-3-8B and Mistral-7B.

    Args:
        layers: Edited layers, early ones, each once, in ascending order.
        l2: Regularisation lambda of the closed form, usually 1 to 10.
        threshold: Eigenvalues of the keys' second moment under it span the null space.
        current_value: Where the current value is read: the mean over the chat contexts, or the bare text (published code).
        basis: Folder of null spaces; `shipped`: the bundled model's own; `sampled`: those of texts that the model samples, made
            at their first use and kept; `none`: nothing is preserved.
        mentions: What gets a key: `name`, the full name alone (published), or `spelled`, every mention that spells the name.
        protect: `neighbors` adds the neighbors' names to the solve with residual zero; `none` does not (published).
        reverse_layers: Late layers that are edited too, at the last token before the name in the answers to the questions of
            the target's `edit_reverse.json`; none unless given (published). Layers 22 to 24 of 28 are a start.
        reverse_strength: How far those states move against the concept's direction: 1 to the mean state before neighbors'
            names, 2 as far beyond it.
        reverse_ridge: lambda of the closed form there, relative to the keys' mean squared norm.
    """

    layers: Layers = (4, 5, 6)
    l2: float = Field(default=1.0, ge=0, le=1e6)
    threshold: float = Field(default=2e-2, gt=0, le=1e6)
    current_value: Literal["chat", "bare"] = "chat"
    basis: str = Field(default="shipped", json_schema_extra={"place_unless": ["shipped", "sampled", "none"]})
    mentions: MentionKeys = "name"
    protect: Protect = "none"
    reverse_layers: Layers | None = None
    reverse_strength: float = Field(default=2.0, gt=0, le=100)
    reverse_ridge: float = Field(default=0.05, gt=0, le=1e3)

    def refuse_unused(self, given: Collection[str]) -> None:
        """Refuse settings that have no effect beside the others.

        Raises:
            UserError: A setting has no effect in this mode, or one of the reverse edit is given without `reverse_layers`.
        """
        super().refuse_unused(given)
        for name in ("reverse_strength", "reverse_ridge"):
            if name in given and self.reverse_layers is None:
                remedy = "leave it out, or give reverse_layers"
                raise UserError(f"{name} has no effect without reverse_layers", where=f"setting {name}", remedy=remedy)

    def check_targets(self, targets: Sequence[Target], keep: Edit | None) -> None:
        """Refuse targets or an earlier edit that one solve cannot take.

        Raises:
            DataError: A target's `aliases.json` is needed and cannot be read, or a question set does not name its concepts.
            EditError: There is no target, a target is given twice or is forgotten by `keep` already, `keep` is no ROCR edit of
                the same layers or forgets the redirect concept, the redirect is a mention of a target or of a neighbor, no
                candidate of `auto` is left, a target has no spelling of its own, or there is no neighbor to protect; or
                `reverse_layers` is given with an earlier edit, with layers that do not lie above `layers`, or for a target
                whose `edit_reverse.json` lacks questions.
        """
        if not targets:
            raise EditError("no target is given", where="--target", remedy="name at least one concept")
        if keep is not None:
            self._check_earlier_edit(keep)
        targets = concepts_of(targets)
        forgotten = {folded(subject) for subject in keep.info.subjects} if keep else set()
        if self.mode == "unrelated":
            check_redirect(self.redirect, targets, keep.info.subjects if keep else ())
        seen: set[str] = set()
        for target in targets:
            name = folded(target.subject)
            if name in seen | forgotten:
                why = "forgotten by the edit to keep already" if name in forgotten else "given twice"
                raise EditError(f"{target.subject} is {why}", where="--target", remedy="leave it out")
            seen.add(name)
        self.edited_names(targets)
        self._check_reverse(targets, keep)

    def edited_names(self, targets: Sequence[Target]) -> tuple[Sequence[Names], Collection[str]]:
        """Return what gets a key by `mentions`, and who is protected by `protect`.

        Raises:
            DataError: A target's `aliases.json` is needed and cannot be read.
            EditError: A target has no spelling of its own, or there is no neighbor to protect.
        """
        targets = concepts_of(targets)
        return names_of(targets, self.mentions), protected_names(targets, self.protect, self.mentions)

    def _check_reverse(self, targets: Sequence[Target], keep: Edit | None) -> None:
        if self.reverse_layers is not None:
            if self.reverse_layers[0] <= self.layers[-1]:
                what = f"reverse_layers begin at {self.reverse_layers[0]}, not above layer {self.layers[-1]}"
                raise EditError(what, where="setting reverse_layers", remedy="choose late layers, such as 22,23,24 of 28")
            if keep is not None:
                what = "an edit with reverse_layers cannot hold an earlier edit"
                raise EditError(what, where="setting reverse_layers", remedy="compute one edit of all the targets")
            edit_questions(targets)

    def needed_layers(self) -> int | None:
        """Return the layers up to the last edited one, unless the model has to write or score texts."""
        writes = self.mode == "reject" or self.reverse_layers is not None or self.basis == "sampled"
        return None if writes else self.layers[-1] + 1

    def check_model(self, model: LM | MetaModel) -> None:
        """Refuse a model without one of the layers, or without a null space that fits as far as its shapes tell.

        Raises:
            UserError: There is no such layer.
            EditError: A null space is missing, cannot be read, or is for another layer, threshold or dimension.
        """
        from formless.methods.rocr.redirect import check_null_spaces

        check_null_spaces(model, self)

    def _check_earlier_edit(self, keep: Edit) -> None:
        if keep.info.method != "rocr":
            what = f"only an edit of rocr can be kept, not one of {keep.info.method}"
            raise EditError(what, where=keep.info.subject, remedy="compute it with rocr")
        if keep.info.config.get("reverse_layers"):
            what = "the edit to keep has reverse_layers, whose questions a new edit does not know"
            raise EditError(what, where=keep.info.subject, remedy="compute one edit of all the targets")
        if keep.info.strength == 0:
            what = "the edit to keep has the strength 0, so there is nothing to keep"
            raise EditError(what, where=keep.info.subject, remedy="give it a strength above 0")
        layers = list(keep.info.config.get("layers", []))
        if layers != list(self.layers):
            what = f"the edit to keep has the layers {layers}, not {list(self.layers)}"
            raise EditError(what, where=keep.info.subject, remedy="use its layers")


def _build(config: RocrConfig) -> JointMethod:
    from formless.methods.rocr.method import Rocr

    return Rocr(config)


ROCR = MethodEntry(
    name="rocr",
    about="rank-one redirection of a concept; training-free",
    paper="arXiv 2506.07795",
    config=RocrConfig,
    build=_build,
    takes_several_targets=True,
    keeps_earlier_edits=True,
    reports_progress=True,
    tuned=TunedSetting("l2", (10.0, 1.0, 0.1)),
    cost="seconds",
)
