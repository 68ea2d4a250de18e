"""The charts of one trial, as figures for the report and as PNG pictures for MLflow."""

from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.record.records import EvalRecord, Row
from orchestrator.show.bars import drop_bars
from orchestrator.show.heatmaps import attention_maps, moved_maps, sink_maps
from orchestrator.show.profiles import gradient_profile, likeness_profiles, norm_profiles
from orchestrator.show.svg import Figure

Maker = Callable[[Row, str], Figure | None]


def _of_tables(eval_name: str, draw: Callable[[Mapping[str, Any], str, str], Figure | None]) -> Maker:
    """Draws from the tables of an eval."""

    def make(row: Row, name: str) -> Figure | None:
        tables = row.evals[eval_name].tables
        return draw(tables, row.label, name) if tables else None

    return make


def _moved(tables: Mapping[str, Any], label: str, name: str) -> Figure | None:
    return moved_maps([(label, tables.get("weights_moved") or [])], name)


def _likeness(tables: Mapping[str, Any], label: str, name: str) -> Figure | None:
    return likeness_profiles(tables.get("likeness") or {}, label, name)


def _drops(row: Row, name: str) -> Figure | None:
    return drop_bars([row], name)


MAKERS: dict[str, dict[str, Maker]] = {
    "attention": {
        "sink": _of_tables("attention", sink_maps),
        "maps": _of_tables("attention", attention_maps),
        "norms": _of_tables("attention", norm_profiles),
    },
    "representations": {"likeness": _of_tables("representations", _likeness)},
    "matrices": {"weights_moved": _of_tables("matrices", _moved)},
    "robustness": {"drops": _drops},
}
"""Eval -> name of a chart -> what draws it from a row that has the eval."""


def eval_figure(row: Row, eval_name: str, chart: str) -> Figure | None:
    """One chart of one trial, named so that it is the only one in a report; None where there is nothing to draw."""
    if eval_name not in row.evals:
        return None
    return MAKERS[eval_name][chart](row, f"{chart.replace('_', '-')}-{row.id}")


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
