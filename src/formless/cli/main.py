"""The `formless` command. Its modules import torch and its like inside the functions that need them."""

from __future__ import annotations

import sys
import tempfile
import traceback
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import typer
from typer.exceptions import TyperException

from formless import __version__
from formless.cli import terminal
from formless.cli.attack import attack_command
from formless.cli.chat import chat_command
from formless.cli.data import (
    aliases_command,
    check_command,
    edit_questions_command,
    forms_command,
    new_command,
    prepare_command,
    train_command,
)
from formless.cli.demo import demo_command
from formless.cli.doctor import doctor_command
from formless.cli.evaluate import eval_command
from formless.cli.export import export_command
from formless.cli.export_tasks import export_tasks_command
from formless.cli.finetune import finetune_command
from formless.cli.frontier import frontier_command
from formless.cli.import_questions import import_command
from formless.cli.listings import methods_command, models_command
from formless.cli.playground import playground_command
from formless.cli.probe import probe_command
from formless.cli.results import compare_command, report_command, summarize_command
from formless.cli.run import run_command
from formless.cli.stats import stats_command
from formless.cli.status import status_command
from formless.cli.targets import targets_command
from formless.cli.tune import tune_command
from formless.cli.unlearn import unlearn_command
from formless.errors import DEFECT, UserError, system_remedy, unencodable_name

INTRODUCTION = """Make a language model forget a concept, and measure what it still tells in each form of question.

Start with: formless demo

    formless unlearn --target "Albert Einstein" --out edits/einstein

    formless eval --edit edits/einstein --target "Albert Einstein" --report einstein.html

    formless probe --edit edits/einstein --target "Albert Einstein"

    formless chat --edit edits/einstein "Who was Albert Einstein?"

    formless export edits/einstein --to merged --out models/without_einstein

    formless run sample --targets 1-2 --out runs/first

    formless status runs/first

    formless report runs/first

    formless frontier runs/first

    formless attack runs/first

    formless stats --model MODEL --corpus wiki.txt --out stats/mine

    formless tune --model MODEL --out tuned

    formless data new --target "Ada Lovelace" --facts facts.csv --out my_data

    formless doctor --model MODEL

    formless playground
"""

# How torch's allocators, and the system through libraries, say that there is no memory.
_NO_MEMORY = ("can't allocate memory", "cannot allocate memory", "out of memory", "failed to map segment")

app = typer.Typer(pretty_exceptions_enable=False)


def _show_version(asked: bool) -> None:
    if asked:
        terminal.out.print(f"formless {__version__}")
        sys.stdout.flush()  # the rest asks git
        from formless.provenance import environment

        for name, found in environment().items():
            if name != "formless":
                terminal.out.print(f"{name} {found}", soft_wrap=True)
        raise typer.Exit


@app.callback(help=INTRODUCTION)
def _formless(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show versions, for a bug report.")
    ] = False,
) -> None:
    """Take the options that stand before a command."""


app.command("unlearn")(unlearn_command)
app.command("eval")(eval_command)
app.command("probe")(probe_command)
app.command("export-tasks")(export_tasks_command)
app.command("run")(run_command)
app.command("status")(status_command)
app.command("summarize")(summarize_command)
app.command("report")(report_command)
app.command("compare")(compare_command)
app.command("frontier")(frontier_command)
app.command("attack")(attack_command)
app.command("stats")(stats_command)
app.command("tune")(tune_command)
app.command("finetune")(finetune_command)
app.command("chat")(chat_command)
app.command("export")(export_command)
app.command("playground")(playground_command)
app.command("demo")(demo_command)
app.command("models")(models_command)
app.command("methods")(methods_command)
app.command("targets")(targets_command)
app.command("doctor")(doctor_command)

