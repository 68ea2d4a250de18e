"""The effect of each axis: the same trial with one value changed, paired prompt by prompt."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.record.records import Results, Row
from orchestrator.show.evidence import Evidence, compare_rows
from orchestrator.show.formats import p_value, signless
from orchestrator.show.metrics import objective_value, setting, trained

LEAST_TRIALS = 5
"""Trials that a rank correlation needs."""


@dataclass(frozen=True)
class Point:
    """One value of an axis against the axis's reference value, all other axes equal."""

    value: Any
    evidence: Evidence
    pairs: int
    """How many trials with this value have a partner that differs from it in this axis alone."""
    score: float
    """Mean objective of those trials."""
    reference_score: float
    """Mean objective of their partners."""


@dataclass(frozen=True)
class Effect:
    """What changing one axis does."""

    axis: str
    reference: Any
    points: tuple[Point, ...]
    reason: str = ""
    """Why nothing can be said, where `points` is empty."""


def axis_keys(axis: str) -> list[str]:
    """The settings an axis moves: one, or several that move together (`lora.rank, lora.alpha`)."""
    return [key.strip() for key in axis.split(",")]


def axis_value(row: Row, axis: str) -> Any:
    """A row's value on an axis; a list where several settings move together."""
    keys = axis_keys(axis)
    return setting(row, keys[0]) if len(keys) == 1 else [setting(row, key) for key in keys]


def same(one: Any, other: Any) -> bool:
    """Equal as settings: 1 and 1.0 are one value, true and 1 are two."""
    return _frozen(one) == _frozen(other)


def on_axes(results: Results) -> list[Row]:
    """The trained trials that differ in axes alone: one that is listed beside them and sets something else (another
    method, say) tells nothing of an axis."""
    keys = {key for axis in results.axes for key in axis_keys(axis)}
    return [row for row in trained(results) if keys.issuperset(row.overrides)]


def axis_values(results: Results, axis: str) -> list[Any]:
    """The values of an axis that trials have, the reference first, then in the order of the file or of size."""
    present = [axis_value(row, axis) for row in on_axes(results)]
    listed = results.axes.get(axis, [])
    ordered: list[Any] = []
    for value in [*listed, *sorted(present, key=_order)]:
        if any(same(value, own) for own in present) and not any(same(value, known) for known in ordered):
            ordered.append(value)
    base = next((row for row in results.rows if row.id == results.baseline_id), None)
    if base is not None:
        ordered.sort(key=lambda value: not same(value, axis_value(base, axis)))
    return ordered


def effects(results: Results) -> list[Effect]:
    """The effect of every axis of the sweep, in the order of the file; empty for a sweep without axes."""
    return [effect(results, axis) for axis in results.axes]


def effect(results: Results, axis: str) -> Effect:
    """The effect of one axis. Where several pairs of trials differ in this axis alone (a grid), each prompt's scores
    are averaged over them first, so that the interval is over prompts."""
    values = axis_values(results, axis)
    if len(values) < 2:
        return Effect(axis, values[0] if values else None, (), "it has one value among the trials")
    rows = [row for row in on_axes(results) if objective_value(results, row) is not None]
    points = []
    for value in values[1:]:
        pairs = _matched(results, rows, axis, values[0], value)
        if pairs:
            others, own = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
            found = compare_rows(others, own, results.objective.metric, results.objective.direction)
            points.append(Point(value, found, len(pairs), _mean(results, own), _mean(results, others)))
    reason = "" if points else f"no two finished trials differ in it alone{_correlation(results, rows, axis)}"
    return Effect(axis, values[0], tuple(points), reason)


def is_grid(results: Results) -> bool:
    """Whether trials differ from the baseline in several axes at once (or there is no baseline to differ from)."""
    base = next((row for row in results.rows if row.id == results.baseline_id), None)
    if base is None:
        return True
    return any(
        sum(not same(axis_value(row, axis), axis_value(base, axis)) for axis in results.axes) > 1
        for row in on_axes(results)
    )


def _correlation(results: Results, rows: Sequence[Row], axis: str) -> str:
    """Spearman's rank correlation of a numeric axis with the objective, where there are trials enough: what a random
    search says of an axis. Empty where it says nothing."""
    pairs = [(axis_value(row, axis), objective_value(results, row)) for row in rows]
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value, _ in pairs)
    if len(pairs) < LEAST_TRIALS or not numeric or len({value for value, _ in pairs}) < 3:
        return ""
    from scipy.stats import spearmanr

    found = spearmanr([value for value, _ in pairs], [score for _, score in pairs])
    if not math.isfinite(found.statistic):
        return ""
    rho = signless(f"{found.statistic:+.2f}")
    return f"; over {len(pairs)} trials its rank correlation with the score is {rho} ({p_value(float(found.pvalue))})"


def _matched(results: Results, rows: Sequence[Row], axis: str, reference: Any, value: Any) -> list[tuple[Row, Row]]:
    """Pairs of trials (reference, value) that are equal in every other axis, in the seed and in the method."""
    first = {_rest(results, row, axis): row for row in rows if same(axis_value(row, axis), reference)}
    pairs = []
    for row in rows:
        if same(axis_value(row, axis), value):
            partner = first.get(_rest(results, row, axis))
            if partner is not None:
                pairs.append((partner, row))
    return pairs


def _rest(results: Results, row: Row, axis: str) -> str:
    moved = set(axis_keys(axis))
    others = {key for other in results.axes for key in axis_keys(other)} | set(row.overrides)
    return _frozen([[key, setting(row, key)] for key in sorted(others - moved)] + [["seed", row.seed]])


def _mean(results: Results, rows: Sequence[Row]) -> float:
    values = [value for row in rows if (value := objective_value(results, row)) is not None]
    return sum(values) / len(values)


def _order(value: Any) -> tuple[int, float, str]:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return (0, float(value), "") if is_number else (1, 0.0, _frozen(value))


def _frozen(value: Any) -> str:
    def plain(item: Any) -> Any:
        if isinstance(item, bool) or item is None or isinstance(item, str):
            return item
        if isinstance(item, int | float):
            return float(item)
        if isinstance(item, list | tuple):
            return [plain(entry) for entry in item]
        return {key: plain(entry) for key, entry in item.items()} if isinstance(item, dict) else str(item)

    return json.dumps(plain(value), sort_keys=True)
