"""The turn that an eval asks for: what stands before it in a conversation, and what really followed."""

from collections.abc import Sequence
from dataclasses import dataclass

from evals._rows import Reverse, arranged
from evals._types import Message


@dataclass(frozen=True)
class Turn:
    """What is said before a turn, and the turn that really followed (None where the data has none)."""

    key: str
    messages: list[Message]
    reference: str | None


def split_turn(
    messages: Sequence[Message],
    role: str,
    reverse: Reverse = "auto",
    single_turn: bool | None = None,
) -> tuple[list[Message], str | None]:
    """What stands before the last turn of `role` and that turn's text, in a conversation arranged as for training on
    that role; None when there is no such turn, or an assistant would answer nobody."""
    shown = arranged(messages, role, reverse, single_turn)
    places = [i for i, message in enumerate(shown) if message["role"] == role]
    if not places:
        return shown, None
    before, reference = shown[: places[-1]], shown[places[-1]]["content"]
    if role == "assistant" and not any(message["role"] == "user" for message in before):
        return before, None
    return before, reference


def transcript(messages: Sequence[Message]) -> str:
    """The messages as people read them; a single user message as it stands."""
    if len(messages) == 1 and messages[0]["role"] == "user":
        return messages[0]["content"]
    return "\n".join(f"{message['role']}: {message['content']}" for message in messages)
