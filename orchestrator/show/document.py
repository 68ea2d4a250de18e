"""A report as a value: sections of blocks of plain text, tables and charts. Two renderers turn it into pages."""

from dataclasses import dataclass

from orchestrator.show.grid import Table
from orchestrator.show.svg import Figure


@dataclass(frozen=True)
class Paragraph:
    """Some sentences."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """Short lines, each with a leading name (which may be empty)."""

    items: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Charts:
    """Charts that stand side by side where there is room."""

    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Exchange:
    """A prompt and what was said to it: (who, what was said about it, text)."""

    title: str
    note: str
    prompt: str
    answers: tuple[tuple[str, str, str], ...]


Block = Paragraph | Bullets | Charts | Exchange | Table


@dataclass(frozen=True)
class Section:
    """A heading with its blocks. `id` is the link's name."""

    id: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Fact:
    """One of the few figures at the top."""

    name: str
    value: str
    note: str = ""
    tone: str = ""
    """`good`, `bad` or nothing."""


@dataclass(frozen=True)
class Report:
    """The whole report."""

    title: str
    name: str
    verdict: tuple[str, ...]
    facts: tuple[Fact, ...]
    sections: tuple[Section, ...]
    notices: tuple[str, ...] = ()
    """What stands above the title: what a reader must know before any figure."""
