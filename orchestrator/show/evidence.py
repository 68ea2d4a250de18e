"""What the paired scores say: is one configuration better than another, and how sure is that?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.record.records import Results, Row
from orchestrator.show.formats import p_value
from orchestrator.show.metrics import direction_of, samples_of
from orchestrator.show.ranking import Entry, base_of, entries

ALPHA = 0.05
"""Family-wise error of the verdicts."""
Verdict = Literal["better", "worse", "not separable", "not comparable"]


@dataclass(frozen=True)
class Evidence:
    """Trial minus other on one metric, over the items that both were scored on."""

    metric: str
    verdict: Verdict
    difference: float | None
    """Of the two metrics over the paired items; where nothing could be paired, of the recorded values."""
    low: float | None
    high: float | None
    p: float | None
    """Adjusted by Holm's procedure over `tests` comparisons."""
    n: int
    tests: int
    gains: int
    losses: int
    method: str
    reason: str


@dataclass(frozen=True)
class _Pairing:
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    n: int = 0
    gains: int = 0
    losses: int = 0
    method: str = ""
    reason: str = ""


def judge(pairing: "_Pairing", metric: str, direction: str, p: float | None, tests: int) -> Evidence:
    """The verdict on one pairing: better or worse where Holm's adjusted `p` is below ALPHA, else not separable."""
    if pairing.difference is None or pairing.n == 0 or p is None:
        verdict: Verdict = "not comparable"
        reason = pairing.reason or "the two share no scored items"
    elif p < ALPHA:
        gain = pairing.difference > 0 if direction == "max" else pairing.difference < 0
        verdict = "better" if gain else "worse"
        reason = f"{'adjusted ' if tests > 1 else ''}{p_value(p)}, below {ALPHA}"
    else:
        verdict = "not separable"
        reason = f"{'adjusted ' if tests > 1 else ''}{p_value(p)}, not below {ALPHA}"
    reason = f"{reason}; {pairing.reason}" if pairing.reason and pairing.reason not in reason else reason
    return Evidence(
        metric=metric,
        verdict=verdict,
        difference=pairing.difference,
        low=pairing.low,
        high=pairing.high,
        p=p,
        n=pairing.n,
        tests=tests,
        gains=pairing.gains,
        losses=pairing.losses,
        method=pairing.method,
        reason=reason,
    )


def compare_rows(
    others: Sequence[Row], rows: Sequence[Row], metric: str, direction: str, *, tests: int = 1, p: float | None = None
) -> Evidence:
    """`rows` against `others`, each side averaged item by item; `p` is an adjusted one, else the comparison's own."""
    pairing = _pair(others, rows, metric)
    return judge(pairing, metric, direction, pairing.p if p is None else p, tests)


def with_p(found: Sequence[tuple[Evidence, str]]) -> list[Evidence]:
    """Comparisons, each with the direction of its metric, judged together: their p-values adjusted by Holm's procedure
    over all that could be made."""
    from evals._stats import holm

    adjusted = holm([math.nan if evidence.p is None else evidence.p for evidence, _ in found])
    tests = sum(not math.isnan(p) for p in adjusted)
    judged = []
    for (evidence, direction), p in zip(found, adjusted, strict=True):
        names = ("difference", "low", "high", "p", "n", "gains", "losses", "method")
        why = evidence.reason if evidence.p is None else ""
        pairing = _Pairing(**{name: getattr(evidence, name) for name in names}, reason=why)
        judged.append(judge(pairing, evidence.metric, direction, None if math.isnan(p) else p, tests))
    return judged


def against_base(results: Results, metric: str | None = None) -> dict[str, Evidence]:
    """Every configuration against its base row on the objective (or `metric`), by the id of its first trial.

    The p-values are adjusted by Holm's procedure over all configurations that could be compared: with many trials the
    best one looks good by luck alone.
    """
    from evals._stats import holm

    name = metric or results.objective.metric
    pairings: dict[str, _Pairing] = {}
    for entry in entries(results):
        base = base_of(results, entry.row)
        rows = with_metric(entry, name)
        if base is not None and base.metric(name) is not None and rows:
            pairings[entry.rows[0].id] = _pair([base], rows, name)
    adjusted = holm([math.nan if found.p is None else found.p for found in pairings.values()])
    tests = sum(not math.isnan(p) for p in adjusted)
    direction = direction_of(results, name)
    return {
        id_: judge(found, name, direction, None if math.isnan(p) else p, tests)
        for (id_, found), p in zip(pairings.items(), adjusted, strict=True)
    }


def with_metric(entry: Entry, metric: str) -> list[Row]:
    """The trials of a configuration that have a metric."""
    return [row for row in entry.rows if row.metric(metric) is not None]


def _pair(others: Sequence[Row], rows: Sequence[Row], metric: str) -> _Pairing:
    from evals._paired import compare

    before, after = _mean_value(others, metric), _mean_value(rows, metric)
    plain = None if before is None or after is None else after - before
    first, second = _items(others, metric), _items(rows, metric)
    if not first or not second:
        return _Pairing(plain, None, None, None, reason="no samples are kept of it, so it cannot be paired")
    found = compare(first, second, metric)
    if found.n == 0 or math.isnan(found.difference):
        return _Pairing(plain, None, None, None, reason=found.reason)
    return _Pairing(
        difference=found.difference,
        low=_known(found.low),
        high=_known(found.high),
        p=_known(found.p),
        n=found.n,
        gains=found.gains,
        losses=found.losses,
        method=found.method,
        reason=found.reason if found.reason != "no verdict differs" else "",
    )


def _items(rows: Sequence[Row], metric: str) -> list[dict[str, Any]]:
    from evals._paired import mean_over_seeds

    runs = [
        [sample for sample in samples_of(row, metric) if "key" in sample and metric in sample.get("scores", {})]
        for row in rows
    ]
    runs = [run for run in runs if run]
    return runs[0] if len(runs) == 1 else mean_over_seeds(runs, metric) if runs else []


def _mean_value(rows: Sequence[Row], metric: str) -> float | None:
    values = [found.value for row in rows if (found := row.metric(metric)) is not None]
    return sum(values) / len(values) if values else None


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
