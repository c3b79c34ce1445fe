"""Which forms belong together."""

from __future__ import annotations

from formless.errors import UnknownNameError
from formless.evaluation.forms import FORMS, Form

SUITES: dict[str, tuple[str, ...]] = {
    "ort": ("statement", "fb", "qa", "mcp", "tf", "sub_fb", "sub_qa"),
    "choices": ("mcp_choice", "tf_choice"),
    "letters": ("sub_fb_letters", "sub_qa_letters"),
    "attacks": ("level3", *(name for name in FORMS if name.startswith("level3_"))),
}


def suite_forms(suite: str) -> list[Form]:
    """The forms of a suite, or of a list of suites and forms such as `fb,qa`, each once.

    Raises:
        UnknownNameError: No such suite or form.
    """
    names = [part.strip() for part in suite.split(",")]
    for name in names:
        if name not in SUITES and name not in FORMS:
            raise UnknownNameError("suite or form", name, [*SUITES, *FORMS], where="--suite")
    forms = [form for name in names for form in SUITES.get(name, (name,))]
    return [FORMS[name] for name in dict.fromkeys(forms)]
