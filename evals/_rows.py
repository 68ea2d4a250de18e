"""Reads an eval's data: JSON, JSONL or Parquet files of prompts or of conversations, with a key for every row."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from evals._types import DataError, Message

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

Reverse = Literal["auto", "reorder", "in_order"]
PREDICTOR = "You are a good state predictor."
"""System message of the reverse task: what a model that learnt to speak as the user saw in front of a conversation."""


@dataclass(frozen=True)
class Conversation:
    """One conversation with a key that is the same for every model."""

    key: str
    messages: list[Message]


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


def messages_of(row: Mapping[str, Any], place: str) -> list[Message]:
    """The messages of one row, as role and content: from the first system or user turn on, blank turns left out.

    `place` names the row in an error. Raises DataError.
    """
    lists = [row[name] for name in ("conversations", "messages") if isinstance(row.get(name), (list, tuple))]
    turns = next((found for found in lists if len(found)), lists[0] if lists else None)
    if turns is None:
        raise DataError(f"{place}: must have a list `conversations` or `messages` (got the keys {sorted(row)}).")
    messages: list[Message] = []
    for number, turn in enumerate(turns, start=1):
        role, content = _turn(turn) if isinstance(turn, Mapping) else (None, None)
        if role is None or content is None:
            raise DataError(
                f"{place}, turn {number}: must have a role out of {', '.join(sorted(ROLES))} and a text (got {turn!r})."
            )
        if content.strip() and (messages or role != "assistant"):
            messages.append({"role": role, "content": content})
    return messages


def _turn(turn: Mapping[str, Any]) -> tuple[str | None, str | None]:
    role = turn.get("from") if turn.get("role") is None else turn["role"]
    content = turn.get("value") if turn.get("content") is None else turn["content"]
    if isinstance(content, list) and all(isinstance(part, Mapping) and "text" in part for part in content):
        content = "".join(str(part["text"]) for part in content)
    known = ROLES.get(role.strip().lower()) if isinstance(role, str) else None
    return known, content if isinstance(content, str) else "" if content is None else None


def arranged(messages: Sequence[Message], role: str, reverse: Reverse = "auto") -> list[Message]:
    """The conversation as a model that learnt to speak as `role` was shown it; only the user's part needs a change.

    Reordered, each answer comes before its question. In order, the reverse task's system message is put first if there
    is none. `auto` reorders conversations of one question and one answer alone.
    """
    if role != "user":
        return list(messages)
    system = [message for message in messages if message["role"] == "system"]
    body = [message for message in messages if message["role"] != "system"]
    is_single = [message["role"] for message in body] == ["user", "assistant"]
    if reverse == "reorder" or (reverse == "auto" and is_single):
        return system + [message for start in range(0, len(body), 2) for message in reversed(body[start : start + 2])]
    if system or not messages:
        return list(messages)
    return [{"role": "system", "content": PREDICTOR}, *messages]
