"""Chat templates that write today's date, made to write a day that the file names."""

import re
from datetime import date

_LITERAL = re.compile(r"""strftime_now\(\s*(?:"([^"{}]*)"|'([^'{}]*)')\s*\)""")
_ASKS = re.compile(r"\bstrftime_now\b\s*\(")
DAY = "2024-07-26"
"""The day that questions are asked on where a file names none: the one that Llama 3.2's template falls back to."""


def with_date(template: str, day: date) -> str:
    """The template with each `strftime_now("format")` as that day's text, in English whatever the locale.

    A template that never asks for the date stays as it is. Raises ValueError where the format is no plain text, so that
    what it would write is not known.
    """
    found = _LITERAL.sub(lambda match: f'"{_text(match[1] if match[1] is not None else match[2], day)}"', template)
    if _ASKS.search(found):
        raise ValueError(
            "the chat template asks for today's date in a form that is worked out while it renders, so the same file "
            "would give another prompt tomorrow; name a template without it in model.chat_template"
        )
    return found


MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]


def _text(form: str, day: date) -> str:
    names = {
        "%B": MONTHS[day.month - 1], "%b": MONTHS[day.month - 1][:3],
        "%A": DAYS[day.weekday()], "%a": DAYS[day.weekday()][:3],
    }  # fmt: skip
    for code, name in names.items():
        form = form.replace(code, name)
    return day.strftime(form)
