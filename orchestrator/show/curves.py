"""The charts of training: loss and learning rate of every step. None where the records they draw are absent."""

from typing import Any

from orchestrator.record.records import Results, Row
from orchestrator.show import formats
from orchestrator.show.findings import Findings
from orchestrator.show.metrics import heldout_of, steps_of, trained
from orchestrator.show.svg import BEST, COLORS, HELDOUT, WIDTH, Figure, finish, smoothed, style, thinned

MOST_PANELS = 12
"""Trials whose curves are drawn, the best ones; the rest are in the tables."""


def loss_curves(results: Results, findings: Findings) -> Figure | None:
    """Training loss (raw and smoothed) and held-out loss, a panel per trial on common axes."""
    rows = [row for entry in findings.ranking for row in entry.rows if len(steps_of(row)) > 1]
    shown = rows[:MOST_PANELS]
    if not shown:
        return None
    columns = min(3, len(shown))
    lines = -(-len(shown) // columns)
    with style() as canvas_of:
        canvas = canvas_of(WIDTH if columns > 1 else WIDTH * 0.6, 2.15 * lines + 0.35)
        grid = canvas.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        for place, axes in enumerate(grid.flat):
            if place < len(shown):
                _loss_panel(axes, shown[place], findings)
                if place + columns >= len(shown):
                    axes.tick_params(labelbottom=True)
            else:
                axes.set_visible(False)
        canvas.supxlabel("step (optimizer updates)", fontsize=9.5)
        canvas.supylabel("loss (nats per target)", fontsize=9.5)
        handles, labels = grid.flat[0].get_legend_handles_labels()
        for axes in grid.flat:
            more = axes.get_legend_handles_labels()
            if len(more[0]) > len(handles):
                handles, labels = more
        canvas.legend(handles, labels, loc="outside upper right", ncols=len(handles))
        left = f" The {len(shown)} best of {len(rows)} trials are drawn." if len(rows) > len(shown) else ""
        words = [_in_words(row) for row in shown]
        return finish(
            canvas,
            "loss",
            "Training loss of every step (thin), its running mean (thick) and held-out loss at the end of each epoch "
            f"(points), best trial first.{left}",
            "Loss curves, one panel per trial. " + "; ".join(words) + ".",
        )


def _in_words(row: Row) -> str:
    first, last, held = steps_of(row)[0]["loss"], steps_of(row)[-1]["loss"], heldout_of(row)
    end = f", held-out loss at the end {formats.loss(held[-1]['loss'])}" if held else ""
    return f"{row.label}: training loss {formats.loss(first)} to {formats.loss(last)}{end}"


def _loss_panel(axes: Any, row: Row, findings: Findings) -> None:
    points = steps_of(row)
    steps, losses = [point["step"] for point in points], [point["loss"] for point in points]
    xs, ys = thinned(steps, losses)
    axes.plot(xs, ys, color=BEST, alpha=0.35, linewidth=0.8)
    window = max(1, len(losses) // 15)
    axes.plot(*thinned(steps, smoothed(losses, window)), color=BEST, label="training")
    held = heldout_of(row)
    if held:
        axes.plot(
            [point["step"] for point in held],
            [point["loss"] for point in held],
            color=HELDOUT,
            marker="o",
            markersize=4.5,
            linestyle="--",
            linewidth=1.1,
            label="held-out",
        )
    fit = findings.fits.get(row.id)
    if fit is not None and fit.kind != "unknown":
        axes.annotate(fit.kind, (0.98, 0.97), xycoords="axes fraction", ha="right", va="top", fontsize=8.5)
    axes.set_title(formats.one_line(row.label, 34), fontsize=9)


def lr_curves(results: Results) -> Figure | None:
    """The learning rate of every step, one line per trial; trials with the same curve share one."""
    curves: dict[tuple[tuple[float, float], ...], list[str]] = {}
    for row in trained(results):
        points = [
            (float(p["step"]), float(p["learning_rate"])) for p in steps_of(row) if p.get("learning_rate") is not None
        ]
        if len(points) > 1:
            curves.setdefault(tuple(points), []).append(row.label)
    if not curves:
        return None
    with style() as canvas_of:
        canvas = canvas_of(WIDTH, 3.0)
        axes = canvas.subplots()
        for place, (curve, labels) in enumerate(list(curves.items())[: 2 * MOST_PANELS]):
            name = labels[0] if len(labels) == 1 else f"{labels[0]} and {len(labels) - 1} more"
            xs, ys = thinned([step for step, _ in curve], [rate for _, rate in curve])
            look = ("-", "--", ":")[place // len(COLORS) % 3]
            axes.plot(xs, ys, color=COLORS[place % len(COLORS)], linestyle=look, label=formats.one_line(name, 40))
        top = max(rate for points in curves for _, rate in points)
        least = min(max(rate for _, rate in points) for points in curves)
        if top > 20 * least:
            axes.set_yscale("symlog", linthresh=least)
        axes.yaxis.set_major_formatter(lambda value, _: formats.value(float(f"{value:.3g}")))
        axes.set_ylim(bottom=0)
        axes.set_xlabel("step (optimizer updates)")
        axes.set_ylabel("learning rate")
        canvas.legend(loc="outside right upper")
        peaks = "; ".join(
            f"{labels[0]} peaks at {formats.number(max(r for _, r in p), 3)}" for p, labels in curves.items()
        )
        return finish(canvas, "lr", "Learning rate of every step, as it was used.", f"Learning-rate curves: {peaks}.")
