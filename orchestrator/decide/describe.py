"""A plan as aligned text: what `--plan` prints."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.decide.plan import Plan, PlannedTrial

GB = 10**9
HEAD = ("id", "trial", "steps", "rows", "batch", "parameters", "memory", "card", "disk")
NUMBERS = frozenset({2, 3, 5, 6, 7, 8})
"""Columns that are aligned to the right."""


def describe(plan: "Plan") -> str:
    """Trials and base rows with what they take, the evals of each, then warnings and what this machine lacks."""
    sweep = plan.sweep
    profile = f" (profile {plan.profile})" if plan.profile else ""
    lines = [f"{sweep.name}{profile}: {_count(len(plan.trials), 'trial')}, {_count(len(plan.bases), 'base row')}"]
    if sweep.question:
        lines.append(sweep.question)
    target = f", target {plan.objective.target:g}" if plan.objective.target is not None else ""
    lines.append(f"ranked by {plan.objective.metric} ({plan.objective.direction}{target})")
    lines += ["", *table([HEAD, *(_row(trial) for trial in (*plan.bases, *plan.trials))])]
    if sweep.evals:
        lines += ["", "evals of every row"]
        for name, config in sweep.evals.items():
            values = ", ".join(f"{key}={value}" for key, value in config.model_dump(mode="json").items())
            lines.append(f"  {name}: {values}" if values else f"  {name}")
    known = [trial.estimate.disk_bytes for trial in plan.trials if trial.estimate.disk_bytes is not None]
    if known:
        lines += ["", f"disk: about {_bytes(sum(known))} for exports and one checkpoint per trial"]
    if any(trial.estimate.memory for trial in plan.trials):
        lines.append("memory: of one device while it trains, estimated; card: the smallest GPU that holds it")
    for title, texts in (("warnings", plan.warnings), ("not on this machine (a run is refused)", plan.unresolved)):
        if texts:
            lines += ["", title, *(f"  {text}" for text in texts)]
    return "\n".join(lines)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of text as lines with aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if column in NUMBERS else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _row(trial: "PlannedTrial") -> tuple[str, ...]:
    found = trial.estimate
    batch = f"{found.micro_batch} x {found.accumulation}" if found.micro_batch else "-"
    workers = trial.settings.resources.workers
    if found.micro_batch and workers > 1:
        batch += f" x {workers}"
    return (
        trial.id,
        trial.label,
        _number(found.steps),
        _number(found.rows),
        batch,
        _number(found.parameters),
        _bytes(found.memory_bytes),
        _card(trial),
        _bytes(found.disk_bytes),
    )


def _card(trial: "PlannedTrial") -> str:
    memory = trial.estimate.memory
    if memory is None:
        return "-"
    return f"{memory.card_gb} GB" if memory.card_gb else "> 80 GB"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _bytes(value: int | None) -> str:
    if value is None:
        return "-"
    return f"{value / GB:.1f} GB" if value >= GB / 10 else f"{value / 10**6:.1f} MB"
