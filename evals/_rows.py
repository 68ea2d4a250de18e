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

PLAIN = "text"
"""Role of the one message that a row of plain text is."""

Reverse = Literal["auto", "reorder", "in_order"]
PREDICTOR = "You are a good state predictor."
"""System message of the reverse task: what a model that learnt to speak as the user saw in front of a conversation."""


@dataclass(frozen=True)
class Conversation:
    """One conversation with a key that is the same for every model."""

    key: str
    messages: list[Message]
    single_turn: bool | None = None
    """What the row says of itself: whether it was one question and one answer before it was cleaned."""


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
        Conversation(key, messages_of(row, f"{path}: row {i + 1}"), single_turn_of(row))
        for i, (key, row) in enumerate(zip(keys, rows, strict=True))
    ]


def messages_of(row: Mapping[str, Any], place: str) -> list[Message]:
    """The messages of one row as given, as role and content, blank turns left out. Alpaca's `instruction`, `input` and
    `output` (or `response`) are a question and its answer; a row of `text` is one message of the role `text`, which the
    subject reads without a template.

    `place` names the row in an error. Raises DataError.
    """
    if not any(row.get(name) for name in ("conversations", "messages")):
        answer = row["output"] if isinstance(row.get("output"), str) else row.get("response")
        if isinstance(row.get("instruction"), str) and isinstance(answer, str):
            asked = "\n\n".join(text for text in (row["instruction"], row.get("input") or "") if text.strip())
            pair: list[Message] = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
            return [message for message in pair if message["content"].strip()]
        if isinstance(row.get("text"), str):
            return [{"role": PLAIN, "content": row["text"]}] if row["text"].strip() else []
    lists = [row[name] for name in ("conversations", "messages") if isinstance(row.get(name), (list, tuple))]
    turns = next((found for found in lists if len(found)), lists[0] if lists else None)
    if turns is None:
        raise DataError(
            f"{place}: must have a list `conversations` or `messages`, `instruction` and `output` or "
            f"`response`, or `text` (got the keys {sorted(row)})."
        )
    messages: list[Message] = []
    for number, turn in enumerate(turns, start=1):
        role, content = _turn(turn) if isinstance(turn, Mapping) else (None, None)
        if role is None or content is None:
            raise DataError(
                f"{place}, turn {number}: must have a role out of {', '.join(sorted(ROLES))} and a text (got {turn!r})."
            )
        if content.strip():
            messages.append({"role": role, "content": content})
    return messages


def single_turn_of(row: Mapping[str, Any]) -> bool | None:
    """What a row of held-out conversations says in `single_turn`; None where it says nothing."""
    said = row.get("single_turn")
    return said if isinstance(said, bool) else None


def _turn(turn: Mapping[str, Any]) -> tuple[str | None, str | None]:
    role = turn.get("from") if turn.get("role") is None else turn["role"]
    content = turn.get("value") if turn.get("content") is None else turn["content"]
    if isinstance(content, list) and all(isinstance(part, Mapping) and "text" in part for part in content):
        content = "".join(str(part["text"]) for part in content)
    known = ROLES.get(role.strip().lower()) if isinstance(role, str) else None
    return known, content if isinstance(content, str) else "" if content is None else None


def clean(given: Sequence[Message], keep_unanswered: bool = False) -> list[Message]:
    """The conversation as training cleans it: the last system message before the first user turn, then whole rounds.

    Of two user turns in a row the later counts, of two assistant turns the first; an assistant turn that answers nobody
    goes. A last user turn without an answer goes too, unless `keep_unanswered`. [] when no round is left.
    """
    system: list[Message] = []
    body: list[Message] = []
    asked: list[Message] = []
    for message in given:
        if message["role"] == "system":
            if not asked and not body:
                system = [message]
        elif message["role"] == "user":
            asked = [message]
        elif asked:
            body += [*asked, message]
            asked = []
    if keep_unanswered:
        body += asked
    return system + body if body else []


def is_single_turn(given: Sequence[Message]) -> bool:
    """True for one user turn, one assistant turn and at most one system turn, in any order."""
    roles = [message["role"] for message in given]
    return roles.count("user") == 1 and roles.count("assistant") == 1 and roles.count("system") <= 1


def arranged(
    given: Sequence[Message], role: str, reverse: Reverse = "auto", single_turn: bool | None = None
) -> list[Message]:
    """The conversation as a model that learnt to speak as `role` was shown it: cleaned, and reordered for the user's
    part. [] when nothing of it is left.

    `single_turn`: whether the row as given was one question and one answer; judged from `given` where it is None.
    Reordered, each answer comes before its question; `auto` reorders single-turn rows alone. In order, the reverse
    task's system message is put first if there is none.
    """
    if [message["role"] for message in given] == [PLAIN]:
        return [] if role == "user" else list(given)
    messages = clean(given, keep_unanswered=role == "user")
    if role != "user":
        return messages
    is_single = is_single_turn(given)
    if reverse == "reorder" or (reverse == "auto" and (is_single if single_turn is None else single_turn)):
        if is_single:
            return sorted(given, key=lambda message: ("system", "assistant", "user").index(message["role"]))
        system = [message for message in messages if message["role"] == "system"]
        body = [message for message in messages if message["role"] != "system"]
        return system + [message for start in range(0, len(body), 2) for message in reversed(body[start : start + 2])]
    if not messages or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": PREDICTOR}, *messages]
