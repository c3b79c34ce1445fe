"""open-unlearning's results: `TOFU_EVAL.json`, `MUSE_SUMMARY.json` and the like, by the names of our tasks and metrics.

An `*_EVAL.json` has for each metric its `agg_value` and the `value_by_index` of its items. A `*_SUMMARY.json` has the first
alone. open-unlearning runs lm-evaluation-harness too; of that, the summary `LMEval_SUMMARY.json` counts.

Source: open-unlearning (arXiv 2506.12618), `src/evals/base.py` and the handlers in `src/evals/metrics`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from formless import store
from formless.data.rows import Split
from formless.errors import DataError
from formless.evaluation.record import MetricKey
from formless.evaluation.statistics import Metric, auc, auc_ci, mean, mean_metric

TOOL: Final = "open-unlearning"
_FILE: Final = re.compile(r"(?P<benchmark>\w+)_(?P<kind>EVAL|SUMMARY)\.json")
_HARNESS: Final = "LMEval"
_REMEDY: Final = "give a file that open-unlearning's evaluator wrote"
_TOLERANCE: Final = 1e-4
_TINY: Final = 1e-10
"""open-unlearning adds it to denominators."""


class Counterpart(NamedTuple):
    """Our metric that one of open-unlearning's is.

    Args:
        task: Its task.
        split: Its split.
        metric: Its name.
        is_reversed: Whether ours is 1 minus theirs: their AUC is how often a held-out text has the higher value.
    """

    task: str
    split: Split | None
    metric: str
    is_reversed: bool = False


COUNTERPARTS: Final[Mapping[tuple[str, str], Counterpart]] = {
    ("TOFU", "forget_Q_A_Prob"): Counterpart("answer", "forget", "probability"),
    ("TOFU", "forget_Q_A_PARA_Prob"): Counterpart("paraphrased_answer", "forget", "probability"),
    ("TOFU", "forget_Q_A_ROUGE"): Counterpart("gen_answer", "forget", "rouge_l_recall"),
    ("TOFU", "forget_truth_ratio"): Counterpart("truth_ratio", "forget", "truth_ratio"),
    ("TOFU", "forget_Truth_Ratio"): Counterpart("truth_ratio", "forget", "truth_ratio"),
    ("TOFU", "forget_quality"): Counterpart("forget_quality", None, "forget_quality"),
    ("TOFU", "model_utility"): Counterpart("model_utility", None, "model_utility"),
    ("TOFU", "retain_Q_A_Prob"): Counterpart("answer", "neighbor", "probability"),
    ("TOFU", "retain_Q_A_PARA_Prob"): Counterpart("paraphrased_answer", "neighbor", "probability"),
    ("TOFU", "retain_Q_A_ROUGE"): Counterpart("gen_answer", "neighbor", "rouge_l_recall"),
    ("TOFU", "retain_Truth_Ratio"): Counterpart("truth_ratio", "neighbor", "truth"),
    ("TOFU", "ra_Q_A_Prob_normalised"): Counterpart("real_authors", None, "probability"),
    ("TOFU", "ra_Q_A_ROUGE"): Counterpart("gen_real_authors", None, "rouge_l_recall"),
    ("TOFU", "ra_Truth_Ratio"): Counterpart("real_authors", None, "truth"),
    ("TOFU", "wf_Q_A_Prob_normalised"): Counterpart("world_facts", None, "probability"),
    ("TOFU", "wf_Q_A_ROUGE"): Counterpart("gen_world_facts", None, "rouge_l_recall"),
    ("TOFU", "wf_Truth_Ratio"): Counterpart("world_facts", None, "truth"),
    ("TOFU", "extraction_strength"): Counterpart("answer_memorization", "forget", "extraction_strength"),
    ("TOFU", "exact_memorization"): Counterpart("answer_memorization", "forget", "exact_memorization"),
    ("TOFU", "mia_loss"): Counterpart("mia_qa", None, "loss_auc", is_reversed=True),
    ("TOFU", "mia_zlib"): Counterpart("mia_qa", None, "zlib_auc", is_reversed=True),
    ("TOFU", "mia_min_k"): Counterpart("mia_qa", None, "min_k_auc", is_reversed=True),
    ("TOFU", "mia_min_k_plus_plus"): Counterpart("mia_qa", None, "min_k++_auc", is_reversed=True),
    ("TOFU", "mia_gradnorm"): Counterpart("mia_qa_gradnorm", None, "gradnorm_auc", is_reversed=True),
    ("TOFU", "mia_reference"): Counterpart("mia_reference", None, "reference_auc", is_reversed=True),
    ("MUSE", "forget_verbmem_ROUGE"): Counterpart("verbmem", "forget", "rouge_l_f1"),
    ("MUSE", "forget_knowmem_ROUGE"): Counterpart("knowmem", "forget", "rouge_l_f1"),
    ("MUSE", "retain_knowmem_ROUGE"): Counterpart("knowmem", "neighbor", "rouge_l_f1"),
    ("MUSE", "extraction_strength"): Counterpart("verbmem", "forget", "extraction_strength"),
    ("MUSE", "exact_memorization"): Counterpart("verbmem", "forget", "exact_memorization"),
    ("MUSE", "mia_loss"): Counterpart("mia_holdout", None, "loss_auc", is_reversed=True),
    ("MUSE", "mia_zlib"): Counterpart("mia_holdout", None, "zlib_auc", is_reversed=True),
    ("MUSE", "mia_min_k"): Counterpart("mia_holdout", None, "min_k_auc", is_reversed=True),
    ("MUSE", "mia_min_k_plus_plus"): Counterpart("mia_holdout", None, "min_k++_auc", is_reversed=True),
    ("MUSE", "mia_gradnorm"): Counterpart("mia_gradnorm", None, "gradnorm_auc", is_reversed=True),
    ("MUSE", "mia_reference"): Counterpart("mia_reference", None, "reference_auc", is_reversed=True),
}
"""Benchmark and name there -> our metric. A name that is not here stands under its own name, as of the task `open-unlearning`.

