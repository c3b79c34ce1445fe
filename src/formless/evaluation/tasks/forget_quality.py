"""TOFU's forget quality: can a model be told from one that never saw the forget set?"""

from __future__ import annotations

import math

from formless.data.rows import Split
from formless.evaluation.record import TaskMetric
from formless.evaluation.task import MetricSpec, Results, Task

RETAIN_MODEL = "it compares with a model trained without the forget set, which --retain-model names"
PLACE: tuple[str, Split | None] = ("truth_ratio", "forget")


def forget_quality(results: Results, retained: Results | None) -> list[TaskMetric] | str:
    """Return the p-value of a two-sample Kolmogorov-Smirnov test between the truth ratios r of a model and the retain model.

    The higher it is, the less can the two be told apart. Its base-10 logarithm is what is usually printed; a p-value that is 0
    in double precision has none.

    Source: TOFU (arXiv 2401.06121, section 2.2.3); open-unlearning, `ks_test` over `truth_ratio`.
    """
    from scipy.stats import ks_2samp

    if retained is None:
        return RETAIN_MODEL
    own, other = _ratios(results), _ratios(retained)
    if not own:
        return "it needs truth_ratio (forget)"
    if not other:
        return "the retain model's record has no truth_ratio (forget)"
    p = float(ks_2samp(own, other).pvalue)
    found = [TaskMetric(metric="forget_quality", value=p, n=len(own))]
    if p > 0:
        found.append(TaskMetric(metric="log10_forget_quality", value=math.log10(p), n=len(own)))
    return found


def _ratios(results: Results) -> list[float]:
    """Return the truth ratio r of every item of the forget set."""
    result = results.get(PLACE)
    return [item.metrics["ratio"] for item in result.items if "ratio" in item.metrics] if result else []


FORGET_QUALITY = Task(
    name="forget_quality",
    title="Forget quality",
    files=(),
    metrics=(
        MetricSpec("forget_quality", "probability", "p-value", higher_is_better=None),
        MetricSpec("log10_forget_quality", "log10", "log10 of the p-value", higher_is_better=None),
    ),
    derive=forget_quality,
)
