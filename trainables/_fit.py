"""Trains one trial with transformers.Trainer: the loop is the Trainer's; rows, loss, order and export are ours.

A method adds to it which weights train (`build`); the rest is shared. Runs under Ray Train, under torchrun or in a unit
test: whoever calls brings a `Reporter`.
"""

import json
import math
import os
import resource
import shutil
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from trainables._settings import Job, Reporter, Settings
from trainables.core.batches import batch_shape

BEST = "best-"
"""Name of the folder, before the step, that holds the export of the best measurement until the training ends."""


def fit(job: Job, reporter: Reporter) -> dict[str, Any]:
    """Train, export, and write `train.json` into `job.folder`; returns its content (on every rank).

    Raises ValueError for what the user can mend: no rows left, a batch that does not divide, a model that is missing.
    """
    from trainables._merge import merge_as_asked
    from trainables._sharding import session

    config: Settings = import_module(f"trainables.{job.method}").Config(**job.blocks.get(job.method, {}))
    with session(job, reporter.rank, reporter.world_size):
        content = _fit(job, reporter, config)
    # After the session, where ZeRO-3 divides a model that is read among workers that read none; and no worker waits for
    # it, since a merge may take longer than a group of workers waits.
    if reporter.rank == 0 and (told := merge_as_asked(config, job.folder)):
        content["notes"] += told
        write_json(job.folder / "train.json", content)
    return content


def _fit(job: Job, reporter: Reporter, config: Settings) -> dict[str, Any]:
    import torch
    from transformers import set_seed

    from trainables import _adapters
    from trainables._data import prepare, preview
    from trainables._loop import Loop
    from trainables._merge import scored
    from trainables._model import fit_vocabulary, load_model, parameter_counts, place, special_ids, versions
    from trainables._sharding import whole_weights
    from trainables._tokenizer import load_tokenizer, probe

    started = time.time()
    set_seed(job.seed)
    placement = place(job.model, job.train.precision)
    method = import_module(f"trainables.{job.method}")

    tokenizer = load_tokenizer(**tokenizer_arguments(job))
    prepared = prepare(job.data, tokenizer, job.cache, job.contents.get("data"))

    micro_batch, accumulation = batch_shape(
        job.train.global_batch, reporter.world_size, job.train.micro_batch, job.train.accumulation
    )
    loop = Loop(job, reporter, tokenizer, prepared, placement, micro_batch, accumulation)

    # Fresh weights of an adapter must not depend on whether the rows came from the cache.
    set_seed(job.seed)
    quantization = method.quantization(config) if hasattr(method, "quantization") else None
    base = load_model(job.model, placement, method.reading(config) if hasattr(method, "reading") else quantization)
    fit_vocabulary(base, tokenizer)
    model = method.build(base, config)
    for name, value in special_ids(tokenizer).items():
        if value is not None:
            setattr(model.config, name, value)
    trainable, total = parameter_counts(model)
    adapter = _adapters.facts(model)
    if hasattr(method, "optimizer_groups"):
        loop.groups = lambda model: method.optimizer_groups(model, config, job.train)

    def export(name: str) -> None:
        """Write the weights as they are now. Every rank takes part: each holds a piece of a divided model."""
        kind, trained = getattr(method, "EXPORT", "full"), loop.unwrapped()
        weights = whole_weights(trained, kind, keep=reporter.rank == 0)
        if reporter.rank == 0:
            write_export(
                job,
                model=trained,
                weights=weights,
                tokenizer=tokenizer,
                dtype=placement.dtype,
                version=method.VERSION,
                kind=kind,
                quantization=quantization,
                name=name,
            )
        trained.config.use_cache = False

    def export_best(step: int) -> None:
        export(f"{BEST}{step}")
        if reporter.rank == 0:
            # A training that is resumed may find the earlier one to be the best.
            remove_best(job.folder, keep=(step, loop.best_when_saved))

    loop.write_best = export_best
    loop.run(model)

    seconds = loop.points[-1]["seconds"] if loop.points else 0.0
    last_epoch = loop.points[-loop.steps_per_epoch :]
    targets = sum(point["targets"] for point in last_epoch)
    metrics = {"train/loss": sum(point["loss"] * point["targets"] for point in last_epoch) / max(targets, 1)}
    exported = exported_step(loop)
    if loop.heldout:
        # Of the weights that are exported, since trials are ranked by it.
        measured = next(entry for entry in reversed(loop.heldout) if entry["step"] <= exported["step"])
        metrics |= {"train/heldout_loss": measured["loss"], **measured.get("metrics", {})}
    tokens = sum(point["tokens"] for point in loop.points)
    metrics["train/tokens_per_second"] = tokens / seconds if seconds else 0.0
    content = {
        "trial_id": job.trial_id,
        "method": job.method,
        "seed": job.seed,
        "steps": loop.points,
        "heldout": loop.heldout,
        **({"gradients": loop.gradients} if job.train.log_gradients else {}),
        "exported": exported,
        "stopped_early": loop.verdict.reason if len(loop.points) < loop.total_steps else None,
        "metrics": metrics,
        "rows": prepared.rows,
        "tokens": tokens,
        "targets": sum(point["targets"] for point in loop.points),
        "seconds": seconds,
        "total_seconds": time.time() - started,
        "tokens_per_second": metrics["train/tokens_per_second"],
        "peak_memory_bytes": peak_memory_bytes(),
        "checkpoint": reporter.last_checkpoint(),
        "resumed_at_step": loop.resumed_at,
        "summary": {
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "dtype": placement.dtype,
            "precision": placement.precision,
            "attention": placement.attention,
            "workers": reporter.world_size,
            "micro_batch": micro_batch,
            "accumulation": accumulation,
            "global_batch": job.train.global_batch,
            "learning_rate": job.train.learning_rate,
            "epochs": job.train.epochs,
            "total_steps": loop.total_steps,
            "max_length": job.data.max_length,
            "warmup_ratio": job.train.warmup_ratio,
            "warmup_steps": loop.warmup_steps,
            "lr_schedule": job.train.lr_schedule,
            "trainable_parameters": trainable,
            "total_parameters": total,
            "adapter": adapter,
            "parallel": loop.facts(),
        },
        "preview": preview(prepared, tokenizer, 2),
        "tokenizer_probe": probe(tokenizer),
        "notes": [*placement.notes, *prepared.notes, *loop.notes, *_adapters.notes(adapter, trainable, total)],
        "versions": versions(),
        "scored": scored(config),
    }
    if exported["keep"] == "last":
        export("export")
    if reporter.rank == 0:
        if exported["keep"] == "best":
            take_best(job.folder, exported["step"])
        remove_best(job.folder)
        write_json(job.folder / "train.json", content)
        shutil.rmtree(loop.scratch, ignore_errors=True)
    loop.barrier()
    return content


