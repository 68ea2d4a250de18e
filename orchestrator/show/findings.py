"""The judgements of a report, each a value with its reason, and the sentence that says what the evidence supports."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from orchestrator.record.records import Results, State
from orchestrator.show import formats
from orchestrator.show.bars import drop_names
from orchestrator.show.evidence import Evidence, against_base, compare_rows, with_metric
from orchestrator.show.fit import Fit, fits
from orchestrator.show.metrics import NEUTRAL, bounds, direction_of, metric_names, objective_value, target
from orchestrator.show.ranking import Entry, base_of, entries, ranked


@dataclass(frozen=True)
class TargetFinding:
    """Whether the best configuration reaches the target."""

    verdict: Literal["met", "met, not surely", "missed, not surely", "missed"]
    target: float
    value: float
    reason: str


@dataclass(frozen=True)
class Findings:
    """All that the report concludes."""

    ranking: tuple[Entry, ...]
    """Best first; configurations without a value last."""
    best: Entry | None
    best_reason: str
    base_value: float | None
    """The objective of the best configuration's base row."""
    evidence: Mapping[str, Evidence]
    """Against the base, by the id of a configuration's first trial."""
    versus_base: Evidence | None
    runner_up: Entry | None
    versus_runner_up: Evidence | None
    target: TargetFinding | None
    fits: Mapping[str, Fit]
    """By trial id."""
    verdict: tuple[str, ...]
    """Sentences, the most important first."""


def find(results: Results) -> Findings:
    """Judge a sweep. Works with what is there: no finished trial, no base, no samples and no target are all cases."""
    order = ranked(results)
    first = order[0] if order and order[0].value is not None else None
    second = order[1] if len(order) > 1 and order[1].value is not None else None
    evidence = against_base(results)
    name, direction = results.objective.metric, results.objective.direction
    versus_second = (
        compare_rows(with_metric(second, name), with_metric(first, name), name, direction) if first and second else None
    )
    base = base_of(results, first.row) if first else None
    base_value = objective_value(results, base) if base else None
    goal = judge_target(results, first) if first else None
    way = "highest" if direction == "max" else "lowest"
    scored = sum(entry.value is not None for entry in order)
    found = Findings(
        ranking=tuple(order),
        best=first,
        best_reason=f"the {way} {formats.metric_label(name)} of {formats.count(scored, 'finished configuration')}"
        if first
        else f"no trial has a value of {formats.metric_label(name)}",
        base_value=base_value,
        evidence=evidence,
        versus_base=evidence.get(first.rows[0].id) if first else None,
        runner_up=second,
        versus_runner_up=versus_second,
        target=goal,
        fits=fits(results),
        verdict=(),
    )
    return Findings(**{**found.__dict__, "verdict": tuple(_sentences(results, found))})


def judge_target(results: Results, entry: Entry) -> TargetFinding | None:
    """Compare a configuration with the target; None without target or value. Its interval says how sure that is."""
    goal, value, name = target(results.objective), entry.value, results.objective.metric
    if goal is None or value is None:
        return None
    up = results.objective.direction == "max"
    met = value >= goal if up else value <= goal
    span = bounds(name, entry.row.metric(name)) if len(entry.scored) == 1 else None
    here, there = formats.score(name, value), formats.score(name, goal)
    if span is None:
        return TargetFinding("met" if met else "missed", goal, value, f"{here} against a target of {there}")
    inside = span[0] < goal < span[1]
    low, high = (formats.score(name, edge) for edge in span)
    reason = f"{here} against a target of {there}; its 95 % interval, {low} to {high}, "
    reason += "contains the target" if inside else "does not contain the target"
    if inside:
        return TargetFinding("met, not surely" if met else "missed, not surely", goal, value, reason)
    return TargetFinding("met" if met else "missed", goal, value, reason)


def improvements(results: Results, findings: Findings) -> list[tuple[str, float | None, float | None, Evidence | None]]:
    """Base against best on every eval metric that can be better or worse: (metric, base value, best value, evidence).
    The objective's p-value is the adjusted one; the others are described, not tested, and carry their own."""
    entry = findings.best
    base = base_of(results, entry.row) if entry else None
    if entry is None:
        return []
    rows = [base, entry.row] if base else [entry.row]
    table, drops = [], drop_names(metric_names(rows))
    for name in metric_names(rows):
        family = name.split("/")[0]
        is_shown = family not in NEUTRAL and (family != "robustness" or name in drops)
        if not is_shown and name != results.objective.metric:
            continue
        old = found.value if base and (found := base.metric(name)) else None
        values = [found.value for row in entry.rows if (found := row.metric(name)) is not None]
        new = sum(values) / len(values) if values else None
        shown = None
        if base and old is not None and values:
            shown = (
                findings.versus_base
                if name == results.objective.metric
                else compare_rows([base], with_metric(entry, name), name, direction_of(results, name))
            )
        table.append((name, old, new, shown))
    return table


