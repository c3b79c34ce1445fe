"""`formless eval`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from formless import store
from formless.cli import completion, terminal
from formless.errors import ModelError, UnknownNameError, UserError

if TYPE_CHECKING:
    from formless.evaluation.record import Record

_VALUES = "Values are probabilities of the right answer where no other metric is named."


def eval_command(
    target: Annotated[
        str,
        typer.Option(
            "--target", "-t", help="Folder name, subject or number in the data set.", autocompletion=completion.targets
        ),
    ],
    model: terminal.ModelOption = "smollm2",
    edit: Annotated[
        Path | None,
        typer.Option(help="A saved edit, a PEFT adapter or an edited model; else the original is measured."),
    ] = None,
    strength: Annotated[float | None, typer.Option(help="With --edit: a factor on its updates, 0 to 4.")] = None,
    data: Annotated[str, typer.Option(help="A folder in the ORT layout, or 'sample'.")] = "sample",
    suite: Annotated[
        str, typer.Option(help="ort, rwku, full, quick, or parts such as forms,mentions,fb.", autocompletion=completion.suites)
    ] = "ort",
    limit: Annotated[int | None, typer.Option(min=1, help="Most rows per file and task, for a quick look.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The record to write, JSON.")] = None,
    report: Annotated[Path | None, typer.Option(help="With --edit: an HTML report to write.")] = None,
    direct_answer: Annotated[
        bool | None, typer.Option("--direct-answer/--no-direct-answer", help="The direct-answer line; by family unless given.")
    ] = None,
    sub_token: Annotated[
        str | None, typer.Option(help="Letter by letter zero-shot or one-shot; by family unless given.")
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(help="'published' or 'open-unlearning': ask as that code does where it differs."),
    ] = None,
    retain_model: Annotated[
        str | None,
        typer.Option(
            help="A model trained without the forget set, or a record of it (.json), to compare with.",
            autocompletion=completion.models,
        ),
    ] = None,
    lm_eval: Annotated[
        str | None, typer.Option("--lm-eval", help="Also run tasks of lm-evaluation-harness, hellaswag,arc_easy.")
    ] = None,
    lm_eval_tasks: Annotated[
        Path | None, typer.Option("--lm-eval-tasks", help="With --lm-eval: a folder with more of its tasks.")
    ] = None,
    lm_eval_batch: Annotated[int, typer.Option("--lm-eval-batch", min=1, help="With --lm-eval: texts in one batch.")] = 8,
    force: terminal.ForceOption = False,
    json: terminal.JsonOption = False,
    dtype: terminal.DtypeOption = "auto",
    device: terminal.DeviceOption = "auto",
    trust_remote_code: terminal.TrustOption = False,
) -> None:
    """Measure a model on a target, before and after an edit.

    Example: formless eval --edit edits/einstein --target "Albert Einstein" --out einstein.json --report einstein.html

    Example: formless eval --edit edits/einstein --target "Albert Einstein" --lm-eval hellaswag,arc_easy --limit 100
    """
    from formless.data.ort import find_target
    from formless.edits.edit import refuse_other_shapes, was_made_for
    from formless.edits.loading import load_edit
    from formless.evaluation.evaluate import refuse_other_questions, with_derived
    from formless.evaluation.harness.run import load_harness
    from formless.evaluation.plan import make_plan
    from formless.experiment.measure import measure_edit, original_record
    from formless.models.settings import prompt_style
    from formless.report.as_json import edit_json
    from formless.report.comparison import compare
    from formless.report.form_tables import independence_table
    from formless.report.independence import independence
    from formless.report.mentions import comparison_maps
    from formless.report.page import write_report
    from formless.report.tables import comparison_tables, record_tables
    from formless.report.verdict import verdict

    if report and not edit:
        raise UserError("a report compares an edit with the original", where="--report", remedy="give --edit too")
    if strength is not None and not edit:
        raise UserError("a strength is that of an edit", where="--strength", remedy="give --edit too")
    if lm_eval_tasks and not lm_eval:
        raise UserError("a folder of tasks, and none is named", where="--lm-eval-tasks", remedy="name tasks with --lm-eval")
    if out and report and out.resolve() == report.resolve():
        raise UserError("record and report have the same path", where="--report", remedy="choose another")
    for path in (out, report):
        if path:
            store.refuse_existing(path, force=force)
    found = find_target(data, target)
    make_plan(found, suite, limit)  # a broken file stops here, before the model is loaded
    loaded = load_edit(edit) if edit else None
    if loaded and strength is not None:
        loaded = loaded.scaled(strength)
    harness = None
    if lm_eval:
        with terminal.progress("lm-eval") as bar:
            harness = load_harness(lm_eval, lm_eval_tasks, limit=limit, batch_size=lm_eval_batch, report=bar)
    check = partial(refuse_other_shapes, edit=loaded) if loaded else None
    given = {"direct_answer": direct_answer, "sub_token": sub_token, "protocol": protocol}
    changes = {name: value for name, value in given.items() if value is not None}
    excluded = loaded.info.trained_neighbors if loaded else ()
    retained = None
    if retain_model:
        measured = partial(
            original_record, target=found, suite=suite, limit=limit, excluded_neighbors=excluded
        )  # before the other model is loaded: two may not fit into memory
        retained = _retain_record(retain_model, model, changes, suite, measured, (dtype, device, trust_remote_code))
    lm = terminal.load_model(model, dtype, device, trust_remote_code, check)
    lm.style = prompt_style(lm.style, changes)
    if retained:
        digest = make_plan(found, suite, limit, excluded_neighbors=excluded).digest(lm)
        refuse_other_questions(retained, digest, "--retain-model")
    terminal.announce_absent([found], suite)
    with terminal.progress(found.subject) as bar:
        if loaded:
            outcome = measure_edit(lm, loaded, found, suite, limit=limit, progress=bar)
        original = outcome.original if loaded else original_record(lm, found, suite, limit=limit, progress=bar)
        edited = outcome.edited if loaded else None
        if retained:
            original, edited = with_derived(original, retained), with_derived(edited, retained) if edited else None
        if harness:
            original = harness.added(lm, original, bar)
        if harness and loaded and edited:
            with loaded.applied(lm):
                edited = harness.added(lm, edited, bar)
    if loaded and loaded.info.subjects and not was_made_for(loaded.info.model_dump(), found.subject):
        others = ", ".join(loaded.info.subjects)
        terminal.log.print(f"warning: the edit was made for {others}, not for {found.subject}", soft_wrap=True)
    if out:
        (edited or original).save(out)
    if report and edited:
        with terminal.progress("report"):
            write_report(report, original, edited, command=shlex.join(["formless", *sys.argv[1:]]))
    title = f"{found.subject}, {lm.name}" + (f", strength {loaded.info.strength:g}" if loaded and strength is not None else "")
    for name, path in (("record", out), ("report", report)) if json else ():
        if path:
            terminal.say(f"{name}: {path}", json=True)
    if json:
        terminal.print_json(edit_json(original, edited))
        return
    if edited:
        comparison = compare(original, edited)
        terminal.out.print(str(verdict(original, edited)), soft_wrap=True)
        terminal.out.print(_VALUES, soft_wrap=True)
        terminal.show_tables(comparison_tables(comparison, title))
        terminal.show_tables(found.table() for found in comparison_maps(comparison))
        terminal.show_table(independence_table(independence([(original, edited)]), "form independence"))
    else:
        terminal.out.print(_VALUES, soft_wrap=True)
        terminal.show_tables(record_tables(original, title))
    for source in (result.harness for result in original.tasks if result.harness):
        terminal.out.print(str(source), soft_wrap=True)
    terminal.show_absent(edited or original)
    for name, path in (("record", out), ("report", report)):
        if path:
            terminal.out.print(f"{name}: {path}", soft_wrap=True)


def _retain_record(
    name: str,
    model: str,
    changes: dict[str, Any],
    suite: str,
    measured: Callable[..., Record],
    loading: tuple[str, str, bool],
) -> Record:
    """Return the record of the retain model: read it, or evaluate the model as the other one will be.

    Raises:
        UserError: No task of the suite compares with it, it is of another architecture, or it cannot be loaded.
    """
    from formless.evaluation.loading import load_record
    from formless.evaluation.suites import suite_tasks
    from formless.models.meta import load_meta, refuse_other_architecture
    from formless.models.settings import default_style, find_model, prompt_style

    option = "--retain-model"
    if not any(task.derive for task in suite_tasks(suite)):
        raise UserError(f"no task of {suite} compares with a retain model", where=option, remedy="leave it out")
    dtype, device, trust = loading
    meta = load_meta(model, dtype=dtype, trust_remote_code=trust)
    if Path(name).suffix == ".json":
        record, family = load_record(Path(name)), str(meta.model.config.model_type)
        if record.model_type != family:
            what = f"the retain model is of another architecture: its family is {record.model_type}, not {family}"
            raise ModelError(what, where=name, remedy="give the record of a model that was trained from the same one")
        return record
    try:
        find_model(name)
    except UnknownNameError as error:
        raise UserError(error.what, where=option, remedy=error.remedy) from error
    refuse_other_architecture(meta, load_meta(name, dtype=dtype, trust_remote_code=trust))
    lm = terminal.load_model(name, dtype, device, trust)
    own = meta.settings.prompt or default_style(str(meta.model.config.model_type))
    lm.style = prompt_style(own, changes)  # the same questions, whatever the settings of the retain model are
    with terminal.progress("retain model") as bar:
        return measured(lm, progress=bar)