def exported_step(loop: Any) -> dict[str, Any]:
    """Whose weights are exported: {"step", "keep": last | best, "metric", "value"}."""
    train, best = loop.job.train, loop.best
    if train.keep == "best" and best is not None:
        return {"step": best["step"], "keep": "best", "metric": train.best_metric, "value": loop.watched(best)}
    return {"step": loop.points[-1]["step"] if loop.points else 0, "keep": "last", "metric": None, "value": None}


def take_best(folder: Path, step: int) -> None:
    """Make the weights of the best measurement the export. Raises ValueError where they are gone."""
    found = folder / f"{BEST}{step}"
    if not found.is_dir():
        raise ValueError(
            f"train.keep: the weights of the best measurement (step {step}) are gone from {folder}. "
            "Was the folder changed, or is it not on storage that every worker sees?"
        )
    shutil.rmtree(folder / "export", ignore_errors=True)
    found.rename(folder / "export")


def remove_best(folder: Path, keep: Sequence[int | None] = ()) -> None:
    """Remove the weights of measurements that were the best, but for those at some steps."""
    kept = {f"{BEST}{step}" for step in keep}
    for path in folder.glob(f"{BEST}*"):
        if path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)


def tokenizer_arguments(job: Job) -> dict[str, Any]:
    """What `load_tokenizer` needs, from a job."""
    from trainables._model import model_source

    return {
        "path": model_source(job.model.path),
        "mode": job.model.tokenizer,
        "revision": job.model.revision,
        "trust_remote_code": job.model.trust_remote_code,
        "chat_template": job.model.chat_template,
        "format": job.data.format,
        "pad_token": job.model.pad_token,
    }


def write_export(
    job: Job,
    *,
    model: Any,
    tokenizer: Any,
    dtype: str,
    version: int,
    kind: str,
    quantization: dict[str, Any] | None,
    weights: dict[str, Any] | None = None,
    name: str = "export",
) -> Path:
    """Write an export whole: into a folder beside it, then renamed into place, so that half an export never exists.

    `weights`: those of a model that is divided among workers, put together; None where the model has them.
    """
    from trainables._adapters import save
    from trainables._export import describe

    target, fresh = job.folder / name, job.folder / f".export-{os.getpid()}"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    if kind == "adapter":
        save(model, fresh, weights)
    else:
        model.save_pretrained(fresh, state_dict=weights)
    tokenizer.save_pretrained(fresh)
    description = describe(job, kind=kind, dtype=dtype, version=version, tokenizer=tokenizer, quantization=quantization)
    write_json(fresh / "export.json", description)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    return target


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON whole, then rename it into place. NaN and infinity become null: JSON has neither."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(json.dumps(_finite(content), indent=1, allow_nan=False, default=str), encoding="utf-8")
    fresh.replace(path)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def peak_memory_bytes() -> int:
    """Most memory held so far: of the GPU's allocator where there is one, else of this process (its resident set)."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
