"""One look for all charts: colours that colour-blind readers can tell apart, and SVG that follows the page's theme."""

import io
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from itertools import pairwise
from typing import Any

from orchestrator.show.formats import one_line

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8c8c8c")
"""After Okabe and Ito, "Color Universal Design"; each is readable on white and on near-black."""
BASE, BEST, HELDOUT, GOAL = COLORS[6], COLORS[0], COLORS[1], COLORS[2]
INK = "#010203"
"""Stands for the colour of the page's text until the SVG is made."""
MOST_POINTS = 300
"""Points of one curve; more are averaged in equal stretches."""
PNG_DPI = 130
IMAGE_DPI = 200
"""Dots per inch of the colour maps inside an SVG."""
WIDTH = 8.6
"""Inches of a chart that is as wide as the page."""


LOOK = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titleweight": "normal",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "grid.color": INK,
    "grid.alpha": 0.13,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.7,
    "axes.unicode_minus": True,
}


@dataclass(frozen=True)
class Figure:
    """A finished chart, drawn when one of its forms is asked for."""

    name: str
    """Short, unique in a report; the file's name in the Markdown form."""
    caption: str
    alt: str
    """What the chart shows, for those who do not see it."""
    canvas: Any = field(repr=False, compare=False)
    """matplotlib's own figure."""

    @cached_property
    def svg(self) -> str:
        """The chart with text in `currentColor` on a transparent ground. The same drawing gives the same bytes; ids are
        made unique by `name`."""
        import matplotlib

        told = {"Date": None, "Creator": None, "Format": None, "Type": None}
        out = io.BytesIO()
        # Ticks are made while it is drawn, and must have the same look.
        with matplotlib.rc_context({**LOOK, "svg.hashsalt": self.name}):
            self.canvas.savefig(out, format="svg", dpi=IMAGE_DPI, metadata=told)
        return _for_a_page(out.getvalue().decode(), self)

    def png(self) -> bytes:
        """The chart as a picture with its caption below: dark text on white."""
        import matplotlib

        out = io.BytesIO()
        look: dict[str, Any] = {"facecolor": "white", "bbox_inches": "tight", "pad_inches": 0.12}
        words = textwrap.fill(self.caption, round(15 * self.canvas.get_figwidth()))
        with matplotlib.rc_context(LOOK):
            below = self.canvas.text(0.01, -0.03, words, va="top", fontsize=8.5)
            self.canvas.savefig(out, format="png", dpi=PNG_DPI, metadata={"Software": None}, **look)
            below.remove()
        return out.getvalue()

    def standalone(self) -> str:
        """The SVG as a file of its own: dark text on white."""
        return self.svg.replace('<svg style="', '<svg style="color: #1c1f24; background: #ffffff; ', 1)


@contextmanager
def style() -> Iterator[Any]:
    """matplotlib with this look, without a display; yields a function (width, height in inches) -> its Figure."""
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(LOOK):
        yield lambda width, height: Canvas(figsize=(width, height), layout="constrained")


def finish(canvas: Any, name: str, caption: str, alt: str) -> Figure:
    """A matplotlib figure as a Figure."""
    return Figure(name, caption, alt, canvas)


def _for_a_page(text: str, figure: Figure) -> str:
    """matplotlib's SVG as it may stand in a page beside others."""
    text = text[text.index("<svg ") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = text.replace(INK, "currentColor")
    text = re.sub(r'\bid="', f'id="{figure.name}-', text)
    text = re.sub(r'(xlink:href="|url\()#', rf"\1#{figure.name}-", text)
    # Drop the fixed size, keep the view box: the page decides how wide a chart is.
    text = re.sub(r'^(<svg [^>]*?) width="[^"]*"', r"\1", text)
    text = re.sub(r'^(<svg [^>]*?) height="[^"]*"', r"\1", text)
    pixels = round(96 * figure.canvas.get_figwidth())
    text = text.replace(
        "<svg ",
        f'<svg style="width: 100%; max-width: {pixels}px" role="img" aria-label="{escape(one_line(figure.alt))}" ',
        1,
    )
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "\ufffd", text)
    return re.sub(r"\n\s*", "\n", text)


def log_axis(axes: Any) -> None:
    """A logarithmic y axis with plain numbers at 1, 2 and 5 of each power of ten, or at the powers alone."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 1e3 else (1.0,), numticks=12))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def thinned(xs: Sequence[float], ys: Sequence[float], most: int = MOST_POINTS) -> tuple[list[float], list[float]]:
    """A curve with at most `most` points: means over equal stretches, the last point kept as it is."""
    if len(xs) <= most:
        return list(xs), list(ys)
    edges = [round(i * (len(xs) - 1) / (most - 1)) for i in range(most)]
    out_x, out_y = [], []
    for start, stop in pairwise(edges):
        out_x.append(sum(xs[start:stop]) / (stop - start))
        out_y.append(sum(ys[start:stop]) / (stop - start))
    return [*out_x, xs[-1]], [*out_y, ys[-1]]


def smoothed(ys: Sequence[float], window: int) -> list[float]:
    """Running mean over `window` points, centred, shorter at the ends."""
    half = window // 2
    return [sum(part) / len(part) for i in range(len(ys)) if (part := ys[max(0, i - half) : i + half + 1])]