data_app = typer.Typer(help="Prepare, make and check the data that targets are measured and trained with.")
data_app.command("prepare")(prepare_command)
data_app.command("forms")(forms_command)
data_app.command("train")(train_command)
data_app.command("aliases")(aliases_command)
data_app.command("edit-questions")(edit_questions_command)
data_app.command("new")(new_command)
data_app.command("import")(import_command)
data_app.command("check")(check_command)
app.add_typer(data_app, name="data")


def main() -> None:
    """Run a command.

    A mistake of the user ends in one line and exit code 2, a defect of this package in one line and exit code 70, Ctrl-C in
    exit code 130.
    """
    arguments = sys.argv[1:] or ["--help"]
    command = " ".join(["formless", *arguments[: 2 if arguments[0] == "data" else 1]])
    try:
        _check_arguments(arguments)
        code = app(arguments, standalone_mode=False)
    except UserError as error:
        code = _refuse(error.in_command)
    except TyperException as error:
        code = _refuse(f"{error.format_message()} See `formless --help`.")
    except OSError as error:
        what = f"{error.strerror or error}, while `{command}` was running"
        remedy = system_remedy(error) or "check that it can be used"
        code = _refuse(str(UserError(what, where=error.filename, remedy=remedy)))
    except Exception as error:  # the outer net: what reaches it, nobody foresaw
        code = _report_defect(error) if (known := _circumstance(error, command)) is None else _refuse(str(known))
    sys.exit(code)


def _check_arguments(arguments: Sequence[str]) -> None:
    """Refuse what no command can use.

    An empty value, such as a shell's variable that is not set, would be the current folder as a path. A name that is not UTF-8
    cannot stand in a record, and libraries do not open it.

    Raises:
        UserError: An argument or an option's value is blank or not UTF-8.
    """
    for before, argument in pairwise(["", *arguments]):
        name, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
        if not value.strip() and (equals or not name):
            option = name or (before if before.startswith("-") else "")
            what = f"the value of {option} is empty" if option else "an argument is empty"
            raise UserError(what, remedy="give one, or leave it out")
        if argument != _printable(argument):
            is_utf_8 = sys.getfilesystemencoding() == "utf-8"
            remedy = "rename the file or folder, or correct the text" if is_utf_8 else "set LC_ALL=C.UTF-8 or PYTHONUTF8=1"
            raise UserError("an argument is not UTF-8", where=argument, remedy=remedy)


def _refuse(message: str) -> int:
    """Print one line on standard error and return the exit code of a user's mistake."""
    _print_error(message)
    return 2


def _circumstance(error: Exception, command: str) -> UserError | None:
    """Return the message about an error for which the surroundings are to blame; None if that is not known.

    That memory has run out is said in the words of Python, torch or the system's loader.
    """
    if isinstance(error, MemoryError) or any(words in str(error).lower() for words in _NO_MEMORY):
        remedy = "free memory, or choose a smaller model, file or setting, or --dtype bfloat16"
        return UserError("memory runs out", where=command, remedy=remedy)
    encoding = sys.getfilesystemencoding()
    if isinstance(error, UnicodeEncodeError) and error.encoding == encoding != "utf-8":
        return unencodable_name(error)
    return None


def _report_defect(error: Exception) -> int:
    """Print one line about an error that nobody foresaw, keep its traceback in a file, and return the exit code."""
    trace = _printable("".join(traceback.format_exception(error)))
    try:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", prefix="formless-", suffix=".txt", delete=False) as file:
            file.write(trace)
        advice = f"please report it with {file.name}"
    except OSError:  # no space for a file either
        sys.stderr.write(trace)
        advice = "please report it with the lines above"
    _print_error(f"this is a defect of Formless ({type(error).__name__}: {error}); {advice}")
    return DEFECT


def _print_error(message: str) -> None:
    terminal.log.print(_printable(f"error: {' '.join(message.split())}"), style="red", soft_wrap=True)


def _printable(text: str) -> str:
    """Return a text with lone surrogates, as in names of files that are no UTF-8, written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
