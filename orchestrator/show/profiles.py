"""Curves of one trial's evals and training: norms by position, likeness by layer, gradients by position."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orchestrator.show import formats
from orchestrator.show.svg import COLORS, WIDTH, Figure, finish, log_axis, style

SOURCES = (("hidden", "hidden states"), ("keys", "keys"), ("values", "values"))
LOOKS = ("-", "--", ":", "-.")
NOTHING = "exactly 0"

Line = Sequence[float | None]


def norm_profiles(tables: Mapping[str, Any], label: str, name: str) -> Figure | None:
    """L2 norm per position of hidden states, keys and values: the first, middle and last layer, base and trial."""
    norms, base = tables.get("norms") or {}, (tables.get("base") or {}).get("norms") or {}
    sources = [(key, words) for key, words in SOURCES if norms.get(key)]
    if not sources:
        return None
    floor = _floor(value for key, _ in sources for layer in [*norms[key], *(base.get(key) or [])] for value in layer)
    with style() as canvas_of:
        canvas = canvas_of(WIDTH, 3.0)
        grid = canvas.subplots(1, len(sources), squeeze=False, sharey=True)[0]
        for axes, (key, words) in zip(grid, sources, strict=True):
            chosen = _some(len(norms[key]))
            for place, layer in enumerate(chosen):
                color = COLORS[place % len(COLORS)]
                _line(axes, norms[key][layer], floor, color=color, label=f"layer {layer}", linewidth=1.4)
                if layer < len(base.get(key) or []):
                    _line(axes, base[key][layer], floor, color=color, linestyle="--", linewidth=1.0, alpha=0.8)
            axes.set_title(words, fontsize=9)
            axes.set_xlabel("position", fontsize=8.5)
        log_axis(grid[0])
        grid[0].set_ylabel("L2 norm", fontsize=8.5)
        handles, labels = grid[0].get_legend_handles_labels()
        if base:
            from matplotlib.lines import Line2D

            handles = [*handles, Line2D([], [], color="#777777", linestyle="--", linewidth=1.0)]
            labels = [*labels, "base, same layer"]
        canvas.legend(handles, labels, loc="outside upper right", ncols=len(labels), fontsize=8.5)
        words = "; ".join(
            f"{words} of the last layer at position 0 {formats.number(norms[key][-1][0], 3)}, at the others "
            f"{formats.number(_average(norms[key][-1][1:]), 3)} on average"
            for key, words in sources
        )
        return finish(
            canvas,
            name,
            f"{label}: L2 norm of hidden states behind a layer, and of its keys and values, by position (mean over "
            f"texts, logarithmic; a triangle at the bottom is {NOTHING}). A position far above the others is a "
            "massive activation; a token whose values are small can be attended to without adding anything.",
            f"Norms by position of {label}: {words}.",
        )


def likeness_profiles(likeness: Mapping[str, Mapping[str, Line]], label: str, name: str) -> Figure | None:
    """Cosine similarity and CKA between base and trial, per layer, at position 0 and elsewhere.

    `likeness`: measure -> {where: [layer]}.
    """
    panels = [
        (measure, {where: line for where, line in lines.items() if _known(line)[0]})
        for measure, lines in likeness.items()
    ]
    panels = [(measure, lines) for measure, lines in panels if lines]
    if not panels:
        return None
    with style() as canvas_of:
        canvas = canvas_of(WIDTH * (1.0 if len(panels) > 1 else 0.6), 2.8)
        grid = canvas.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        lowest = min(value for _, lines in panels for line in lines.values() for value in line if value is not None)
        for axes, (measure, lines) in zip(grid, panels, strict=True):
            for place, (where, line) in enumerate(lines.items()):
                look = {"color": COLORS[place % len(COLORS)], "linestyle": LOOKS[place % len(LOOKS)]}
                axes.plot(*_known(line), marker="o", markersize=3.5, label=where, **look)
            axes.set_title(measure, fontsize=9)
            axes.set_xlabel("layer", fontsize=8.5)
            axes.set_ylim(min(0.0, lowest) - 0.04, 1.04)
            axes.legend(fontsize=8, loc="lower left")
            axes.xaxis.get_major_locator().set_params(integer=True)
        grid[0].set_ylabel("1 is the same as the base", fontsize=8.5)
        words = "; ".join(
            f"{measure} at {where} falls to {formats.number(_least(line), 3)}"
            for measure, lines in panels
            for where, line in lines.items()
        )
        return finish(
            canvas,
            name,
            f"{label}: how alike the hidden states of base and trial are behind each layer (over texts).",
            f"Likeness of {label} and its base: {words}.",
        )


def gradient_profile(train: Mapping[str, Any], label: str, name: str) -> Figure | None:
    """How much gradient reaches each position while training: by position over all steps, and position 0 by step."""
    entries, rows = train.get("position_gradients") or [], train.get("position_gradient_rows") or []
    if not entries or not rows:
        return None
    means = mean_gradients(entries)
    shown = _shown_rows(rows)
    floor = _floor(value for row in shown for value in means[row])
    with style() as canvas_of:
        canvas = canvas_of(WIDTH, 3.3)
        by_position, by_step = canvas.subplots(1, 2, sharey=True)
        for place, row in enumerate(shown):
            look = {"color": COLORS[place % len(COLORS)], "linestyle": LOOKS[place % 4]}
            # One below the other, so that each curve's zeros can be told apart.
            bottom = floor * 0.55**place
            _line(by_position, means[row], bottom, marker="o", markersize=3, label=rows[row], **look)
            steps = [entry["step"] for entry in entries if entry["norms"][row][0] is not None]
            firsts = [entry["norms"][row][0] for entry in entries if entry["norms"][row][0] is not None]
            by_step.plot(steps, [value or bottom for value in firsts], **look)
            nothing = [step for step, value in zip(steps, firsts, strict=True) if value == 0]
            _mark_nothing(by_step, nothing, bottom, look["color"])
        last = len(means[0]) - 1
        ticks = [*range(0, last, 2), last]
        by_position.set_xticks(ticks, [*map(str, ticks[:-1]), f"{last}+"], fontsize=8)
        log_axis(by_position)
        by_position.set_title("mean over the steps, by position", fontsize=9)
        by_position.set_xlabel("position of a token in its own sequence", fontsize=8.5)
        by_position.set_ylabel("norm of the gradient", fontsize=8.5)
        by_step.set_title("position 0, by step", fontsize=9)
        by_step.set_xlabel("step (optimizer updates)", fontsize=8.5)
        canvas.legend(loc="outside upper right", ncols=min(3, len(shown)), fontsize=8)
        return finish(
            canvas,
            name,
            f"{label}: norm of the gradient of the step's loss that reaches each position, mean over the sequences of "
            f"a step, logarithmic; a triangle at the bottom is {NOTHING}. A gradient passes from the layers to what "
            "they are given, and from there, through the scaling where there is one, to the embedding itself. At a "
            "state of exactly zero, as a factor of 0 leaves it, what would come by way of that position in later "
            "layers is left out.",
            f"Gradient by position of {label}: " + "; ".join(_in_words(rows[row], means[row]) for row in shown) + ".",
        )


def mean_gradients(entries: Sequence[Mapping[str, Any]]) -> list[list[float | None]]:
    """[row][position]: the mean over the steps that have a value; None where none has."""
    found: list[list[float | None]] = []
    for row in range(len(entries[0]["norms"])):
        columns = zip(*(entry["norms"][row] for entry in entries), strict=True)
        found.append([_average(column) for column in columns])
    return found


def _in_words(name: str, line: Line) -> str:
    first = line[0]
    what = NOTHING if first == 0 else formats.number(first, 3)
    return f"{name}: {what} at position 0, {formats.number(_average(line[1:]), 3)} on average at the others"


def _floor(values: Iterable[float | None]) -> float:
    """Where nothing is drawn on a logarithmic axis: below all that is something."""
    return min((value for value in values if value), default=1.0) / 4


def _line(axes: Any, values: Line, floor: float, **look: Any) -> None:
    """A curve on a logarithmic axis, on which what is exactly 0 is a triangle at the bottom."""
    xs, ys = _known(values)
    axes.plot(xs, [value or floor for value in ys], **look)
    _mark_nothing(axes, [x for x, value in zip(xs, ys, strict=True) if value == 0], floor, look["color"])


def _mark_nothing(axes: Any, xs: Sequence[float], floor: float, color: str) -> None:
    if xs:
        axes.plot(xs, [floor] * len(xs), linestyle="none", marker="v", markersize=7, color=color)


def _shown_rows(rows: Sequence[str]) -> list[int]:
    """The embedding rows, and the first, middle and last layer."""
    layers = [place for place, row in enumerate(rows) if row.startswith("layer ")]
    others = [place for place in range(len(rows)) if place not in layers]
    return [*others, *(layers[place] for place in _some(len(layers)))]


def _some(count: int) -> list[int]:
    """The first, the middle and the last of so many."""
    return sorted({0, (count - 1) // 2, count - 1}) if count else []


def _known(line: Line) -> tuple[list[int], list[float]]:
    pairs = [(place, value) for place, value in enumerate(line) if value is not None]
    return [place for place, _ in pairs], [value for _, value in pairs]


def _average(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _least(line: Line) -> float | None:
    return min((value for value in line if value is not None), default=None)
