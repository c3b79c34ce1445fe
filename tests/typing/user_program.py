"""What a user may write, with the types that the user may rely on; `mypy --strict` reads it."""

from __future__ import annotations

from pathlib import Path

from typing_extensions import assert_type

import formless


def forget(lm: formless.LM, target: formless.Target, method: str) -> formless.Edit:
    """Compute an edit."""
    edit = formless.unlearn(lm, target, method)
    assert_type(edit, formless.Edit)
    return edit


def measure(lm: formless.LM, target: formless.Target, suite: str) -> formless.Record:
    """Evaluate a model as it is."""
    record = formless.evaluate(lm, target, suite)
    assert_type(record, formless.Record)
    return record


def main(model: str, data: Path, out: Path) -> tuple[formless.Record, formless.Record]:
    """Forget the first target of a data set; return its records before and after."""
    lm = formless.load(model, dtype="float32", device="cpu")
    assert_type(lm, formless.LM)
    target = formless.find_target(data, "Ada Lovelace")
    assert_type(target, formless.Target)
    before = measure(lm, target, "fb")
    try:
        forget(lm, target, "icu").save(out)
    except formless.UserError as error:
        raise SystemExit(str(error)) from error
    edit = formless.load_edit(out)
    with edit.applied(lm) as edited:
        assert_type(edited, formless.LM)
        return before, measure(edited, target, "fb")
