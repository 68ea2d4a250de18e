"""What a row says about a metric: its value and interval, the samples behind it, its training loss."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.record.records import MetricRecord, Objective, Results, Row
from orchestrator.show.formats import is_share

NEUTRAL = ("attention", "representations", "matrices")
"""Evals that look into a model: none of their numbers is better or worse."""


def objective_value(results: Results, row: Row) -> float | None:
    """The row's value of the objective; None where it has none or it is not a number."""
    metric = row.metric(results.objective.metric)
    return metric.value if metric is not None and math.isfinite(metric.value) else None


def bounds(name: str, metric: MetricRecord | None) -> tuple[float, float] | None:
    """The 95 % interval of a value; None where its standard error is unknown.

    Wilson's for a share of independent items (its standard error is the binomial one), which is not empty at 0 or 1;
    else the normal one, kept between 0 and 1 for a share.
    """
    from evals._stats import normal_quantile, wilson

    if metric is None or metric.stderr is None or metric.n < 1 or not math.isfinite(metric.value):
        return None
    share = is_share(name) and 0 <= metric.value <= 1
    if share and metric.n > 1:
        binomial = math.sqrt(metric.value * (1 - metric.value) / (metric.n - 1))
        if abs(metric.stderr - binomial) <= 0.02 * binomial:
            found = wilson(metric.value * metric.n, metric.n)
            return found.low, found.high
    half = normal_quantile(0.95) * metric.stderr
    low, high = metric.value - half, metric.value + half
    return (max(0.0, low), min(1.0, high)) if share else (low, high)


def target(objective: Objective) -> float | None:
    """The target on the metric's own scale: a share that is written in per cent (22) means 0.22."""
    goal = objective.target
    return goal / 100 if goal is not None and goal > 1 and is_share(objective.metric) else goal


def is_better(objective: Objective, one: float, other: float) -> bool:
    """Whether `one` is a better value of the objective than `other`."""
    return one > other if objective.direction == "max" else one < other


def samples_of(row: Row, metric: str) -> list[dict[str, Any]]:
    """The samples of the eval that yields a metric; empty where there are none."""
    for name, record in row.evals.items():
        if metric in record.metrics:
            return row.samples.get(name, [])
    return []


def metric_names(rows: Sequence[Row]) -> list[str]:
    """Names of all eval metrics of the rows, in the order of first sight."""
    return list(dict.fromkeys(name for row in rows for record in row.evals.values() for name in record.metrics))


def direction_of(results: Results, metric: str) -> str:
    """`max` or `min`: the objective's own, or what the records of the metric say."""
    if metric == results.objective.metric:
        return results.objective.direction
    found = next((m for row in results.rows if (m := row.metric(metric)) is not None), None)
    return found.direction if found is not None else "max"


def setting(row: Row, key: str) -> Any:
    """A setting of a row by dotted key: what the search set, else the resolved settings; None where there is none."""
    if key in row.overrides:
        return row.overrides[key]
    settings: Mapping[str, Any] = row.settings or (row.record.settings if row.record else {})
    # Method blocks lie under `blocks`, all else at the top.
    for place in (settings, settings.get("blocks")):
        found = _at(place, key)
        if found is not None:
            return found
    return None


def _at(place: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(place, Mapping) or part not in place:
            return None
        place = place[part]
    return place


def training_summary(row: Row, key: str) -> Any:
    """A value of train.json's summary, or of the settings where training did not say."""
    found = row.train.get("summary", {}).get(key)
    if found is not None:
        return found
    return setting(row, f"data.{key}" if key == "max_length" else f"train.{key}")


def steps_of(row: Row) -> list[dict[str, Any]]:
    """The optimizer steps of train.json that have a finite loss."""
    return [point for point in row.train.get("steps", []) if _finite(point.get("loss"))]


def heldout_of(row: Row) -> list[dict[str, Any]]:
    """The held-out points of train.json that have a finite loss."""
    return [point for point in row.train.get("heldout", []) if _finite(point.get("loss"))]


def training_loss(row: Row) -> float | None:
    """Mean loss per target over the last epoch of training; None without training."""
    found = row.train.get("metrics", {}).get("train/loss")
    if found is not None:
        return float(found)
    epochs = epoch_losses(row)
    return epochs[-1][1] if epochs else None


def epoch_losses(row: Row) -> list[tuple[float, float]]:
    """(epoch's end, mean training loss per target in it), one per started epoch, from the steps."""
    sums: dict[int, list[float]] = {}
    for point in steps_of(row):
        epoch = max(0, math.ceil(point.get("epoch", 0) - 1e-6) - 1)
        weight = point.get("targets") or 1
        total = sums.setdefault(epoch, [0.0, 0.0, 0.0])
        total[0] += point["loss"] * weight
        total[1] += weight
        total[2] = point.get("epoch", epoch + 1)
    return [(total[2], total[0] / total[1]) for _, total in sorted(sums.items())]


def trained(results: Results) -> Iterator[Row]:
    """The rows that are no base rows."""
    return (row for row in results.rows if not row.is_base)


def _finite(item: Any) -> bool:
    return isinstance(item, int | float) and math.isfinite(item)
