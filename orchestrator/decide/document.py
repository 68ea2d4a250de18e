"""Text of a sweep file -> plain values, with YAML's surprises taken out.

`1e-5` is a float (YAML 1.1 reads it as text), `12:30` and `2026-01-01` are text, and a key written twice is a mistake.
"""

import re
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node

from orchestrator.errors import Mistake

_FLOAT = re.compile(
    r"^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_INT = re.compile(r"^(?:[-+]?0b[0-1_]+|[-+]?0x[0-9a-fA-F_]+|[-+]?(?:0|[1-9][0-9_]*))$")


class _Loader(yaml.SafeLoader):
    """SafeLoader with numbers as people write them; remembers the keys written twice."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.twice: list[tuple[str, int, int]] = []

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        if isinstance(node, MappingNode):
            self._note_repeated_keys(node)
        return super().construct_mapping(node, deep=deep)

    def _note_repeated_keys(self, node: MappingNode) -> None:
        first: dict[str, int] = {}
        for key, _ in node.value:
            # A merge key may stand several times: each brings another mapping.
            if not isinstance(key.value, str) or key.tag == "tag:yaml.org,2002:merge":
                continue
            line = key.start_mark.line + 1
            if key.value in first:
                self.twice.append((key.value, first[key.value], line))
            else:
                first[key.value] = line


_RETYPED = {"tag:yaml.org,2002:float", "tag:yaml.org,2002:int", "tag:yaml.org,2002:timestamp"}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _RETYPED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))


def parse(text: str) -> tuple[dict[str, Any], list[Mistake]]:
    """The mapping that a sweep file holds, and what is wrong with its text (then the mapping may be empty)."""
    value, mistakes = _load(text)
    if mistakes:
        return (value if isinstance(value, dict) else {}), mistakes
    if value is None:
        return {}, [Mistake("", None, "the file is empty", "Start with `name:`, `model:` and `data:`.")]
    if not isinstance(value, dict):
        return {}, [
            Mistake("", value, "a sweep file is a mapping of keys", "Start with `name:`, `model:` and `data:`.")
        ]
    return value, []


def scalar(text: str) -> tuple[Any, list[Mistake]]:
    """The value that a `--set key=text` means, and what is wrong with it."""
    return _load(text)


def _load(text: str) -> tuple[Any, list[Mistake]]:
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        return None, [Mistake("", None, f"line {line}: the text holds a character that YAML does not allow")]
    try:
        node = loader.get_single_node()
        if node is None:
            return None, []
        if _contains_itself(node, set()):
            return None, [Mistake("", None, "an anchor (&name) contains itself", "Write the values out.")]
        value = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        return None, [Mistake("", None, _syntax(error))]
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        return None, [Mistake("", None, f"not valid YAML: {error}")]
    finally:
        loader.dispose()
    mistakes = [
        Mistake(key, None, f"line {line}: this key stands twice in one block", f"It is on line {first} too; keep one.")
        for key, first, line in dict.fromkeys(loader.twice)
    ]
    return value, mistakes


def _syntax(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    context = f" {error.context}" if error.context else ""
    return f"{place}not valid YAML: {error.problem or 'unreadable'}{context}"


def _contains_itself(node: Node, above: set[int]) -> bool:
    if id(node) in above:
        return True
    if isinstance(node, yaml.ScalarNode):
        return False
    children = [item for pair in node.value for item in pair] if isinstance(node, MappingNode) else node.value
    return any(_contains_itself(child, above | {id(node)}) for child in children)
