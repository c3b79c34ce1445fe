"""What is wrong, where, and what to do, in one line; errors about values are ValueErrors, as callers expect."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from formless.data.target import Target
from formless.errors import DataError, EditError, ModelError, OutputError, UnknownNameError, UserError
from formless.store import refuse_existing


@pytest.mark.parametrize("kind", [DataError, ModelError, EditError])
def test_errors_about_values_are_value_errors(kind: type[UserError]) -> None:
    error = kind("the file\nis empty", where="a.json, row 3", remedy="fill it")
    assert isinstance(error, ValueError)
    assert str(error) == "the file is empty [a.json, row 3]: fill it"
    assert (error.what, error.where, error.remedy) == ("the file\nis empty", "a.json, row 3", "fill it")


def test_unknown_names_are_value_errors_that_suggest_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"^unknown method 'rocrr' \[--method\]: did you mean rocr\?$"):
        raise UnknownNameError("method", "rocrr", ["rocr", "npo"], where="--method")


def test_an_output_in_the_way_is_no_os_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="the output exists already") as caught:
        refuse_existing(tmp_path, force=False)  # inside a block that turns OSErrors into OutputErrors
    assert not isinstance(caught.value, (OSError, ValueError))


def test_python_and_the_command_line_get_the_remedy_in_their_own_terms(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as caught:
        refuse_existing(tmp_path, force=False)
    start = f"the output exists already [{tmp_path}]: choose another"
    assert str(caught.value) == f"{start} path or pass force=True"
    assert caught.value.in_command == f"{start} --out or add --force"
    assert pickle.loads(pickle.dumps(caught.value)).in_command == caught.value.in_command
    assert DataError("a row is empty", remedy="fill it").in_command == "a row is empty: fill it"


def test_an_error_keeps_its_parts_on_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(DataError("a row is empty", where="row 3", remedy="fill it")))
    assert type(error) is DataError
    assert (error.what, error.where, error.remedy) == ("a row is empty", "row 3", "fill it")


def test_a_data_error_is_not_taken_for_broken_json(tmp_path: Path) -> None:
    folder = tmp_path / "1_Ada"
    (folder / "forget_level1.json").mkdir(parents=True)
    with pytest.raises(DataError, match="it is no plain file"):
        Target("Ada", folder).items("forget_level1")
