"""The charts of scores. Each returns None where the records it draws are absent."""

from collections.abc import Sequence
from typing import Any

from orchestrator.record.records import Results, Row
from orchestrator.show import formats
from orchestrator.show.answers import TypeGain
from orchestrator.show.effects import axis_keys, axis_value, axis_values, is_grid, on_axes, same
from orchestrator.show.findings import Findings
from orchestrator.show.metrics import bounds, metric_names, objective_value, target
from orchestrator.show.ranking import base_of
from orchestrator.show.svg import (
    BASE,
    BEST,
    GOAL,
    HELDOUT,
    INK,
    WIDTH,
    Figure,
    finish,
    style,
)

MOST_VALUES = 24
"""Values of an axis that is no number; more of them are not drawn."""


def axis_scores(results: Results, axis: str) -> Figure | None:
    """The objective against one axis. Trials that equal the baseline in all else, or all trials where there is no
    baseline or no such trial."""
    name = results.objective.metric
    scored = [row for row in on_axes(results) if objective_value(results, row) is not None]
    base = next((row for row in results.rows if row.id == results.baseline_id), None)
    values = axis_values(results, axis)
    rows = _along(results, scored, axis)
    if len({formats.value(axis_value(row, axis)) for row in rows}) < 2:
        return None
    values = [value for value in values if any(same(axis_value(row, axis), value) for row in rows)]
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    numeric = len(numbers) == len(values) and len(set(numbers)) > 1
    if not numeric and len(values) > MOST_VALUES:
        return None
    scale = 100.0 if formats.is_share(name) else 1.0
    with style() as canvas_of:
        canvas = canvas_of(4.2, 2.9)
        axes = canvas.subplots()
        for row in rows:
            own = axis_value(row, axis)
            x = float(own) if numeric else float(next(i for i, value in enumerate(values) if same(value, own)))
            value = objective_value(results, row) or 0.0
            span = bounds(name, row.metric(name)) or (value, value)
            bars = [[scale * max(0.0, value - span[0])], [scale * max(0.0, span[1] - value)]]
            is_start = base is not None and all(
                same(axis_value(row, other), axis_value(base, other)) for other in results.axes
            )
            axes.errorbar(
                [x],
                [scale * value],
                yerr=bars,
                fmt="D" if is_start else "o",
                color=BEST,
                markersize=6 if is_start else 5,
                capsize=3,
                elinewidth=1.1,
                markerfacecolor=BEST if is_start else "none",
                markeredgewidth=1.4,
            )
        means = _means(results, rows, axis, values)
        if numeric:
            drawn = sorted(zip([float(v) for v in numbers], means, strict=True))
            if len(rows) <= 3 * len(values):
                axes.plot([x for x, _ in drawn], [scale * y for _, y in drawn], color=BEST, alpha=0.45, linewidth=1.1)
            _numeric_ticks(axes, [x for x, _ in drawn])
        else:
            axes.set_xticks(range(len(values)), [formats.one_line(_value_name(value), 24) for value in values])
            axes.set_xlim(-0.5, len(values) - 0.5)
            if max(len(_value_name(value)) for value in values) > 40 // len(values):
                axes.tick_params(axis="x", rotation=20)
        _lines(axes, results, rows[0], scale)
        if scale > 1:
            # The same height in every chart of a sweep, from zero, so that they can be compared.
            tops = [bounds(name, row.metric(name)) for row in scored]
            axes.set_ylim(0, min(100.0, 105 * max((top[1] for top in tops if top), default=1.0)))
        label = ", ".join(formats.setting_name(key) for key in axis_keys(axis))
        axes.set_xlabel(label)
        axes.set_ylabel(formats.metric_label(name) + (" (%)" if scale > 1 else ""), fontsize=8.5)
        words = ", ".join(
            f"{_value_name(value)}: {formats.score(name, mean)}" for value, mean in zip(values, means, strict=True)
        )
        return finish(
            canvas,
            "axis-" + "-".join(key.split(".")[-1].replace("_", "-") for key in axis_keys(axis)),
            f"Score against {label}; bars are 95 % intervals.",
            f"{formats.metric_label(name)} against {label}: {words}.",
        )


def _along(results: Results, scored: list[Row], axis: str) -> list[Row]:
    base = next((row for row in scored if row.id == results.baseline_id), None)
    if base is None or is_grid(results):
        return scored
    others = [key for other in results.axes if other != axis for key in axis_keys(other)]
    return [row for row in scored if all(same(axis_value(row, key), axis_value(base, key)) for key in others)]


def _means(results: Results, rows: Sequence[Row], axis: str, values: Sequence[Any]) -> list[float]:
    means = []
    for value in values:
        found = [
            v for row in rows if same(axis_value(row, axis), value) and (v := objective_value(results, row)) is not None
        ]
        means.append(sum(found) / len(found))
    return means