def difference_text(evidence: Evidence) -> str:
    """`+43.3 points (95 % interval +36.2 to +50.4, n = 300, p < 0.001)`, as far as it is known."""
    parts = []
    if evidence.low is not None and evidence.high is not None:
        parts.append(f"95 % interval {formats.interval(evidence.metric, evidence.low, evidence.high)}")
    if evidence.n:
        parts.append(f"n = {formats.number(evidence.n)}")
    if evidence.p is not None:
        parts.append(formats.p_value(evidence.p) + (f" after Holm over {evidence.tests}" if evidence.tests > 1 else ""))
    head = formats.difference(evidence.metric, evidence.difference)
    return f"{head} ({', '.join(parts)})" if parts else head


def _sentences(results: Results, found: Findings) -> list[str]:
    name = results.objective.metric
    label = formats.metric_label(name)
    trials = len(entries(results))
    counted = formats.count(trials, "configuration")
    if found.best is None or found.best.value is None:
        failures = sum(row.state is State.FAILED for row in results.rows if not row.is_base)
        why = f": {formats.count(failures, 'trial')} failed" if failures else ""
        return [f"There is no answer yet: none of {counted} has a value of {label}{why}."]
    best, value = found.best, formats.score(name, found.best.value)
    many = f"Of {counted}, {best.label} has the best {label}, {value}"
    lead = many if trials > 1 else f"{best.label} has {label} {value}"
    return [_against_base(found, lead, label), *_more(found, trials)]


def _against_base(found: Findings, lead: str, label: str) -> str:
    versus = found.versus_base
    if found.base_value is None or versus is None:
        return f"{lead}; there is no base value to compare it with."
    old = formats.score(versus.metric, found.base_value)
    text = difference_text(versus)
    if versus.verdict == "better":
        return f"{lead}, against {old} for the base: better by the evidence, {text}."
    if versus.verdict == "worse":
        return f"{lead}, yet it is worse than the base's {old} by the evidence, {text}."
    if versus.verdict == "not separable":
        return f"{lead}, against {old} for the base: not separable from it, {text}."
    return f"{lead}, against {old} for the base: {text}; how sure that is cannot be said ({versus.reason})."


def _more(found: Findings, trials: int) -> list[str]:
    sentences = []
    goal = found.target
    if goal is not None:
        words = {
            "met": "The target is met",
            "met, not surely": "The target is met, though not surely",
            "missed, not surely": "The target is missed, though not surely",
            "missed": "The target is missed",
        }
        sentences.append(f"{words[goal.verdict]}: {goal.reason}.")
    second, versus = found.runner_up, found.versus_runner_up
    if second is not None and versus is not None:
        text = difference_text(versus)
        if versus.verdict == "not separable":
            sentences.append(f"Its lead over the runner-up, {second.label}, is not separable from zero: {text}.")
        elif versus.verdict == "better":
            sentences.append(f"It is also separable from the runner-up, {second.label}: {text}.")
        else:
            sentences.append(f"The runner-up is {second.label}: {text}; {versus.reason}.")
    if found.best is not None and len(found.best.scored) > 1 and found.best.deviation is not None:
        name = found.versus_base.metric if found.versus_base else ""
        spread = formats.spread(name, found.best.deviation).replace(" ± ", "")
        unit = " points" if formats.is_share(name) else ""
        seeds = formats.count(len(found.best.scored), "seed")
        sentences.append(f"It is the mean of {seeds}, between which the standard deviation is {spread}{unit}.")
    if trials > 2 and found.best is not None:
        sentences.append(
            "The best of several is chosen by the same items it is scored on, so its own value leans to the good side."
        )
    fit = found.fits.get(found.best.row.id) if found.best else None
    if fit is not None and fit.kind not in ("balanced", "unknown"):
        sentences.append(f"Its curves show {fit.kind}: {fit.reason}.".replace("show diverged", "diverged"))
    return sentences
