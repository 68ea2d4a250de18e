"""What a trial will take, before it runs: steps, parameters, memory of a device, disk. None: not known here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.decide.settings import TrialSettings
from orchestrator.registry import NO_METHOD
from trainables.core.batches import batch_shape
from trainables.core.memory import BYTES, OPTIMIZER_STATES, Footprint, Memory, full_footprint, shape_of, training_memory
from trainables.core.schedules import total_steps

COMPUTE = {"auto": "float32", "float32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""`train.precision` -> the type of the forward pass; `auto` is counted as the larger of what it may come to."""


@dataclass(frozen=True)
class Estimate:
    """What one trial takes. Of a trial without training only `parameters` is known."""

    rows: int | None = None
    """Rows it trains on, before rows without a target are dropped."""
    steps: int | None = None
    parameters: int | None = None
    memory: Memory | None = None
    """Of one device."""
    disk_bytes: int | None = None
    """Its export and one checkpoint."""
    micro_batch: int | None = None
    accumulation: int | None = None
    footprint: Footprint | None = None
    """What its method makes of the model; None where all of it trains, or where that is not known."""

    @property
    def memory_bytes(self) -> int | None:
        """All memory of one device."""
        return self.memory.total if self.memory else None


def estimate(
    settings: TrialSettings,
    *,
    rows: int | None,
    shapes: Mapping[str, Any] | None,
    footprint: Footprint | None = None,
) -> Estimate:
    """Estimate one trial.

    `rows`: rows in its data, at most `max_rows`; `shapes`: sizes of its model (parameters, hidden, layers, heads,
    kv_heads, head_dim, intermediate, vocab).
    """
    parameters = shapes["parameters"] if shapes else None
    if settings.method == NO_METHOD or settings.data is None:
        return Estimate(parameters=parameters)
    train, data = settings.train, settings.data
    micro_batch, accumulation = batch_shape(
        train.global_batch, settings.resources.workers, train.micro_batch, train.accumulation
    )
    trained = training_rows(rows, data.heldout)
    # How many packs the rows make is known when they are tokenized.
    if trained is None or data.packing:
        steps = train.max_steps
    else:
        steps = total_steps(trained, train.global_batch, train.epochs, train.max_steps)
    dtype = "float32" if settings.model.dtype == "auto" else settings.model.dtype
    memory = disk = None
    if parameters is not None:
        disk = int(parameters * BYTES[dtype] * (2 + OPTIMIZER_STATES.get(train.optimizer, 2.0)))
    shape = shape_of(shapes)
    if shape is not None:
        memory = training_memory(
            shape,
            footprint or full_footprint(shape, dtype),
            rows=micro_batch,
            tokens=data.max_length,
            dtype=dtype,
            compute_dtype=COMPUTE[train.precision],
            optimizer=train.optimizer,
            attention=settings.model.attention,
            gradient_checkpointing=train.gradient_checkpointing,
        )
    return Estimate(
        rows=trained,
        steps=steps,
        parameters=parameters,
        memory=memory,
        disk_bytes=disk,
        micro_batch=micro_batch,
        accumulation=accumulation,
        footprint=footprint,
    )


def training_rows(rows: int | None, heldout: float) -> int | None:
    """Rows left to train on, without the share held out (at least one row, never all)."""
    if rows is None or heldout <= 0 or rows < 2:
        return rows
    return rows - min(max(1, round(rows * heldout)), rows - 1)
