"""Which forms and tasks belong together."""

from __future__ import annotations

from formless.errors import UnknownNameError
from formless.evaluation.forms import FORMS, Form
from formless.evaluation.tasks import TASKS, Task

ATTACKS = tuple(name for name in FORMS if name.startswith("level3"))
PAPER_UTILITY = ("mmlu", "truthfulqa", "triviaqa", "fluency")

SUITES: dict[str, tuple[str, ...]] = {
    "forms": ("statement", "fb", "qa", "mcp", "tf", "sub_fb", "sub_qa"),
    "choices": ("mcp_choice", "tf_choice"),
    "letters": ("sub_fb_letters", "sub_qa_letters"),
    "attacks": ATTACKS,
    "generation": ("gen_fb", "gen_qa", "gen_level3"),
    "utility": (*PAPER_UTILITY, "bbh"),
    "membership": ("mia",),
    "quick": ("statement", "fb", "qa", "mcp_choice", "tf_choice", "sub_qa_letters", "gen_qa"),
    "ort": ("forms", "choices", "letters", *PAPER_UTILITY),
    "rwku": ("fb", "qa", "attacks", "generation", "utility", "membership"),
    "full": ("forms", "choices", "letters", "attacks", "sub_level3", "generation", "utility", "membership"),
}
"""A suite's forms, tasks and other suites."""

LIMITS = {"quick": 12}
"""How many rows a task of a suite asks at most, unless the user says so."""


def suite_parts(suite: str) -> list[Form | Task]:
    """The forms and tasks of a suite, or of a list of suites, forms and tasks such as `fb,qa,mmlu`, each once.

    Raises:
        UnknownNameError: No such suite, form or task.
    """
    parts = [part for name in suite.split(",") for part in _expanded(name.strip())]
    return [FORMS[name] if name in FORMS else TASKS[name] for name in dict.fromkeys(parts)]


def suite_limit(suite: str) -> int | None:
    """The smallest limit of rows per task that the named suites have of their own, if any has one."""
    return min((LIMITS[name] for name in map(str.strip, suite.split(",")) if name in LIMITS), default=None)


def _expanded(name: str) -> list[str]:
    if name in SUITES:
        return [part for inner in SUITES[name] for part in _expanded(inner)]
    if name not in FORMS and name not in TASKS:
        raise UnknownNameError("suite, form or task", name, [*SUITES, *FORMS, *TASKS], where="--suite")
    return [name]