`privleak` depends on what it was compared with, and is in `_privleak`.
"""

_STATISTICS: Final = ("prob", "score", "rougeL_recall", "rougeL_f1", "rouge1_recall")
# How the values of items become those whose mean is `agg_value`: as they are, and the two truth ratios.
_TRANSFORMS: Final[tuple[Callable[[float], float], ...]] = (
    lambda value: value,
    lambda ratio: min(ratio, 1 / (ratio + _TINY)),
    lambda ratio: max(0.0, 1 - ratio),
)


@dataclass(frozen=True)
class Evaluation:
    """What open-unlearning measured on one model.

    Args:
        name: The folder of the run, with its run's name if it is a checkpoint.
        folder: Where the files lie.
        benchmarks: E.g. TOFU and LMEval.
        metrics: Confidence intervals and numbers of items are there where an `*_EVAL.json` has the items.
        names: Their name of each metric.
    """

    name: str
    folder: Path
    benchmarks: tuple[str, ...]
    metrics: Mapping[MetricKey, Metric]
    names: Mapping[MetricKey, str]

    @property
    def title(self) -> str:
        """The name with that of the tool."""
        return f"{self.name} [{TOOL}]"


def is_evaluation(path: Path) -> bool:
    """Return whether a file has a name as open-unlearning gives them."""
    return _FILE.fullmatch(path.name) is not None


def read_evaluations(paths: Iterable[Path], left_out: Counter[str], *, required: bool = False) -> list[Evaluation]:
    """Read the evaluations among files and in folders, one for each folder that holds some.

    Args:
        paths: Files, and folders that are searched. Others of them are left alone.
        left_out: What cannot be read in a folder beside others is counted here.
        required: Whether every path must hold some.

    Raises:
        DataError: A file cannot be read, nothing in a folder can be read, or a path holds none.
    """
    found: dict[Path, Evaluation] = {}
    for path in paths:
        errors: list[DataError] = []
        folders = _by_folder(sorted(path.rglob("*.json")) if path.is_dir() else [path])
        if required and not folders:
            raise DataError(f"no evaluations of {TOOL}", where=path, remedy=_REMEDY)
        for folder, files in folders.items():
            try:
                found[folder.resolve()] = _read_folder(folder, files)
            except DataError as error:
                errors.append(error)
        if errors and len(errors) == len(folders):
            raise errors[0]
        left_out.update(f"unreadable evaluation of {TOOL}: {error}" for error in errors)
    return list(found.values())


def _by_folder(files: Iterable[Path]) -> dict[Path, list[Path]]:
    """Return the files to read by folder: of one benchmark the one with items, of lm-evaluation-harness the summary."""
    found: dict[Path, dict[str, Path]] = {}
    for path in files:
        match = _FILE.fullmatch(path.name)
        if match is None:
            continue
        own, benchmark = found.setdefault(path.parent, {}), match["benchmark"]
        wanted = "SUMMARY" if benchmark == _HARNESS else "EVAL"
        if benchmark not in own or match["kind"] == wanted:
            own[benchmark] = path
    return {folder: list(own.values()) for folder, own in found.items()}


def _read_folder(folder: Path, files: Sequence[Path]) -> Evaluation:
    metrics: dict[MetricKey, Metric] = {}
    names: dict[MetricKey, str] = {}
    benchmarks = []
    for path in files:
        benchmark = path.name.rpartition("_")[0]
        benchmarks.append(benchmark)
        for name, key, metric in _read(path, benchmark):
            unique = key if key not in metrics else MetricKey(TOOL, None, name)
            metrics[unique], names[unique] = metric, name
    return Evaluation(_run_name(folder), folder, tuple(benchmarks), metrics, names)


def _run_name(folder: Path) -> str:
    """Return the name of the run that the files in a folder are about: `evals` lies in its folder, or in a checkpoint's."""
    folder = folder.absolute()
    run = folder.parent if folder.name == "evals" else folder
    return f"{run.parent.name}/{run.name}" if run.name.startswith("checkpoint-") else run.name


