"""JSON that users write: nothing is dropped in silence, and every fault is one kind of error."""

import json

import pytest

from formless.strict_json import load_json


@pytest.mark.parametrize("text", ['{"a": 1, "b": 2, "a": 3}', '[{"x": {"k": 1, "k": 1}}]', b'{"a": 1, "\\u0061": 2}'])
def test_a_key_given_twice_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError, match="the key '[ak]' is given twice"):
        load_json(text)


def test_everything_else_is_read_as_ever() -> None:
    text = '{"a": [1, 2.5, null, true, "\\u00e9"], "b": {"a": {}}}'
    assert load_json(text) == load_json(text.encode()) == json.loads(text)


@pytest.mark.parametrize("text", ["", "[" * 100_000, "9" * 5000, b"\xff", b"\0", "{'a': 1}"])
def test_what_cannot_be_read_is_one_kind_of_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        load_json(text)
