"""Suites: which tasks belong together."""

from __future__ import annotations

from formless.errors import UnknownNameError
from formless.evaluation.registry import TASKS
from formless.evaluation.task import Task

PAPER_UTILITY = ("mmlu", "truthfulqa", "triviaqa", "fluency")

SUITES: dict[str, tuple[str, ...]] = {
    "forms": ("statement", "fb", "qa", "mcp", "tf", "sub_fb", "sub_qa"),
    "choices": ("mcp_choice", "tf_choice"),
    "letters": ("sub_fb_letters", "sub_qa_letters"),
    "generation": ("gen_fb", "gen_qa", "gen_level3"),
    "utility": (*PAPER_UTILITY, "bbh"),
    "membership": ("mia",),
    "muse": ("verbmem", "knowmem", "mia_holdout", "mia_reference", "privleak"),
    "wmdp": ("wmdp_questions", "mmlu"),
    "mentions": ("statement_mentions", "fb_mentions", "qa_mentions", "reverse"),
    "kinds": ("qa_kinds",),
    "formats": ("qa_alone", "qa_no_cue", "qa_system", "qa_completion"),
    "recall": (
        "gen_statement",
        "gen_fb",
        "gen_qa",
        "gen_qa_mentions",
        "gen_qa_kinds",
        "gen_qa_alone",
        "gen_qa_no_cue",
        "gen_qa_system",
        "gen_qa_completion",
        "sample_qa",
        "reverse",
    ),
    "reach": (
        *("statement", "fb", "qa", "choices", "qa_mentions", "qa_kinds", "qa_alone", "qa_completion"),
        *("gen_statement", "gen_qa", "gen_qa_mentions", "gen_qa_kinds", "gen_qa_alone", "gen_qa_no_cue", "gen_qa_system"),
        *("gen_qa_completion", "reverse"),
    ),
    "jailbreak": (
        *("qa", "qa_affirmative", "qa_role", "qa_examples", "qa_passage"),
        *("gen_qa", "gen_qa_affirmative", "gen_qa_role", "gen_qa_examples", "gen_qa_passage", "sample_qa_many"),
    ),
    "memorization": ("statement_memorization", "qa_memorization"),
    "inside": ("lens", "probe"),
    "attacks": ("jailbreak", "memorization", "inside"),
    "gcg": ("qa", "gen_qa_no_cue", "gcg_qa"),
    "answers": ("answer", "paraphrased_answer", "paraphrased_question", "truth_ratio"),
    "gen_answers": ("gen_answer", "gen_paraphrased_question"),
    "tofu": (
        *("answers", "gen_answers", "real_authors", "gen_real_authors", "world_facts", "gen_world_facts"),
        *("model_utility", "forget_quality"),
    ),
    "takedown": ("forms", "choices", "letters", "mentions", "kinds", "recall"),
    "quick": ("statement", "fb", "qa", "mcp_choice", "tf_choice", "sub_qa_letters", "gen_qa", "gen_qa_alone", "reverse"),
    "ort": ("forms", "choices", "letters", *PAPER_UTILITY),
    "rwku": ("fb", "qa", "level3", "generation", "utility", "membership"),
    "full": ("forms", "choices", "letters", "level3", "sub_level3", "generation", "utility", "membership"),
}
"""The tasks and suites of each suite."""

LIMITS = {"quick": 12, "gcg": 4}
"""The most rows that a task of a suite asks, unless the user sets a limit."""


def suite_tasks(suite: str) -> list[Task]:
    """Return the tasks of a suite, or of a list of suites and tasks such as `fb,qa,mmlu`, each once.

    Raises:
        UnknownNameError: No suite or task has such a name.
    """
    names = [task for name in suite.split(",") for task in _expanded(name.strip())]
    return [TASKS[name] for name in dict.fromkeys(names)]


def suite_limit(suite: str) -> int | None:
    """Return the smallest limit of rows per task that the named suites have of their own, if any has one."""
    return min((LIMITS[name] for name in map(str.strip, suite.split(",")) if name in LIMITS), default=None)


def _expanded(name: str) -> list[str]:
    if name in SUITES:
        return [task for inner in SUITES[name] for task in _expanded(inner)]
    if name not in TASKS:
        raise UnknownNameError("suite or task", name, [*SUITES, *TASKS], where="suite")
    return [name]
