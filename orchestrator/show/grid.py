"""A table as a value, and its three forms: text for a terminal or a log, Markdown, HTML."""

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from orchestrator.show.formats import one_line

HEADING, NARROW = 14, 9
"""Characters that a heading may take in text before it is broken, where its column is not wider anyway: where there is
room, and where there is little."""
WORD = 32
"""Characters of a cell without spaces that is never broken in HTML."""
LEAST = 16
"""Characters that a folded column keeps."""


@dataclass(frozen=True)
class Column:
    """A heading; numbers stand to the right. An aside is prose that may be written below a narrow text table."""

    name: str
    right: bool = False
    aside: bool = False


@dataclass(frozen=True)
class Table:
    """Cells are finished text. `marked` are the numbers of rows to be read first, such as the best trial."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    marked: frozenset[int] = frozenset()


def drop_empty(table: Table, keep: Sequence[str] = ()) -> Table:
    """The table without columns that say nothing in any row, but for those named in `keep`."""
    places = [
        place
        for place, column in enumerate(table.columns)
        if column.name in keep or any(row[place] not in ("", "–") for row in table.rows)
    ]
    columns = tuple(table.columns[place] for place in places)
    rows = tuple(tuple(row[place] for place in places) for row in table.rows)
    return Table(columns, rows, table.caption, table.marked)


def to_text(table: Table, width: int | None = None, color: bool = False) -> str:
    """The table as lines of text; `color` marks rows by colour.

    A `width` in characters (None: as wide as it needs) is kept by writing asides below the table, then by folding the
    first column that is not a number, then by leaving out what stands in brackets.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    below: list[str] = []
    if width is not None and _natural(table) > width:
        table, below = _without_asides(table)
    heading = HEADING if width is None or _natural(table) <= width else NARROW
    if width is not None and _natural(table, heading) - _slack(table) > width:
        table = _without_brackets(table)
    folded = _folded(table)
    grid = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, title=None)
    for place, column in enumerate(table.columns):
        # Text, not str, everywhere: square brackets in a label are no markup.
        grid.add_column(
            Text(_heading(table, place, heading)),
            justify="right" if column.right else "left",
            overflow="fold",
            no_wrap=place != folded,
        )
    for place, row in enumerate(table.rows):
        style = "bold green" if place in table.marked else ""
        grid.add_row(*(Text(one_line(cell), style=style) for cell in row))
    out = io.StringIO()
    console = Console(
        file=out,
        width=1000 if width is None else max(width, _natural(table, heading) - _slack(table)),
        force_terminal=color,
        color_system="standard" if color else None,
        legacy_windows=False,
    )
    if table.caption:
        console.print(Text(one_line(table.caption)))
    console.print(grid)
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    return "\n".join([*lines, *below]).rstrip("\n") + "\n"


def _heading(table: Table, place: int, least: int = HEADING) -> str:
    name = table.columns[place].name
    return textwrap.fill(name, max(least, _longest(table, place))) if name else ""


def _longest(table: Table, place: int) -> int:
    return max((len(one_line(row[place])) for row in table.rows), default=0)


def _natural(table: Table, least: int = HEADING) -> int:
    """Characters the table takes where nothing is folded."""
    heads = [max(map(len, _heading(table, place, least).split("\n"))) for place in range(len(table.columns))]
    return sum(max(head, _longest(table, place)) + 3 for place, head in enumerate(heads))


def _folded(table: Table) -> int:
    """The column that gives way: the last that is no number, for prose stands there, or the second of a ranking."""
    left = [place for place, column in enumerate(table.columns) if not column.right]
    return max(left, key=lambda place: _longest(table, place)) if left else 0


def _slack(table: Table) -> int:
    """Characters that folding can save."""
    return max(0, _longest(table, _folded(table)) - LEAST) if table.columns else 0


def _without_asides(table: Table) -> tuple[Table, list[str]]:
    keep = [place for place, column in enumerate(table.columns) if not column.aside]
    name = next((place for place in keep if not table.columns[place].right), 0)
    below = [
        f"  {one_line(row[name])}: {one_line(row[place])}"
        for row in table.rows
        for place, column in enumerate(table.columns)
        if column.aside and row[place]
    ]
    columns = tuple(table.columns[place] for place in keep)
    rows = tuple(tuple(row[place] for place in keep) for row in table.rows)
    return Table(columns, rows, table.caption, table.marked), below


def _without_brackets(table: Table) -> Table:
    rows = tuple(
        tuple(cell.split(" (")[0] if column.right else cell for column, cell in zip(table.columns, row, strict=True))
        for row in table.rows
    )
    return Table(table.columns, rows, table.caption, table.marked)


def to_markdown(table: Table) -> str:
    """The table in GitHub's Markdown; marked rows are bold."""
    head = "| " + " | ".join(markdown_text(column.name) for column in table.columns) + " |"
    rule = "|" + "|".join(" ---: " if column.right else " --- " for column in table.columns) + "|"
    lines = [head, rule]
    for place, row in enumerate(table.rows):
        cells = [markdown_text(cell) for cell in row]
        if place in table.marked:
            cells = [f"**{cell}**" if cell else "" for cell in cells]
        lines.append("| " + " | ".join(cells) + " |")
    caption = [markdown_text(table.caption), ""] if table.caption else []
    return "\n".join([*caption, *lines])


def to_html(table: Table) -> str:
    """The table as HTML; every text is escaped. It scrolls by itself where it is wider than the page."""
    caption = f"<caption>{escape(one_line(table.caption))}</caption>" if table.caption else ""
    head = "".join(f'<th{_flush(column)} scope="col">{escape(one_line(column.name))}</th>' for column in table.columns)
    body = []
    for place, row in enumerate(table.rows):
        cells = "".join(
            f"<td{_flush(column, cell)}>{escape(one_line(cell))}</td>"
            for column, cell in zip(table.columns, row, strict=True)
        )
        mark = ' class="marked"' if place in table.marked else ""
        body.append(f"<tr{mark}>{cells}</tr>")
    return (
        f'<div class="wide" tabindex="0"><table>{caption}<thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _flush(column: Column, cell: str = "") -> str:
    if column.right:
        return ' class="right"'
    # A browser breaks 5e-05 after its hyphen; short words are kept whole.
    return ' class="word"' if "-" in cell and " " not in cell and len(cell) <= WORD else ""


def markdown_text(text: str) -> str:
    """Plain text as Markdown that shows just that text, on one line, in a table cell too."""
    out = []
    flat = one_line(text)
    for place, char in enumerate(flat):
        inside = 0 < place < len(flat) - 1 and flat[place - 1].isalnum() and flat[place + 1].isalnum()
        if char == "<":
            out.append("&lt;")
        elif char == "&":
            out.append("&amp;")
        elif (
            char in "\\`*[]|~$!"
            or (char == "_" and not inside)
            or (char in "#>+-" and place == 0 and flat[1:2] in (" ", char))
        ):
            out.append("\\" + char)
        else:
            out.append(char)
    return "".join(out)
