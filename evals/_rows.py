"""Reads an eval's data: JSON, JSONL or Parquet files of prompts or of conversations, with a key for every row."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals._types import DataError

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "bot": "assistant",
    "observation": "assistant",
    "system": "system",
}
"""Names of speakers in public data sets -> the three roles of a chat template."""


@dataclass(frozen=True)
class Conversation:
    """One conversation with a key that is the same for every model."""

    key: str
    messages: list[dict[str, str]]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All rows of a JSON array, JSONL or Parquet file, or of a folder of such files in the order of their names.

    Raises DataError where a file is absent, unreadable, or holds something other than objects.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in (".json", ".jsonl", ".parquet"))
        if not files:
            raise DataError(f"{path}: the folder holds no .json, .jsonl or .parquet file.")
        return [row for file in files for row in read_rows(file)]
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet

            rows = pyarrow.parquet.read_table(path).to_pylist()
        else:
            rows = _parse(path.read_text(encoding="utf-8-sig"), path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start}).") from error
    if not rows:
        raise DataError(f"{path}: holds no rows.")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(f"{path}: row {number} must be an object (got {type(row).__name__}).")
    return rows


def _parse(text: str, path: Path) -> list[Any]:
    if text.lstrip().startswith("["):
        try:
            return list(json.loads(text))
        except json.JSONDecodeError as error:
            raise DataError(f"{path}: is not valid JSON ({error}).") from error
    rows = []
    # Not str.splitlines: a JSON string may hold U+2028, which is no line end in JSONL.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise DataError(f"{path}: line {number} is not valid JSON ({error.msg}).") from error
    return rows


def keys_of(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """One key per row: its `key` or `id` where every row has its own, else its number from 0."""
    rows = list(rows)
    for name in ("key", "id"):
        values = [row.get(name) for row in rows]
        named = [str(value) for value in values if isinstance(value, (str, int))]
        if len(named) == len(rows) == len(set(named)):
            return named
    return [str(number) for number in range(len(rows))]


def read_conversations(path: Path, limit: int | None = None) -> list[Conversation]:
    """The conversations of a file: `conversations` or `messages` with role/content or from/value, roles normalized.

    Raises DataError for a row that is none, naming it.
    """
    rows = read_rows(path)
    keys = keys_of(rows)
    if limit is not None:
        rows, keys = rows[:limit], keys[:limit]
    return [
        Conversation(key, messages_of(row, f"{path}: row {i + 1}"))
        for i, (key, row) in enumerate(zip(keys, rows, strict=True))
    ]


def messages_of(row: Mapping[str, Any], place: str) -> list[dict[str, str]]:
    """The messages of one row, as role and content. `place` names the row in an error. Raises DataError."""
    turns = row.get("conversations", row.get("messages"))
    if not isinstance(turns, list):
        raise DataError(f"{place}: must have a list `conversations` or `messages` (got the keys {sorted(row)}).")
    messages = []
    for number, turn in enumerate(turns, start=1):
        role = turn.get("role", turn.get("from")) if isinstance(turn, dict) else None
        content = turn.get("content", turn.get("value")) if isinstance(turn, dict) else None
        if role not in ROLES or not isinstance(content, str):
            raise DataError(
                f"{place}, turn {number}: must have a role out of {', '.join(sorted(ROLES))} and a text (got {turn!r})."
            )
        messages.append({"role": ROLES[role], "content": content})
    return messages