def _numeric_ticks(axes: Any, xs: list[float]) -> None:
    if min(xs) > 0 and max(xs) / min(xs) >= 8:
        axes.set_xscale("log")
        axes.minorticks_off()
        axes.set_xlim(min(xs) / 1.4, max(xs) * 1.4)
    else:
        room = (max(xs) - min(xs)) * 0.12
        axes.set_xlim(min(xs) - room, max(xs) + room)
    if len(xs) <= 8:
        axes.set_xticks(xs, [formats.value(x) for x in xs])
    else:
        axes.xaxis.set_major_formatter(lambda value, _: formats.value(float(f"{value:.3g}")))


def _value_name(value: Any) -> str:
    return str(formats.SCHEDULES.get(value, value)) if isinstance(value, str) else formats.value(value)


def _lines(axes: Any, results: Results, row: Row, scale: float) -> None:
    """The base row's score and the target as horizontal lines, named at their right end."""
    base = base_of(results, row)
    value = objective_value(results, base) if base else None
    goal = target(results.objective)
    for height, name, color, look in ((value, "base", BASE, "--"), (goal, "target", GOAL, ":")):
        if height is not None:
            axes.axhline(scale * height, color=color, linestyle=look, linewidth=1.3)
            axes.annotate(
                name,
                (1, scale * height),
                xycoords=("axes fraction", "data"),
                xytext=(2, 0),
                textcoords="offset points",
                va="bottom" if name == "target" else "top",
                ha="right",
                color=INK,
                fontsize=8,
            )


def base_and_best(results: Results, findings: Findings) -> Figure | None:
    """Base beside best with 95 % intervals on the metrics of the objective's family, and the target."""
    entry = findings.best
    base = base_of(results, entry.row) if entry else None
    if entry is None or base is None or findings.base_value is None:
        return None
    objective = results.objective.metric
    family = objective.split("/")[0] + "/"
    names = [name for name in metric_names([base, entry.row]) if name.startswith(family)]
    names = [
        n
        for n in names
        if base.metric(n) and entry.row.metric(n) and formats.is_share(n) == formats.is_share(objective)
    ]
    names = names[:6] if formats.is_share(objective) else [objective]
    scale = 100.0 if formats.is_share(objective) else 1.0
    with style() as canvas_of:
        canvas = canvas_of(WIDTH * 0.82, 0.62 * len(names) + 1.1)
        axes = canvas.subplots()
        for side, (row, color, label) in enumerate(((base, BASE, "base"), (entry.row, BEST, entry.label))):
            for place, name in enumerate(names):
                metric = row.metric(name)
                assert metric is not None
                span = bounds(name, metric) or (metric.value, metric.value)
                y = place + (side - 0.5) * 0.38
                axes.barh(
                    y,
                    scale * metric.value,
                    height=0.34,
                    color=color,
                    label=formats.one_line(label, 40) if place == 0 else None,
                    xerr=[[scale * max(0.0, metric.value - span[0])], [scale * max(0.0, span[1] - metric.value)]],
                    error_kw={"ecolor": INK, "elinewidth": 1.0, "capsize": 2.5},
                )
                axes.annotate(
                    formats.score(name, metric.value),
                    (1.01, y),
                    xycoords=("axes fraction", "data"),
                    va="center",
                    fontsize=8.5,
                )
        goal = target(results.objective)
        if goal is not None and objective in names:
            place = names.index(objective)
            axes.plot([scale * goal] * 2, [place - 0.45, place + 0.45], color=GOAL, linewidth=2.2, label="target")
        axes.set_yticks(range(len(names)), [formats.metric_label(name) for name in names])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.14)
        if scale > 1:
            axes.set_xlim(0, 101)
            axes.set_xticks(range(0, 101, 20))
            axes.set_xlabel("per cent")
        canvas.legend(loc="outside upper right", ncols=3)
        words = "; ".join(
            f"{formats.metric_label(n)}: base {formats.score(n, old.value)}, best {formats.score(n, new.value)}"
            for n in names
            if (old := base.metric(n)) and (new := entry.row.metric(n))
        )
        return finish(canvas, "base-best", "Base against best, with 95 % intervals.", words + ".")


def type_chart(gains: Sequence[TypeGain]) -> Figure | None:
    """Share of instructions followed, per type: from base to best."""
    if not gains:
        return None
    with style() as canvas_of:
        canvas = canvas_of(WIDTH, 0.27 * len(gains) + 1.1)
        axes = canvas.subplots()
        for place, item in enumerate(gains):
            old, new = 100 * item.base / item.n, 100 * item.best / item.n
            axes.plot([old, new], [place, place], color=BEST if new >= old else HELDOUT, alpha=0.5, linewidth=2.4)
            axes.plot(old, place, "o", color=BASE, markersize=6, label="base" if place == 0 else None)
            axes.plot(new, place, "D", color=BEST, markersize=6, label="best" if place == 0 else None)
        axes.set_yticks(range(len(gains)), [f"{item.type} (n = {item.n})" for item in gains])
        axes.invert_yaxis()
        axes.set_xlim(-3, 103)
        axes.set_xlabel("instructions followed, strict (per cent)")
        canvas.legend(loc="outside upper right", ncols=2)
        words = "; ".join(f"{item.type} from {item.base} to {item.best} of {item.n}" for item in gains)
        return finish(
            canvas, "types", "Instruction types by gain, base to best.", f"Instructions followed by type: {words}."
        )
