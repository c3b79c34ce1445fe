"""Read the YAML that users write: a key that is given twice is an error, and every error is a `yaml.YAMLError`."""

from __future__ import annotations

from typing import Any

import yaml

_MAX_BITS = 4096


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which keeps the last of two equal keys, without that habit."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping.

        Raises:
            ConstructorError: A key is given twice.
        """
        if isinstance(node, yaml.MappingNode):
            seen: set[tuple[str, str]] = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                    continue
                if (key.tag, key.value) in seen:
                    problem = f"the key {key.value!r} is given twice"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def _whole_number(loader: _Loader, node: yaml.ScalarNode) -> int:
    """Return a whole number; one of thousands of digits, as hexadecimal ones may have, could not even be shown."""
    number = loader.construct_yaml_int(node)
    if number.bit_length() > _MAX_BITS:
        raise yaml.constructor.ConstructorError(None, None, "a number has thousands of digits", node.start_mark)
    return number


_Loader.add_constructor("tag:yaml.org,2002:int", _whole_number)


def load_yaml(text: str) -> Any:
    """Return the one document of a YAML text, as `yaml.safe_load` does.

    Raises:
        YAMLError: The text is not YAML, a key is given twice, a value is none of its type, or brackets nest too deeply.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply") from error
    except (ValueError, TypeError, AttributeError, KeyError) as error:  # a date that is none, a number of thousands of digits
        raise yaml.YAMLError(str(error).splitlines()[0] if str(error) else "a value cannot be read") from error
