"""The two forms of a report: one HTML file that opens offline, and Markdown with its charts beside it."""

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.record.records import Results
from orchestrator.show.document import Block, Bullets, Charts, Exchange, Paragraph, Report, Section
from orchestrator.show.formats import one_line
from orchestrator.show.grid import Table, markdown_text, to_html, to_markdown
from orchestrator.show.sections import build
from orchestrator.show.svg import Figure

HERE = Path(__file__).parent
FIGURES = "figures"
"""Folder beside report.md that holds its charts."""
FOLD = 600
"""Longer texts of a model are folded in the page."""
LEAD = 240
"""Characters of a folded text that are seen."""
LONGEST = 20_000
"""Characters of a text that the report holds; a model that never stops must not make a page of megabytes."""


def write_report(results: Results, folder: Path) -> Path:
    """Write report.html, report.md and its figures into a folder; returns the path of report.html.

    Each file is written whole and renamed into place. Raises OSError where the folder cannot be written.
    """
    report = build(results)
    folder.mkdir(parents=True, exist_ok=True)
    charts = list(_figures(report))
    if charts:
        (folder / FIGURES).mkdir(exist_ok=True)
    for chart in charts:
        _write(folder / FIGURES / f"{chart.name}.svg", chart.standalone())
    _write(folder / "report.md", markdown(report))
    page = folder / "report.html"
    _write(page, html(report))
    return page


def html(report: Report) -> str:
    """The report as one HTML file: no script, nothing fetched, every text escaped."""
    from jinja2 import Environment, FileSystemLoader
    from markupsafe import Markup

    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, finalize=_shown)

    def blocks(section: Section) -> Iterator[tuple[str, Any]]:
        for block in section.blocks:
            yield type(block).__name__, _shortened(block)

    return environment.get_template("report.html.j2").render(
        report=report,
        css=Markup((HERE / "report.css").read_text()),
        blocks=blocks,
        table=lambda block: Markup(to_html(block)),
        drawing=lambda figure: Markup(figure.svg),
        bound=lambda text: text.replace(" %", "\u00a0%"),
        fold=FOLD,
        start=lambda text: one_line(text, LEAD),
    )


def markdown(report: Report) -> str:
    """The same report as GitHub's Markdown."""
    parts = [f"**{markdown_text(notice)}**" for notice in report.notices]
    parts += [f"# {markdown_text(report.title)}", markdown_text(report.name)]
    parts += [f"**{markdown_text(s)}**" if place == 0 else markdown_text(s) for place, s in enumerate(report.verdict)]
    facts = [
        f"- {markdown_text(fact.name)}: **{markdown_text(fact.value)}**{_note(fact.note)}" for fact in report.facts
    ]
    parts.append("\n".join(facts))
    for section in report.sections:
        parts.append(f"## {markdown_text(section.title)}")
        parts += [_markdown_block(_shortened(block)) for block in section.blocks]
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown_block(block: Block) -> str:
    if isinstance(block, Paragraph):
        return markdown_text(block.text)
    if isinstance(block, Bullets):
        return "\n".join(
            f"- **{markdown_text(name)}:** {markdown_text(text)}" if name else f"- {markdown_text(text)}"
            for name, text in block.items
        )
    if isinstance(block, Table):
        return to_markdown(block)
    if isinstance(block, Charts):
        return "\n\n".join(
            f"![{markdown_text(figure.alt)}]({FIGURES}/{figure.name}.svg)\n\n*{markdown_text(figure.caption)}*"
            for figure in block.figures
        )
    parts = [f"### {markdown_text(block.title)}", markdown_text(block.note), "Prompt:", _quoted(block.prompt)]
    for who, note, text in block.answers:
        parts += [f"{markdown_text(who)}{': ' + markdown_text(note) if note else ''}", _quoted(text)]
    return "\n\n".join(part for part in parts if part)


def _shown(value: Any) -> Any:
    """What the template writes of a value: plain text without control characters, finished HTML as it is."""
    return printable(value) if type(value) is str else value


def _note(text: str) -> str:
    return f" ({markdown_text(text)})" if text else ""


def _quoted(text: str) -> str:
    """A text as a code block whose fence is longer than any run of backticks in it, so that nothing in it is markup."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{printable(text)}\n{fence}"


def printable(text: str) -> str:
    """A model's text as it may stand in a page: control characters and lone surrogates become visible marks."""
    clean = "".join(c if c in "\n\t" or c.isprintable() or c.isspace() else "\ufffd" for c in text)
    clean = clean.encode("utf-8", "replace").decode().replace("\r", "\n")
    return clean if len(clean) <= LONGEST else f"{clean[:LONGEST]}… ({len(clean) - LONGEST:,} characters more)"


def _shortened(block: Block) -> Block:
    if not isinstance(block, Exchange):
        return block
    answers = tuple((who, note, printable(text)) for who, note, text in block.answers)
    return Exchange(block.title, block.note, printable(block.prompt), answers)


def _figures(report: Report) -> Iterator[Figure]:
    for section in report.sections:
        for block in section.blocks:
            if isinstance(block, Charts):
                yield from block.figures


def _write(path: Path, text: str) -> None:
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{path.name}.", delete=False, encoding="utf-8"
    ) as out:
        out.write(text)
    # NamedTemporaryFile makes it readable for the owner alone; a report is for sharing.
    Path(out.name).chmod(0o644)
    Path(out.name).replace(path)
