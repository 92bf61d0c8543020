"""YAML written by people: PyYAML without the rules that misread it silently.

A duplicate key is an error, where PyYAML uses the last one. Numbers follow YAML 1.2: 012 is 12, not
octal, and 1:30 is text, not 90 in base 60.
"""

from __future__ import annotations

from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    "while constructing a mapping",
                    node.start_mark,
                    f"the key {key!r} is given twice",
                    key_node.start_mark,
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int | str:
    text = str(loader.construct_scalar(node))
    if ":" in text:
        return text
    return int(text) if text.isdecimal() else loader.construct_yaml_int(node)


def _number(loader: _Loader, node: yaml.ScalarNode) -> float | str:
    text = str(loader.construct_scalar(node))
    return text if ":" in text else loader.construct_yaml_float(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
_Loader.add_constructor("tag:yaml.org,2002:float", _number)


class _TextLoader(_Loader):
    # Scalars are strings as written: "no" is not False, and "012" is not 12.
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (so in PyYAML)


def parse_yaml(text: str, as_text: bool = False) -> Any:
    """Parse a YAML text; raises yaml.YAMLError, also for duplicate keys.

    Args:
        text: The YAML.
        as_text: Whether all scalars are strings, including those that look like numbers or "no".
    """
    return yaml.load(text, _TextLoader if as_text else _Loader)
