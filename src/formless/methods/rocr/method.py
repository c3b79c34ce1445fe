"""ROCR as a method: check the model, compute the redirection, and return an adapter of one rank per key."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from formless.data.target import Target
from formless.edits.adapter import AdapterEdit, down_projection_adapter, of_one_rank, stack
from formless.edits.edit import Edit, edit_info, layer_report, refuse_applied_edits
from formless.errors import EditError
from formless.methods.keys.candidates import AUTO
from formless.methods.keys.choice import Choice, choose_redirects
from formless.methods.keys.closed_form import Projection
from formless.methods.keys.names import Names, concepts_of, names_of, protected_names
from formless.methods.keys.solve import residual_facts
from formless.methods.rocr.config import RocrConfig
from formless.methods.rocr.questions import edit_questions
from formless.methods.rocr.redirect import Redirection, TargetResult, load_projections, redirect_together
from formless.methods.rocr.reverse import ReverseEdit, edit_reverse
from formless.models.lm import LM
from formless.models.quantized import is_finite, is_packed
from formless.progress import Progress, silent


@dataclass(frozen=True)
class Rocr:
    """Rank-one Concept Redirection (arXiv 2506.07795): training-free, seconds.

    Args:
        config: Settings.
        report: Called while null spaces are made.
    """

    config: RocrConfig
    report: Progress = silent

    def reporting(self, report: Progress) -> Rocr:
        """Return the same method, which reports while it makes null spaces."""
        return replace(self, report=report)

    def unlearn(self, lm: LM, target: Target) -> AdapterEdit:
        """Compute the edit of one target: `unlearn_together` of one."""
        return self.unlearn_together(lm, [target])

    def unlearn_together(self, lm: LM, targets: Sequence[Target], *, keep: Edit | None = None) -> AdapterEdit:
        """Compute one edit of several targets, solved together; the model itself stays as it is.

        Args:
            lm: The model, without any edit.
            targets: The targets, each once; a question set stands for its concepts.
            keep: An earlier ROCR edit of the same layers. It is applied while the new one is computed, its concepts' keys join
                the solve with residual zero, and the result holds both: the ranks of `keep` first, then one per key.

        Raises:
            UserError: The model has no such layer.
            EditError: As `RocrConfig.check_targets`; or the model has an edit on it, a null space is missing or of another
                model, a name is not found in its context, `keep` is for another model, or a weight, key or update is NaN or
                infinite.
        """
        self.config.check_targets(targets, keep)
        if keep is not None and not isinstance(keep, AdapterEdit):
            raise EditError("the edit to keep is no adapter", where=keep.info.subject, remedy="compute it with rocr")
        refuse_applied_edits(lm)
        self.config.check_model(lm)
        layers = list(self.config.layers)
        names = {layer: lm.architecture.down_projection_name(layer) for layer in layers}
        _check_weights(lm, list(names.values()))
        preserved = load_projections(lm, self.config, self.report)
        start = time.perf_counter()  # null spaces may be made at their first use, which is no part of the edit
        given = [target.subject for target in targets]
        targets = concepts_of(targets)
        subjects = [target.subject for target in targets]
        spelled = names_of(targets, self.config.mentions)
        protected = protected_names(targets, self.config.protect, self.config.mentions)
        choices = self._choices(lm, targets, keep)
        redirects = [choice.redirect for choice in choices]
        redirection = redirect_together(lm, spelled, self.config, preserved, keep, protected, redirects)
        updates = {names[layer]: factors for layer, factors in redirection.factors.items()}
        facts = _facts(redirection, spelled, preserved, choices)
        if self.config.reverse_layers is not None:
            own, others = edit_questions(targets)
            reverse = edit_reverse(lm, own, others, self.config, redirection.factors)
            layers += reverse.factors
            late = {lm.architecture.down_projection_name(layer): factors for layer, factors in reverse.factors.items()}
            updates = of_one_rank(updates | late)
            facts |= {"reverse": _reverse_facts(reverse)}
        if keep is not None:
            updates = stack(keep, updates)
            subjects, given = keep.info.subjects + subjects, [keep.info.subject, *given]
            facts |= _earlier_facts(keep)
        r = next(iter(updates.values())).down.shape[0]
        info = edit_info(
            lm, "rocr", " + ".join(given), self.config, time.perf_counter() - start,
            layers=[layer_report(lm, name, factors) for name, factors in updates.items()],
            facts={"subjects": subjects} | facts, seed=self.config.seed if self.config.mode == "noise" else None,
        )  # fmt: skip
        return AdapterEdit(updates, info, down_projection_adapter(lm, layers, r))

    def _choices(self, lm: LM, targets: Sequence[Target], keep: Edit | None) -> list[Choice]:
        """Choose the redirect of each target; none where the settings name one or need none."""
        if self.config.mode != "unrelated" or self.config.redirect != AUTO:
            return []
        return choose_redirects(lm, targets, self.config.layers[-1], keep.info.subjects if keep else ())


def _facts(
    redirection: Redirection, spelled: Sequence[Names], preserved: dict[int, Projection], choices: Sequence[Choice]
) -> dict[str, Any]:
    """Return the facts of edit.json: the residuals of all targets together, then of each target."""
    targets = [_target_facts(result, names) for result, names in zip(redirection.results, spelled, strict=True)]
    for own, choice in zip(targets, choices, strict=False):
        own |= {"redirect": choice.redirect, "redirect_scores": choice.scores}
    facts = _residuals(redirection) | {"targets": targets}
    if redirection.protected_shifts:
        facts["protected_shifts"] = redirection.protected_shifts
    if redirection.kept_shifts:
        facts["kept_shifts"] = redirection.kept_shifts
    return facts | {"null_spaces": {str(layer): projection.describe() for layer, projection in preserved.items()}}


def _earlier_facts(keep: Edit) -> dict[str, Any]:
    """Return the earlier edit, and beside it those that it holds, oldest first: nested, a long sequence could not be saved."""
    chain = [keep.info.model_dump(mode="json")]
    while older := [*chain[0]["facts"].pop("edits_before", ()), *_popped(chain[0]["facts"], "earlier_edit")]:
        chain = older + chain
    return {"earlier_edit": chain[-1]} | ({"edits_before": chain[:-1]} if chain[:-1] else {})


def _popped(facts: dict[str, Any], name: str) -> list[Any]:
    return [facts.pop(name)] if name in facts else []


def _reverse_facts(found: ReverseEdit) -> dict[str, Any]:
    return {"edited_prompts": found.edited, "kept_prompts": found.kept, "kept_shift": found.kept_shift} | _residuals(found)


def _target_facts(result: TargetResult, names: Names) -> dict[str, Any]:
    found = {"subject": result.subject, "spellings": list(result.spellings)} | _residuals(result) | result.facts
    if names.dropped:
        found["dropped_spellings"] = names.dropped
    return found if result.shift_by_others is None else found | {"shift_by_others": result.shift_by_others}


def _residuals(found: Redirection | TargetResult | ReverseEdit) -> dict[str, Any]:
    return residual_facts(found.residual_before, found.residual_after)


def _check_weights(lm: LM, names: list[str]) -> None:
    for name in names:
        module = lm.model.get_submodule(name)
        if not (is_finite(module) if is_packed(module) else lm.overlay.current(f"{name}.weight").isfinite().all()):
            raise EditError("the weight is NaN or infinite", where=name, remedy="check the model's files and dtype")
