"""JSON in answers: read strictly or out of the text around it, and held against a JSON schema.

JSON is RFC 8259's: `NaN` and `Infinity`, which Python's parser takes, are none. A reference in a schema is looked up in
that schema alone, never on the network.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from evals._types import DataError

FENCE = re.compile(r"```[A-Za-z0-9_+-]*[ \t]*\r?\n(.*?)```", re.DOTALL)
"""A fenced block of Markdown; the group is what stands in it."""
OPENINGS = 64
"""Brackets at which a text is tried: a model that writes nothing else must not take minutes to judge."""


@dataclass(frozen=True)
class Found:
    """What reading an answer gave."""

    value: Any
    is_found: bool
    """False where there is no JSON; `value` is None then, as it is for the JSON `null`."""
    problem: str = ""
    """Why nothing was found."""


def whole(answer: str) -> Found:
    """The answer as one JSON value of any kind, with nothing but white space around it."""
    try:
        return Found(_parse(answer), True)
    except ValueError as error:
        return Found(None, False, f"is not JSON ({error})" if answer.strip() else "is empty")
    except RecursionError:
        return Found(None, False, "is nested too deeply to be read")


def first(answer: str) -> Found:
    """The answer as JSON if it is, else the first JSON object or array in it: in a fenced block, then anywhere.

    What follows it does not matter. Numbers and quoted words in a sentence are not taken for an answer in JSON.
    """
    strict = whole(answer)
    if strict.is_found:
        return strict
    for text in (*FENCE.findall(answer), answer):
        for value in _containers(text):
            return Found(value, True)
    return Found(None, False, "holds no JSON object or array")


def _containers(text: str) -> Iterator[Any]:
    decoder = json.JSONDecoder(parse_constant=_refuse)
    for match in islice(re.finditer(r"[{\[]", text), OPENINGS):
        try:
            yield decoder.raw_decode(text, match.start())[0]
        except (ValueError, RecursionError):
            continue


def _parse(text: str) -> Any:
    # Python's strip takes off more than JSON's white space, but no character that could stand in front of a value.
    return json.loads(text.strip(), parse_constant=_refuse)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON number")


class Schema:
    """A JSON schema in the draft that its `$schema` names, 2020-12 where it names none."""

    def __init__(self, content: Any, place: str) -> None:
        """Raises DataError where `content` is no schema; `place` names it in messages."""
        from jsonschema.exceptions import SchemaError
        from jsonschema.validators import Draft202012Validator, validator_for
        from referencing import Registry

        if not isinstance(content, dict | bool):
            raise DataError(f"{place}: a JSON schema is an object (got {type(content).__name__}).")
        kind: Any = validator_for(content, default=Draft202012Validator)
        try:
            kind.check_schema(content)
        except SchemaError as error:
            where = "/".join(map(str, error.absolute_path)) or "its top"
            raise DataError(f"{place}: is no JSON schema ({where}: {error.message}).") from error
        self._place = place
        self._validator = kind(content, registry=Registry())

    def problem(self, value: Any) -> str:
        """The mistake that tells most about why `value` does not match, `where: what`; empty where it matches.

        Raises DataError for a reference that the schema does not hold.
        """
        from jsonschema.exceptions import best_match
        from referencing.exceptions import Unresolvable

        try:
            error = best_match(self._validator.iter_errors(value))
        except RecursionError:
            # Of the schema (one that refers to itself) or of the value.
            return "is nested too deeply to be judged"
        except Unresolvable as missing:
            raise DataError(f"{self._place}: the reference {missing.ref!r} leads nowhere in this file.") from missing
        if error is None:
            return ""
        return f"{'.'.join(map(str, error.absolute_path)) or 'the whole'}: {error.message}"


def read_schema(path: Path) -> Schema:
    """The schema in a JSON file. Raises DataError where it cannot be read or is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from error
    except ValueError as error:
        raise DataError(f"{path}: is not valid JSON ({error}).") from error
    return Schema(content, str(path))