def _read(path: Path, benchmark: str) -> Iterator[tuple[str, MetricKey, Metric]]:
    """Yield their name, our key and the value of every metric of a file.

    Raises:
        DataError: The file is broken, empty, or of another schema.
    """
    try:
        content = store.read_json(path)
    except (OSError, ValueError) as error:
        reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        raise DataError(f"the evaluation cannot be read: {reason.splitlines()[0]}", where=path, remedy=_REMEDY) from error
    if not isinstance(content, dict):
        raise DataError("the evaluation is no JSON object", where=path, remedy=_REMEDY)
    values = {name: _value(name, entry, path) for name, entry in content.items() if not name.endswith("_stderr")}
    known = {name: value for name, value in values.items() if value is not None}
    if not known:
        raise DataError("the evaluation holds no metric", where=path, remedy=_REMEDY)
    for name, value in known.items():
        own = _privleak(value, known.get("mia_min_k")) if name == "privleak" else COUNTERPARTS.get((benchmark, name))
        key = MetricKey(own.task, own.split, own.metric) if own else MetricKey(TOOL, None, name)
        yield name, key, _metric(content[name], value, is_reversed=bool(own and own.is_reversed))


def _value(name: str, entry: Any, path: Path) -> float | None:
    """Return the value of a metric; None where it was not computed, as forget quality without the logs of a retain model."""
    value = entry.get("agg_value") if isinstance(entry, dict) and entry.keys() & {"agg_value", "value_by_index"} else entry
    if isinstance(value, dict | list | str | bool):
        shown = "has no agg_value" if isinstance(value, dict) else f"is {value!r}, no number"
        raise DataError(f"the metric {name} {shown}", where=path, remedy=_REMEDY)
    return None if value is None else float(value)


def _privleak(value: float, separation: float | None) -> Counterpart | None:
    """Return which PrivLeak theirs is: without the logs of a retain model they take an AUC of 0.5, and do not say so.

    Args:
        value: Theirs, in percent.
        separation: Their AUC of Min-K%, which tells the two apart; without it neither is claimed.
    """
    if separation is None:
        return None
    against_half = (1 - separation - 0.5) / 0.5 * 100
    is_half = math.isclose(value, against_half, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    return Counterpart("privleak", None, "privleak_half" if is_half else "privleak")


def _metric(entry: Any, value: float, *, is_reversed: bool) -> Metric:
    """Return a metric, with a confidence interval where the items are there and give the value."""
    whole = 1 - value if is_reversed else value
    if not isinstance(entry, dict):
        return Metric(value=whole)
    if is_reversed:
        sides = [_scores(entry.get(side)) for side in ("forget", "holdout")]
        same = (own := auc(*sides)) is not None and math.isclose(own, whole, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
        return Metric(value=whole, ci=auc_ci(*sides) if same else None, n=sum(map(len, sides)) if same else 0)
    items = next(_items(entry.get("value_by_index"), value), [])
    return Metric(value=whole, ci=mean_metric(items).ci, n=len(items)) if items else Metric(value=whole)


def _items(rows: Any, value: float) -> Iterator[list[float]]:
    """Yield the values of items whose mean is the value: which of their numbers that is, the file does not say."""
    for statistic in _STATISTICS:
        own = _column(rows, statistic)
        for transform in _TRANSFORMS if statistic == "score" else _TRANSFORMS[:1]:
            found = [transform(one) for one in own]
            if found and math.isclose(mean(found), value, rel_tol=_TOLERANCE, abs_tol=_TINY):
                yield found


def _scores(side: Any) -> list[float]:
    return _column(side.get("value_by_index"), "score") if isinstance(side, dict) else []


def _column(rows: Any, statistic: str) -> list[float]:
    """Return one number of every item that has it, the mean of one with several answers."""
    values: list[Any] = [row.get(statistic) for row in rows.values() if isinstance(row, dict)] if isinstance(rows, dict) else []
    answers = [one if isinstance(one, list) else [one] for one in values]
    return [mean(one) for one in answers if one and all(type(part) in (int, float) for part in one)]
