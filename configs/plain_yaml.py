"""Reading YAML in which every value stays the text that was written: `007`, `12:30`, `yes` and `2026_11` are names.

YAML alone would make a number or a truth value of each of them. Here, only `null` (also `~`, or nothing) is no text.
Who reads a value knows its type and converts it.
"""

from __future__ import annotations

from typing import Any, ClassVar

import yaml
from omegaconf import OmegaConf
from yaml.constructor import ConstructorError, SafeConstructor

_STR, _NULL, _SEQ, _MAP, _MERGE = (f"tag:yaml.org,2002:{name}" for name in ("str", "null", "seq", "map", "merge"))


def to_yaml(settings: object) -> str:
    """Write an instance of a settings class as YAML."""
    return str(OmegaConf.to_yaml(OmegaConf.structured(settings)))


def parse_yaml(text: str) -> Any:
    """Return the content of a YAML document: text, None, and lists and dictionaries of these.

    Raises `yaml.YAMLError`, also if a mapping names a key twice, if a value contains itself, and for tags such as
    `!!int`.
    """
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply") from error
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without its guesses at types."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag in (_NULL, _MERGE)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:
        named: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConstructorError(None, None, "a key must be a text", key.start_mark)
            if key.value in named:
                raise ConstructorError(None, None, f"found duplicate key {key.value}", key.start_mark)
            named.add(key.value)
        self.flatten_mapping(node)
        return {key.value: self.construct_object(value, deep=True) for key, value in node.value}


_Loader.yaml_constructors = {
    None: SafeConstructor.construct_undefined,
    _STR: SafeConstructor.construct_yaml_str,
    _NULL: SafeConstructor.construct_yaml_null,
    _SEQ: SafeConstructor.construct_sequence,
    _MAP: _Loader.construct_mapping,
}
