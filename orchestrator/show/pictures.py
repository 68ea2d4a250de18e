"""The charts of one trial, as figures for the report and as PNG pictures for MLflow."""

from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.record.records import EvalRecord, Row
from orchestrator.show.heatmaps import attention_maps, moved_maps, sink_maps
from orchestrator.show.profiles import gradient_profile, likeness_profiles, norm_profiles
from orchestrator.show.svg import Figure

Maker = Callable[[Mapping[str, Any], str, str], Figure | None]


def _moved(tables: Mapping[str, Any], label: str, name: str) -> Figure | None:
    return moved_maps([(label, tables.get("weights_moved") or [])], name)


def _likeness(tables: Mapping[str, Any], label: str, name: str) -> Figure | None:
    return likeness_profiles(tables.get("likeness") or {}, label, name)


MAKERS: dict[str, dict[str, Maker]] = {
    "attention": {"sink": sink_maps, "maps": attention_maps, "norms": norm_profiles},
    "representations": {"likeness": _likeness},
    "matrices": {"weights_moved": _moved},
}
"""Eval -> name of a chart -> what draws it from the eval's tables."""


def eval_figure(row: Row, eval_name: str, chart: str) -> Figure | None:
    """One chart of one trial, named so that it is the only one in a report; None where there is nothing to draw."""
    record = row.evals.get(eval_name)
    if record is None or not record.tables:
        return None
    return MAKERS[eval_name][chart](record.tables, row.label, f"{chart.replace('_', '-')}-{row.id}")


def training_figure(row: Row) -> Figure | None:
    """The gradients by position of a trial; None where they were not kept."""
    return gradient_profile(row.train, row.label, f"position-gradients-{row.id}")


def eval_pictures(row: Row, record: EvalRecord) -> dict[str, bytes]:
    """File name -> PNG of every chart of one eval; empty for an eval without charts."""
    own = row.model_copy(update={"evals": {record.eval: record}})
    found = {chart: eval_figure(own, record.eval, chart) for chart in MAKERS.get(record.eval, {})}
    return {f"{chart}.png": figure.png() for chart, figure in found.items() if figure is not None}


def training_pictures(row: Row) -> dict[str, bytes]:
    """File name -> PNG of every chart of a training."""
    figure = training_figure(row)
    return {} if figure is None else {"position_gradients.png": figure.png()}
