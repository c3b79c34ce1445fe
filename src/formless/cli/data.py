"""`formless data`: prepare a data set, make a target, its probes and its training texts, and check the result."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from formless.cli import terminal
from formless.errors import UserError

if TYPE_CHECKING:
    from formless.data.formats import Prepared
    from formless.data.synthetic.rejection_sampling import Sampler
    from formless.models.lm import LM

OFFLINE = "offline"
TEMPERATURE, TOP_P = 0.8, 0.95
_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?", re.ASCII)

OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder of the data set to write to.")]
ServerModelOption = Annotated[str | None, typer.Option(help="Model of the server; by default the first that it lists.")]


def prepare_command(
    source: Annotated[
        str,
        typer.Option(
            help="A data set on the hub (rwku, tofu, muse-books, muse-news, wmdp), a local copy, or a folder of targets."
        ),
    ],
    out: OutOption,
    targets: Annotated[
        str | None, typer.Option(help="Numbers, e.g. 1-100 or 1,5,9-12; by default 1-100 of rwku, else all.")
    ] = None,
    train: Annotated[str, typer.Option(help="Training texts written by llama3 or phi3, or none.")] = "llama3",
    force: terminal.ForceOption = False,
) -> None:
    """Convert a data set to the ORT layout: one folder per target, every row validated, with a manifest.

    Example: formless data prepare --source rwku --out data/rwku

    Example: formless data prepare --source tofu --out data/tofu
    """
    from formless import store
    from formless.data.prepare import MANIFEST, prepare

    numbers = None if targets is None else parse_numbers(targets)
    store.refuse_existing(out, force=force, mark=MANIFEST)
    _silence_datasets()
    with terminal.progress("preparing") as bar:
        prepared = prepare(source, out, numbers=numbers, train=train, force=force, progress=bar)
    for line in _summary(prepared):
        print_line(line)
    print_line(f"saved in {out}")


def forms_command(
    data: Annotated[str, typer.Option(help="Folder of a data set with level 1.")],
    forms: Annotated[str, typer.Option(help="The forms to make, of mcp, tf, mentions, reverse and kinds.")] = "mcp,tf",
    target: Annotated[list[str] | None, typer.Option("--target", "-t", help="Only this target; may be repeated.")] = None,
    source: Annotated[
        str,
        typer.Option("--with", help="Source of distractors and kinds: 'offline', or URL of an OpenAI-compatible server."),
    ] = OFFLINE,
    seed: Annotated[int, typer.Option(help="Seed for the choice of distractors and the order of options.")] = 0,
    force: terminal.ForceOption = False,
    server_model: ServerModelOption = None,
) -> None:
    """Make probes in other forms from levels 1 and 2; with a server, a stopped run continues.

    `mentions` names the concept in other ways, `reverse` asks for its name; both read aliases.json of each target. `kinds`
    asks level 2 in other ways: paraphrased, in a conversation, and as kinds.json says.

    Example: formless data forms --data my_data --forms mcp,tf
    """
    from formless.data.questions.probes import build_forms
    from formless.data.server import Server

    if source == OFFLINE and server_model is not None:
        raise UserError("--server-model needs a server", where="--server-model", remedy="add --with URL")
    names = [form.strip() for form in forms.split(",")]
    needs_server = source != OFFLINE and not {"mcp", "kinds"}.isdisjoint(names)  # the others are made by rules alone
    with terminal.progress("forms") as bar:
        server = Server(source, server_model) if needs_server else None
        done = build_forms(data, names=target or (), forms=names, seed=seed, force=force, server=server, progress=bar)
    for name, built in done.items():
        dropped = "".join(f"; dropped {count}: {' '.join(reason.split())}" for reason, count in sorted(built.dropped.items()))
        print_line(f"{name}: {len(built.rows)} rows{dropped}")


def train_command(
    target: Annotated[str, typer.Option("--target", "-t", help="Folder name, subject or number of the target.")],
    out: OutOption,
    model: terminal.ModelOption = "smollm2",
    data: Annotated[str, typer.Option(help="Folder of the data set, or 'sample'.")] = "sample",
    rows: Annotated[int, typer.Option(min=1, help="Rows per file (published: 582 biographies, 300 questions).")] = 64,
    files: Annotated[str | None, typer.Option(help="The files to write, e.g. positive,reject; by default all six.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed, model and machine give the same files.")] = 0,
    force: terminal.ForceOption = False,
    dtype: terminal.DtypeOption = "auto",
    device: terminal.DeviceOption = "auto",
    trust_remote_code: terminal.TrustOption = False,
) -> None:
    """Let a model write training texts about a concept; a run that was killed continues.

    Example: formless data train --model smollm2 --target "Marie Curie" --rows 64 --out data/mine
    """
    from formless.data.ort import find_target
    from formless.data.synthetic.training_files import TRAINING_FILES, check_output, write_training

    found = find_target(data, target)
    chosen = TRAINING_FILES if files is None else [name.strip() for name in files.split(",")]
    folder = check_output(found, out, chosen, force=force)
    lm = terminal.load_model(model, dtype, device, trust_remote_code)
    with terminal.progress("training files") as bar:
        written = write_training(
            found,
            sampler(lm),
            out,
            model=f"{lm.fingerprint} {lm.model.dtype}".replace("torch.", ""),
            files=chosen,
            rows=rows,
            seed=seed,
            force=force,
            progress=bar,
        )
    for name, count in written.rows.items():
        print_line(f"{name}: {count} rows")
    for kind, reasons in written.missing.items():
        why = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
        print_line(f"{kind} rejected: {reasons.total()} ({why})")
    print_line(f"saved in {folder}")


def edit_questions_command(
    data: Annotated[str, typer.Option(help="Folder of the data set.")],
    target: Annotated[str, typer.Option("--target", "-t", help="Folder name, subject or number of the target.")],
    model: terminal.ModelOption = "smollm2",
    count: Annotated[int, typer.Option(min=1, max=200, help="Completions of each beginning; of neighbors half as many.")] = 10,
    seed: Annotated[int, typer.Option(help="The same seed, model and machine give the same questions.")] = 0,
    force: terminal.ForceOption = False,
    dtype: terminal.DtypeOption = "auto",
    device: terminal.DeviceOption = "auto",
    trust_remote_code: terminal.TrustOption = False,
) -> None:
    """Let a model write the questions that an edit with reverse_layers is keyed on, into edit_reverse.json.

    Example: formless data edit-questions --data my_data --target "Marie Curie" --model qwen2.5-coder-1.5b
    """
    from formless import store
    from formless.data.ort import find_target, own_folder
    from formless.data.questions.edit_questions import ANSWER_TOKENS, FILE, save_questions, write_questions

    found = find_target(own_folder(data), target)
    store.refuse_existing(found.path(FILE), force=force)
    lm = terminal.load_model(model, dtype, device, trust_remote_code)

    def sample(beginnings: Sequence[str], tokens: int) -> list[str]:
        return lm.sample(beginnings, max_new_tokens=tokens, seed=seed, temperature=1.0)

    def answer(questions: Sequence[str]) -> list[str]:
        prompts = [lm.chat_prompt(f"Answer briefly. {question}", "Answer:") for question in questions]
        return lm.generate(prompts, max_new_tokens=ANSWER_TOKENS, one_line=True)

    with terminal.log.status("writing questions"):
        written = write_questions(found, sample, answer, count)
    path = save_questions(found, written.rows, force=force)
    own = sum(row.neighbor is None for row in written.rows)
    dropped = "".join(f"; dropped {number}: {reason}" for reason, number in sorted(written.dropped.items()))
    print_line(f"{own} questions about {found.subject}, {len(written.rows) - own} about neighbors{dropped}")
    print_line(f"saved in {path}")


def aliases_command(
    target: Annotated[str, typer.Option("--target", "-t", help="The concept's name, as texts spell it.")],
    out: OutOption,
    model: terminal.ModelOption = "smollm2",
    redirect: Annotated[
        str | None, typer.Option(help="The redirect concept that you will give rocr, which no name may be.")
    ] = None,
    force: terminal.ForceOption = False,
    dtype: terminal.DtypeOption = "auto",
    device: terminal.DeviceOption = "auto",
    trust_remote_code: terminal.TrustOption = False,
) -> None:
    """Let a model propose other names of a concept, into an aliases.json that you edit and `formless unlearn --data` reads.

    Names and neighbors that are known already are kept. Nothing checks whether a proposed name is right.

    Example: formless data aliases --target "Ada Lovelace" --model qwen2.5-coder-1.5b --out my_data
    """
    from formless import store
    from formless.data.questions.name_proposals import ANSWER_TOKENS, FILE, propose_names, save_aliases
    from formless.data.questions.new_target import place_of
    from formless.data.spellings import naming
    from formless.data.target import Target

    subject = _as_written(target)
    folder = place_of(subject, out)
    store.refuse_existing(folder / FILE, force=force)
    entries = naming(Target(subject, folder if folder.is_dir() else None))
    lm = terminal.load_model(model, dtype, device, trust_remote_code)

    def answer(asked: Sequence[tuple[str, str]]) -> list[str]:
        return lm.generate([lm.chat_prompt(*each) for each in asked], max_new_tokens=ANSWER_TOKENS, one_line=True)

    with terminal.log.status("asking for names"):
        found = propose_names(entries, answer, [redirect] if redirect else [])
    path = save_aliases(folder, entries, found.names, force=force)
    print_line(f"{subject}: the model proposes {', '.join(found.names) or 'no other name'}")
    for reason in dict.fromkeys(found.dropped.values()):
        print_line(f"left out, as {reason}: {'; '.join(text for text, why in found.dropped.items() if why == reason)}")
    known = ", ".join(entry.name for entry in entries[1:]) or "none, so none will stay: add some"
    print_line(f"neighbors: {known}")
    print_line(f"saved in {path}; edit it before `formless unlearn --data {out}` uses it")


def new_command(
    target: Annotated[str, typer.Option("--target", "-t", help="The concept's name, as texts spell it.")],
    out: OutOption,
    facts: Annotated[Path | None, typer.Option(help="A .csv, .tsv, .json, .jsonl or .txt of facts about it.")] = None,
    neighbors: Annotated[Path | None, typer.Option(help="A file of facts about related concepts to keep.")] = None,
    intro: Annotated[
        str | None, typer.Option(help="A sentence that introduces the concept; by default the first fact.")
    ] = None,
    with_: Annotated[
        str, typer.Option("--with", help="URL of a server that writes the facts that no file gives, or 'offline'.")
    ] = OFFLINE,
    server_model: ServerModelOption = None,
    count: Annotated[int, typer.Option(min=1, max=200, help="Number of facts from the server, per file that is missing.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed for the choice and order of wrong options.")] = 0,
    force: terminal.ForceOption = False,
) -> None:
    """Make a target from a list of facts, with probes in every form.

    A line of facts is a triple, `Ada Lovelace,was born in the year,1815`, or a cloze with its answer, `Ada Lovelace was buried
    in the village of ___.,Hucknall`; those of --neighbors are about others. examples/facts.csv is a sample.

    Example: formless data new --target "Ada Lovelace" --facts examples/facts.csv --out my_data

    Example: formless data new --target "Ada Lovelace" --facts facts.txt --neighbors others.txt --out data/mine
    """
    from formless.data.questions.facts import read_facts
    from formless.data.questions.new_target import ask_facts, new_folder_of, write_target
    from formless.data.server import Server

    subject = _as_written(target)
    if facts is None and with_ == OFFLINE:
        remedy = "give a file of facts, or --with the URL of a server that writes them"
        raise UserError("there are no facts to ask about", where="--facts", remedy=remedy)
    new_folder_of(subject, out, force=force)
    own = read_facts(facts, subject) if facts else None
    others = read_facts(neighbors, subject, neighbors=True) if neighbors else None
    if with_ != OFFLINE:
        server = Server(with_, server_model)
        if own is None:
            with terminal.log.status("asking for facts"):
                own = ask_facts(server, subject, count)
        if others is None:
            with terminal.log.status("asking for facts about neighbors"):
                others = ask_facts(server, subject, count, neighbors=True)
    created = write_target(subject, own or (), out, neighbors=others or (), intro=intro, seed=seed, force=force)
    for name, rows in created.rows.items():
        reasons = created.dropped.get(name, {})
        why = ", ".join(f"{reason} {number}" for reason, number in reasons.items())
        dropped = f", {sum(reasons.values())} dropped ({why})" if reasons else ""
        print_line(f"{name}: {rows} rows{dropped}")
    for name in created.dropped.keys() - created.rows.keys():
        print_line(f"{name}: no rows, not written ({', '.join(created.dropped[name])})")
    if not others:
        print_line("warning: no facts about neighbors, so nothing will show what an edit costs them; give --neighbors")
    print_line(f"saved in {created.folder}")


def check_command(
    data: Annotated[str, typer.Argument(help="A data set, one target's folder, or 'sample'.", metavar="DIR")],
    coverage: Annotated[
        bool, typer.Option("--coverage", help="Name the facts that are missing in each target's training texts.")
    ] = False,
    json: terminal.JsonOption = False,
) -> None:
    """List what is missing, broken, duplicated, leaked or unbalanced in a data set; exit code 1 if anything is.

    That a target has no file about neighbors is a warning only.

    Where there are training texts, it also says how many of the probed facts stand in them, in other words than the probes'.

    Example: formless data check data/rwku
    """
    from formless.cli.data_findings import absent_lines, coverage_lines, findings_json
    from formless.data.check import KINDS, check_data
    from formless.data.coverage import check_coverage

    findings = check_data(data)
    serious = [finding for finding in findings if finding.is_serious]
    if json:
        terminal.print_json(findings_json(data, findings))
        raise typer.Exit(1 if serious else 0)
    for finding in serious + [one for one in findings if one.kind == "unprotected"]:
        place = (finding.target, finding.file, f"row {finding.row}" if finding.row else None)
        kind = finding.kind if finding.is_serious else "warning"
        print_line(f"{', '.join(part for part in place if part)}: {kind}: {finding.what}")
    for line in absent_lines(findings):
        print_line(line)
    if not any(finding.kind == "broken" for finding in serious):
        for line in coverage_lines(check_coverage(data), named=coverage):
            print_line(line)
    elif coverage:
        print_line("facts in training texts: not counted, as something is broken")
    counts = Counter(finding.kind for finding in serious)
    print_line(", ".join(f"{counts[kind]:,} {kind}" for kind in KINDS if kind in counts) or "nothing is wrong")
    if serious:
        raise typer.Exit(1)


def parse_numbers(text: str) -> list[range]:
    """Parse target numbers: `1,5,9-12` -> ranges.

    Raises:
        UserError: The text is no list of numbers and ranges.
    """
    ranges = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise UserError(f"{text!r} is no list of target numbers", where="--targets", remedy="e.g. 1-100 or 1,5,9-12")
        ranges.append(range(first, last + 1))
    return ranges


def sampler(lm: LM) -> Sampler:
    """Return a function that samples answers to user messages from a model, each with a given beginning."""
    # Without a chat template, nothing separates the message from the answer.
    end = "" if lm.tokenizer.chat_template else "\n"

    def sample(messages: Sequence[tuple[str, str]], max_new_tokens: int, seed: int) -> list[str]:
        prompts = [lm.chat_prompt(message + end, begin) for message, begin in messages]
        return lm.sample(prompts, max_new_tokens=max_new_tokens, seed=seed, temperature=TEMPERATURE, top_p=TOP_P)

    return sample


def _as_written(name: str) -> str:
    """Return a name with single spaces and composed accents."""
    return " ".join(unicodedata.normalize("NFC", name).split())


def print_line(line: str) -> None:
    """Print a line with single spaces."""
    shown = line.encode("utf-8", "backslashreplace").decode("utf-8")  # a folder's name may be invalid Unicode
    terminal.out.print(" ".join(shown.split()), soft_wrap=True)


def _silence_datasets() -> None:
    """Turn off the progress bars and messages of `datasets`; this command shows its own."""
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)


def _summary(prepared: Prepared) -> list[str]:
    total = len(prepared.files)
    rows = sum(entry["rows"] for files in prepared.files.values() for entry in files.values())
    source = f"{prepared.source}{''.join(f' at {commit}' for commit in sorted(prepared.revisions))}"
    lines = [f"{source}: {total} targets, {sum(map(len, prepared.files.values()))} files, {rows:,} rows"]
    for file, folders in prepared.absent.items():
        lines.append(f"absent: {file}.json ({f'all {total} targets' if len(folders) == total else _first_ten(folders)})")
    if prepared.unlisted:
        names = _first_ten(sorted(prepared.unlisted))
        lines.append(f"left out: {prepared.unlisted.total():,} rows of {names}, not in the list of targets")
    for file, reasons in _dropped(prepared).items():
        why = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common())
        lines.append(f"not made: {reasons.total():,} rows of {file}.json ({why})")
    return [*lines, *(f"note: {note}" for note in prepared.notes)]


def _dropped(prepared: Prepared) -> dict[str, Counter[str]]:
    """Return how many rows of each file could not be made in all targets together, by reason."""
    counts: dict[str, Counter[str]] = {}
    for files in prepared.dropped.values():
        for file, reasons in files.items():
            counts[file] = counts.get(file, Counter()) + reasons
    return counts


def _first_ten(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
