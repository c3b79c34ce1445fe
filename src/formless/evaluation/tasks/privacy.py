"""Privacy beside the retain model: PrivLeak and relative differences of an AUC, and the reference attack.

Sources: MUSE (arXiv 2407.06460) for PrivLeak, OpenUnlearning (arXiv 2506.12618) for the rest.
"""

from __future__ import annotations

from formless.evaluation.record import TaskMetric, TaskResult
from formless.evaluation.statistics import mean_metric
from formless.evaluation.task import MetricSpec, Results, Task
from formless.evaluation.tasks.forget_quality import RETAIN_MODEL
from formless.evaluation.tasks.membership import MIA_HOLDOUT, MIA_QA, attack_specs, auc_metric

COMPARED = (MIA_HOLDOUT.name, MIA_QA.name)
GUESSING = 1 / 2


def compared(own: Results, retained: Results | None) -> tuple[TaskResult, TaskResult] | str:
    """Return the results of membership inference of a model and of the retain model, or why there are none."""
    if retained is None:
        return RETAIN_MODEL
    found = next((name for name in COMPARED if (one := own.get((name, None))) and one.status == "complete"), None)
    if found is None:
        reasons = [f"{name}: {one.reason}" for name in COMPARED if (one := own.get((name, None)))]
        return f"it needs {' or '.join(COMPARED)}" + "".join(f"; {reason}" for reason in reasons)
    other = retained.get((found, None))
    if other is None or other.status != "complete":
        return f"the retain model's record has no {found}"
    return own[found, None], other


def leak(value: float, reference: float) -> float | None:
    """Return the relative difference of a value from a reference in percent; None where the reference is 0."""
    return (value - reference) / reference * 100 if reference else None


def privacy_leakage(own: Results, retained: Results | None) -> list[TaskMetric] | str:
    """Compare the AUC of `min_k`, and its values on the forget set, with those of the retain model.

    - `privleak`: (AUC - AUC of the retain model) / AUC of the retain model, in percent. AUC is how often a forget text looks
      less like a training text. Below 0, forget texts are still recognized; above 0, they stand out as forgotten.
    - `privleak_half`: the same against an AUC of 0.5, which OpenUnlearning takes without a retain model.
    - `rel_diff`: the relative difference of OpenUnlearning's AUC, which is 1 - AUC.
    - `ks_p`: the p-value of the two-sample Kolmogorov-Smirnov test of the values of the forget texts.
    """
    from scipy.stats import ks_2samp

    found = compared(own, retained)
    if isinstance(found, str):
        return found
    one, other = (result.metric("min_k_auc") for result in found)
    if one.value is None or other.value is None:
        return "the AUC of min_k has no value, since texts of one side were skipped"
    values = {
        "privleak": leak(one.value, other.value),
        "privleak_half": leak(one.value, GUESSING),
        "rel_diff": leak(1 - one.value, 1 - other.value),
    }
    metrics = [TaskMetric(metric=name, value=value, n=one.n if value is not None else 0) for name, value in values.items()]
    sides = [[item.metrics["min_k"] for item in result.items if item.group == "forget" and item.metrics] for result in found]
    return [*metrics, TaskMetric(metric="ks_p", value=float(ks_2samp(*sides).pvalue), n=sum(map(len, sides)))]


def reference_attack(own: Results, retained: Results | None) -> list[TaskMetric] | str:
    """Attack by each text's loss minus its loss under the retain model."""
    found = compared(own, retained)
    if isinstance(found, str):
        return found
    sides: dict[str, list[float]] = {"forget": [], "holdout": []}
    for one, other in zip(*(result.items for result in found), strict=True):
        if one.group and "loss" in one.metrics and "loss" in other.metrics:
            sides[one.group].append(one.metrics["loss"] - other.metrics["loss"])
    if not all(sides.values()):
        return "no text of one side has a loss under both models"
    means = [TaskMetric(metric="reference", group=group, **mean_metric(side).model_dump()) for group, side in sides.items()]
    return [*means, auc_metric("reference", *sides.values())]


PRIVLEAK = Task(
    name="privleak",
    title="Privacy leakage",
    files=(),
    metrics=(
        MetricSpec("privleak", "percent", "PrivLeak", higher_is_better=None),
        MetricSpec("privleak_half", "percent", "PrivLeak against 0.5", higher_is_better=None, headline=False),
        MetricSpec("rel_diff", "percent", "relative difference", higher_is_better=None, headline=False),
        MetricSpec("ks_p", "probability", "KS p-value", higher_is_better=None, headline=False),
    ),
    derive=privacy_leakage,
)
MIA_REFERENCE = Task(
    name="mia_reference",
    title="Membership inference, reference",
    files=(),
    metrics=attack_specs({"reference": "nats"}),
    groups=("forget", "holdout"),
    derive=reference_attack,
)
