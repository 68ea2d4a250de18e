"""The errors that users see. All are picklable: they cross process borders."""

import json
from dataclasses import dataclass
from typing import Any

LONGEST_VALUE = 120
"""Characters of a value that a message shows."""


@dataclass(frozen=True)
class Mistake:
    """One thing wrong in a sweep file, as the rule, the place, the value and the way out."""

    key: str
    """Dotted key, such as `train.learning_rate`."""
    value: Any
    """What was there; None where nothing was, or where the rule already says it."""
    rule: str
    """What is required, one clause."""
    fix: str = ""
    """The nearest valid name or the command that mends it."""
    ignored: str = ""
    """Dotted key of the setting that is right in itself and has no effect beside another; empty for all else."""

    def __str__(self) -> str:
        got = "" if self.value is None else f" (got {shown(self.value)})"
        fix = f" {self.fix}" if self.fix else ""
        text = f"{self.rule}{got}"
        end = "" if text.endswith((".", "?", "!")) else "."
        return f"{self.key}: {text}{end}{fix}" if self.key else f"{text}{end}{fix}"


def shown(value: Any) -> str:
    """A value as it would be written in the sweep file, on one line and not too long."""
    if isinstance(value, str):
        text = repr(value)
    else:
        try:
            text = json.dumps(value, ensure_ascii=False, default=str)
        except (TypeError, ValueError):
            text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


class UserError(ValueError):
    """Something the user can mend; shown without a traceback, exit code 2."""


class SweepFileError(UserError):
    """All mistakes found in one sweep file."""

    def __init__(self, mistakes: list[Mistake], source: str = "") -> None:
        super().__init__(mistakes, source)
        self.mistakes = mistakes
        self.source = source

    def __str__(self) -> str:
        head = f"{self.source}: " if self.source else ""
        count = len(self.mistakes)
        lines = "\n".join(f"  {mistake}" for mistake in self.mistakes)
        return f"{head}{count} mistake{'s' if count != 1 else ''}\n{lines}"


class ResourceError(UserError):
    """What was asked for can never be placed on this machine or cluster."""


class MissingDataError(UserError):
    """A file, data set or model that is named cannot be read here."""
