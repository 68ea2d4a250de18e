"""From a raw row to the conversation that is trained on: roles, cleaning, and the reverse task.

A message is {"role": "system" | "user" | "assistant", "content": text}. The rules, in the order they apply:

1. Roles are mapped (`ROLES`, any case). A row with a role outside the map is refused as a whole: leaving the turn out
   would silently change what the others say.
2. A turn without text (None, empty, only blanks) is as if it were not there. Text is never stripped.
3. Turns before the first system or user turn are dropped.
4. Of several system turns before the first user turn the last counts; a system turn later on is dropped, since chat
   templates know a system message only at the front.
5. Turns are paired into rounds, a user turn and the assistant turn that answers it. Of two user turns in a row the
   later counts; of two assistant turns in a row the first, the one that answers.
6. `max_rounds` keeps the first rounds. A last user turn without an answer is dropped, unless `keep_unanswered` says
   that it stays (it opens one more round, so it goes when `max_rounds` are already there).

Two other layouts become messages. Alpaca's `instruction`, `input` and `output` are a user message (the instruction, and
after an empty line the input where there is one) and its answer. A row with a `text` is plain text: one message of the
role `text`, which no chat template renders and every token of which counts.

The reverse task takes a row with one user turn, one assistant turn and at most one system turn as it is given, whatever
its order, and shows it as system, assistant, user.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

Message = dict[str, str]
TrainOn = Literal["assistant", "user", "all"]
Reverse = Literal["auto", "reorder", "in_order"]

ROLES: Mapping[str, str] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "bot": "assistant",
    "observation": "assistant",
}
"""Role names of the usual chat layouts -> ours."""

STATE_PREDICTOR = "You are a good state predictor."
"""System message of the reverse task where the conversation has none and its order is kept."""

SINGLE_TURN_REVERSED = ("system", "assistant", "user")
"""Order of the reverse task for a row with one user turn and one assistant turn, in whatever order they are given."""


PLAIN = "text"
"""Role of the one message that a row of plain text is."""


class RowRefused(ValueError):
    """A row that cannot be trained on. `reason` is the same for all rows with the same fault, so that it can be
    counted."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def turns(row: Any) -> list[Message]:
    """The turns of a raw row as given, with mapped roles and without the turns that hold no text.

    `row` is {"conversations": [...]} or {"messages": [...]} with turns {"role", "content"} or {"from", "value"}; where
    both lists are there, the first that is not empty counts. Content may be a list of {"type": "text", "text"} parts.
    Without either it may be {"instruction", "input", "output"} or {"text"}. Raises RowRefused when it is none of these.
    """
    if isinstance(row, Mapping) and not any(row.get(key) for key in ("conversations", "messages")):
        if "instruction" in row:
            return _alpaca(row)
        if "text" in row:
            return [{"role": PLAIN, "content": text}] if (text := _field(row, "text")).strip() else []
    found = []
    for turn in _turn_list(row):
        if not isinstance(turn, Mapping):
            raise RowRefused("a turn is not an object")
        name = turn.get("role") if turn.get("role") is not None else turn.get("from")
        if not isinstance(name, str):
            raise RowRefused("a turn has no role")
        role = ROLES.get(name.strip().lower())
        if role is None:
            raise RowRefused(f"unknown role {name!r}")
        text = _text(turn.get("content") if turn.get("content") is not None else turn.get("value"))
        if text.strip():
            found.append({"role": role, "content": text})
    return found


def clean(given: Sequence[Message], max_rounds: int | None = None, keep_unanswered: bool = False) -> list[Message]:
    """The conversation by the rules above: at most one system message, then whole rounds; [] when no round is left."""
    if is_plain(given):
        return list(given)
    system: Message | None = None
    rounds: list[tuple[Message, Message]] = []
    asked: Message | None = None
    for turn in given:
        if turn["role"] == "system":
            if asked is None and not rounds:
                system = turn
        elif turn["role"] == "user":
            asked = turn
        elif asked is not None:
            rounds.append((asked, turn))
            asked = None
    kept = rounds if max_rounds is None else rounds[:max_rounds]
    body = [message for pair in kept for message in pair]
    if keep_unanswered and asked is not None and (max_rounds is None or len(rounds) < max_rounds):
        body.append(asked)
    return ([system] if system is not None and body else []) + body


def is_plain(given: Sequence[Mapping[str, str]]) -> bool:
    """True for a row of plain text."""
    return [turn["role"] for turn in given] == [PLAIN]


def is_single_turn(given: Sequence[Message]) -> bool:
    """True for one user turn, one assistant turn and at most one system turn, in the row as given."""
    roles = [turn["role"] for turn in given]
    return roles.count("user") == 1 and roles.count("assistant") == 1 and roles.count("system") <= 1


def reversed_order(messages: Sequence[Message], reverse: Reverse = "auto") -> list[Message]:
    """A cleaned conversation that is not single-turn, as the reverse task shows it; roles and texts stay.

    `reorder` puts each answer before its question, round by round. Otherwise the order is kept, and a system message is
    put first if there is none.
    """
    if reverse == "reorder":
        body = [message for message in messages if message["role"] != "system"]
        swapped = [message for start in range(0, len(body), 2) for message in reversed(body[start : start + 2])]
        return [message for message in messages if message["role"] == "system"] + swapped
    if messages and messages[0]["role"] != "system":
        return [{"role": "system", "content": STATE_PREDICTOR}, *messages]
    return list(messages)


def conversation(
    row: Any, train_on: TrainOn = "assistant", max_rounds: int | None = None, reverse: Reverse = "auto"
) -> list[Message]:
    """A raw row as the messages that are rendered for training.

    Raises RowRefused when the row is no conversation or nothing of it is left.
    """
    given = turns(row)
    if train_on == "user" and is_plain(given):
        raise RowRefused("plain text has no user turn")
    if train_on == "user" and reverse != "in_order" and is_single_turn(given):
        return sorted(given, key=lambda turn: SINGLE_TURN_REVERSED.index(turn["role"]))
    messages = clean(given, max_rounds, keep_unanswered=train_on == "user")
    if not messages:
        raise RowRefused("no user turn" if train_on == "user" else "no user turn with an answer")
    return reversed_order(messages, reverse) if train_on == "user" else messages


def _turn_list(row: Any) -> list[Any]:
    if not isinstance(row, Mapping):
        raise RowRefused("the row is not an object")
    for key in ("conversations", "messages"):
        value = row.get(key)
        if isinstance(value, list | tuple) and len(value):
            return list(value)
    raise RowRefused("no `conversations`, `messages`, `instruction` or `text`")


def _alpaca(row: Mapping[str, Any]) -> list[Message]:
    if "output" not in row:
        raise RowRefused("no field 'output' beside 'instruction'")
    instruction, given, output = (_field(row, name) for name in ("instruction", "input", "output"))
    asked = "\n\n".join(text for text in (instruction, given) if text.strip())
    pair = [{"role": "user", "content": asked}, {"role": "assistant", "content": output}]
    return [turn for turn in pair if turn["content"].strip()]


def _field(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise RowRefused(f"field {name!r} is not text ({type(value).__name__})")
    return value or ""


def _text(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
        return "".join(str(part.get("text") or "") for part in content)
    raise RowRefused("a turn's content is not text")
