"""The live table as rich draws it."""

from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.record.records import State
from orchestrator.show.formats import duration, loss, number
from orchestrator.show.progress import ENDED, STYLES, Line, remaining_seconds, summary, visible

BAR = 10
"""Width of a progress bar, in characters."""
FRAME_LINES = 6
"""Lines of the terminal that are no row: three rules, the header, the summary, and one for the cursor."""
LEAST = 16
"""Characters that a trial's name and a note get before the other columns, where they need so many."""
GAP = 3
"""Characters between columns."""
MARGIN = 2
"""Characters left and right of the table."""


def table(lines: Sequence[Line], now: float, begun: float, width: int, height: int | None) -> Any:
    """The table for a terminal of `width` x `height` characters; narrow ones lose columns, low ones rows (None: no)."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    shown = list(lines) if height is None else visible(lines, max(1, height - FRAME_LINES))
    texts = {name: [cell(line, now) for line in shown] for name, _, cell in COLUMNS}
    widths = layout({name: max([len(name), *map(len, cells)]) for name, cells in texts.items()}, width)
    grid = Table(box=box.HORIZONTALS if width >= 40 else None, pad_edge=False, padding=(0, 1))
    right = {name: flush for name, flush, _ in COLUMNS}
    for name, room in widths.items():
        grid.add_column(name, justify="right" if right[name] else "left", no_wrap=True, overflow="ellipsis", width=room)
    for place, line in enumerate(shown):
        # Text, not str: a label such as `targets=[q_proj]` must not be read as markup.
        style = "dim" if line.state is State.PLANNED else ""
        row = [(name, texts[name][place]) for name in widths]
        grid.add_row(*(Text(text, style=STYLES[line.state] if name == "state" else style) for name, text in row))
    hidden = len(lines) - len(shown)
    foot = summary(lines, now, begun) + (f" ({hidden} more not shown)" if hidden else "")
    return Group(grid, Text(foot, no_wrap=True, overflow="ellipsis"))


def layout(natural: dict[str, int], width: int) -> dict[str, int]:
    """Which columns a terminal of `width` characters shows, and how wide: name -> characters, in order.

    Trial and state always stand; the others join in the order of DROPPED from its end while there is room, then the
    trial's name, then the note, get what is left. `natural` is the width that each column's longest cell needs.
    """
    wide = {"trial": min(natural["trial"], LEAST), "state": min(natural["state"], max(1, width // 3))}
    left = width - MARGIN - sum(item + GAP for item in wide.values())
    for name in reversed(DROPPED):
        need = min(natural[name], LEAST) if name == "note" else natural[name]
        if need + GAP > left:
            break
        wide[name] = need
        left -= need + GAP
    for name in ("trial", "note"):
        if name in wide:
            more = max(0, min(left, natural[name] - wide[name]))
            wide[name] += more
            left -= more
    if left < 0:
        wide["trial"] = max(1, wide["trial"] + left)
    return {name: wide[name] for name, _, _ in COLUMNS if name in wide}


def _label(line: Line, now: float) -> str:
    return line.label


def _state(line: Line, now: float) -> str:
    return line.state.value


def _step(line: Line, now: float) -> str:
    if line.step is None:
        return ""
    if not line.steps:
        return str(line.step)
    full = min(BAR, max(0, line.step * BAR // line.steps))
    bar = "━" * full + "╌" * (BAR - full) + " " if line.state is State.TRAINING else ""
    return f"{bar}{line.step}/{line.steps}"


def _loss(line: Line, now: float) -> str:
    return "" if line.loss is None else loss(line.loss)


def _rate(line: Line, now: float) -> str:
    return "" if line.tokens_per_second is None else number(round(line.tokens_per_second))


def _eval(line: Line, now: float) -> str:
    return line.eval


def _eta(line: Line, now: float) -> str:
    if line.state in ENDED:
        if line.ended is None or line.started is None:
            return ""
        return f"took {duration(round(line.ended - line.started))}"
    left = remaining_seconds(line, now)
    return "" if left is None else duration(round(left))


def _note(line: Line, now: float) -> str:
    return line.note


COLUMNS: tuple[tuple[str, bool, Callable[[Line, float], str]], ...] = (
    ("trial", False, _label),
    ("state", False, _state),
    ("step", True, _step),
    ("loss", True, _loss),
    ("tokens/s", True, _rate),
    ("eval", False, _eval),
    ("ETA", True, _eta),
    ("note", False, _note),
)
"""Name, whether it stands to the right, and what a cell holds."""
DROPPED = ("tokens/s", "note", "eval", "ETA", "loss", "step")
"""Columns that a narrow terminal loses, the first to go first."""
