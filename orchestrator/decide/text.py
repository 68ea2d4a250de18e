"""Numbers and tables as text for a terminal."""

from collections.abc import Collection, Sequence

from trainables.core.memory import CARDS_GB, Memory

GB = 10**9
NOTHING = "-"
"""What stands for a value that there is not, or that is not known."""


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Collection[str]) -> list[str]:
    """Rows of text under their heads as lines with aligned columns, those of `numbers` to the right."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return [
        "  ".join(
            cell.rjust(width) if name in numbers else cell.ljust(width)
            for name, cell, width in zip(head, line, widths, strict=True)
        ).rstrip()
        for line in lines
    ]


def count(value: int, noun: str) -> str:
    """`1 trial`, `2 trials`."""
    return f"{value} {noun}{'' if value == 1 else 's'}"


def number(value: int | None) -> str:
    """A whole number with its thousands apart."""
    return NOTHING if value is None else f"{value:,}"


def bytes_of(value: int | None) -> str:
    """Bytes in MB, from 1 GB on in GB, and below 0.1 MB in kB."""
    if not value:
        return NOTHING if value is None else "0"
    if value < 10**5:
        return f"{value / 1000:.1f} kB"
    return f"{value / GB:.1f} GB" if value >= GB else f"{value / 10**6:.1f} MB"


def card(memory: Memory | None) -> str:
    """The smallest card that holds it."""
    if memory is None:
        return NOTHING
    return f"{memory.card_gb} GB" if memory.card_gb else f"> {CARDS_GB[-1]} GB"
