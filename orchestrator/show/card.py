"""The model card of an exported trial, made from its records: what it is, from what, how well, and how to load it."""

import json
from collections.abc import Mapping
from typing import Any

from orchestrator.record.records import Row
from orchestrator.show import formats
from orchestrator.show.evidence import compare_rows
from orchestrator.show.grid import Column, Table, markdown_text, to_markdown
from orchestrator.show.loading import bits, loading
from orchestrator.show.metrics import bounds, metric_names, training_loss

LICENCE = (
    "Not named yet: whoever publishes this model names it. The licences of the base model and of the data bind them."
)


def card(row: Row, base: Row | None, written: Mapping[str, Any], name: str) -> str:
    """The card as Markdown. `written`: what the files are, with `kind`, `dtype`, `quantized` (or None), `onnx` (bool),
    `base` (path or hub id) and `notes`, and may have, from the trial's export, `quantization` (how the base is read),
    `adapter` (its adapter_config.json) and `trust_remote_code`; `name`: of the folder that they lie in."""
    settings = row.settings or (row.record.settings if row.record else {})
    method = str(settings.get("method", "")).upper()
    parts = [
        _head(written),
        f"# {markdown_text(name)}",
        f"{method or 'A fine-tune'} of {markdown_text(str(written['base']))}: trial `{row.id}`"
        + (f" ({markdown_text(row.label)})." if row.label not in ("", row.id) else "."),
        _what(row, written),
        "## Scores",
        _scores(row, base, written),
        "## Data",
        _data(row, settings),
        "## Settings",
        _settings(settings),
        "## Training",
        _training(row),
        "## Load it",
        loading(written, name),
        "## Licence",
        LICENCE,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(written: Mapping[str, Any]) -> str:
    base = str(written["base"])
    named = f"base_model: {base}\n" if base.count("/") == 1 and not base.startswith((".", "/", "~")) else ""
    library = "peft" if written["kind"] == "adapter" else "transformers"
    return f"---\n{named}library_name: {library}\npipeline_tag: text-generation\ntags: [finesweep]\n---"


def _what(row: Row, written: Mapping[str, Any]) -> str:
    what = "An adapter; it needs its base model" if written["kind"] == "adapter" else "A whole model"
    weights = f"weights in {written['dtype']}"
    if written["kind"] == "adapter" and written.get("quantization"):
        weights = f"the linear layers of the base in {bits(written['quantization'])}, the rest in {written['dtype']}"
    if written.get("quantized"):
        weights = f"linear layers in {written['quantized']} (bitsandbytes), the rest in {written['dtype']}"
    onnx = ", and the same as ONNX in `onnx/`" if written.get("onnx") else ""
    notes = "".join(f"\n- {markdown_text(note)}" for note in written.get("notes", ()))
    return f"{what}: {weights}{onnx}.{notes and chr(10) + notes}"


def _scores(row: Row, base: Row | None, written: Mapping[str, Any]) -> str:
    names = metric_names([row])
    if not names:
        return "It has not been scored."
    lines = []
    for name in names:
        metric, before = row.metric(name), base.metric(name) if base else None
        assert metric is not None
        span = bounds(name, metric)
        evidence = compare_rows([base], [row], name, metric.direction) if base and before else None
        lines.append(
            (
                formats.metric_label(name),
                formats.score(name, metric.value),
                f"{formats.score(name, span[0])} to {formats.score(name, span[1])}" if span else formats.NONE,
                formats.number(metric.n),
                formats.score(name, before.value) if before else formats.NONE,
                formats.difference(name, evidence.difference) if evidence else formats.NONE,
                formats.interval(name, evidence.low, evidence.high) if evidence else formats.NONE,
                "higher" if metric.direction == "max" else "lower",
            )
        )
    heads = ("metric", "this model", "95 % interval", "n", "base", "difference", "its 95 % interval", "better")
    table = Table(tuple(Column(head, 0 < place < 7) for place, head in enumerate(heads)), tuple(lines))
    evals = {record.eval: record for record in row.evals.values()}
    by = [
        f"{markdown_text(name)} ({', '.join([f'version {record.version}', *filter(None, [record.harness])])}, "
        f"data `{record.data_hash[:12]}`)"
        for name, record in evals.items()
    ]
    text = f"Measured on the trial's own export by {formats.listing(by)}."
    if base:
        quantization = written.get("quantization")
        read = f" in {bits(quantization)}" if quantization else ""
        text += (
            f" The base is the untouched model{read} under the same template, scored by the same evals, paired item "
            "by item."
        )
    return f"{to_markdown(table)}\n\n{text}"


def _data(row: Row, settings: Mapping[str, Any]) -> str:
    data, rows = settings.get("data") or {}, row.train.get("rows", {})
    if not data:
        return "Not on record."
    text = f"`{data.get('path')}`"
    if rows:
        held = formats.number(rows.get("heldout", 0))
        text += f": {formats.number(rows.get('train', 0))} rows trained on, {held} held out"
        dropped = sum(rows.get("dropped", {}).values())
        text += f", {formats.number(dropped)} dropped" if dropped else ""
    return text + "."


def _settings(settings: Mapping[str, Any]) -> str:
    blocks: dict[str, Mapping[str, Any]] = {
        name: settings.get(name) or {} for name in ("train", "data", "model")
    } | dict(settings.get("blocks") or {})
    lines = [("method", str(settings.get("method", formats.NONE))), ("seed", str(settings.get("seed", 0)))]
    for name, block in blocks.items():
        for key, value in (block or {}).items():
            if value not in (None, {}, []) and f"{name}.{key}" != "data.path":
                # A format string keeps its line ends, which a cell of a table would lose.
                shown = json.dumps(value, ensure_ascii=False) if isinstance(value, str) and "\n" in value else None
                lines.append((f"{name}.{key}", shown or formats.value(value)))
    return to_markdown(Table((Column("setting"), Column("value")), tuple(lines)))


def _training(row: Row) -> str:
    train, summary = row.train, row.train.get("summary", {})
    if not summary:
        return "Nothing is on record."
    items = [
        ("steps", formats.number(summary.get("total_steps"))),
        ("tokens", formats.number(train.get("tokens"))),
        ("time", formats.duration(train.get("seconds"))),
        ("device", str(summary.get("device", formats.NONE))),
        ("precision", str(summary.get("precision", formats.NONE))),
        ("trained parameters", f"{formats.number(summary.get('trainable_parameters'))} of "
         f"{formats.number(summary.get('total_parameters'))}"),
        ("training loss, last epoch", formats.loss(training_loss(row))),
    ]  # fmt: skip
    if (held := train.get("metrics", {}).get("train/heldout_loss")) is not None:
        items.append(("held-out loss", formats.loss(held)))
    versions = ", ".join(f"{name} {version}" for name, version in train.get("versions", {}).items())
    items += [("versions", versions)] if versions else []
    return "\n".join(f"- {name}: {markdown_text(value)}" for name, value in items)
