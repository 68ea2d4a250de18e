"""Ray Train: the workers that train one trial. Adapts `ray.train` to the `Reporter` that the fit wants."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.run.cluster import FOLDER
from trainables._settings import Job


@dataclass(frozen=True)
class Facts:
    """What is known of an error that ended an attempt."""

    kind: str
    message: str
    traceback: str


def train_worker(config: dict[str, Any]) -> None:
    """Runs in each Ray Train worker."""
    from orchestrator.record.ledger import journal
    from trainables._fit import fit

    folder = os.environ.get(FOLDER)
    if folder and folder not in sys.path:
        # Last, so that nothing that lies there hides a library.
        sys.path.append(folder)
    job: Job = config["job"]
    reporter = RayReporter()
    if reporter.rank == 0:
        journal(Path(config["root"]), kind="fit", id=job.trial_id)
    fit(job, reporter)


class RayReporter:
    """Reports to Ray Train's controller, which passes rank 0's metrics to Tune."""

    def __init__(self) -> None:
        import ray.train

        context = ray.train.get_context()
        self.rank: int = context.get_world_rank()
        self.world_size: int = context.get_world_size()

    def report(self, points: list[dict[str, Any]], checkpoint: Path | None) -> None:
        """Pass points on; on a save this rank's part of the checkpoint, which Ray puts together with the others'. Every
        rank must call this the same number of times."""
        import ray.train

        metrics: dict[str, Any] = {"points": points}
        losses = [point for point in points if "loss" in point]
        if losses:
            metrics |= {"step": losses[-1]["step"], "train/loss": losses[-1]["loss"]}
        saved = None
        if checkpoint is not None:
            saved = ray.train.Checkpoint.from_directory(str(checkpoint))
        ray.train.report(metrics, checkpoint=saved)

    def resume_from(self) -> Path | None:
        """The newest checkpoint of the run of this name; it lies on storage that every worker sees."""
        path = self.last_checkpoint()
        return Path(path) if path else None

    def last_checkpoint(self) -> str | None:
        """Path of the newest checkpoint."""
        import ray.train

        checkpoint = ray.train.get_checkpoint()
        return None if checkpoint is None else str(checkpoint.path)


def train(job: Job, root: Path, *, workers: int, cpus: float, gpus: float, keep: int) -> None:
    """Train one trial to its end with Ray Train, resuming the run of its name. Raises what Ray Train raises."""
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": job, "root": str(root)},
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": cpus, **({"GPU": gpus} if gpus else {})},
        ),
        run_config=ray.train.RunConfig(
            name=job.trial_id,
            storage_path=str((job.folder / "checkpoints").absolute()),
            callbacks=[TuneReportCallback()],
            # What to do after a failure is decided by the driver, which tells a bug from a lost worker.
            failure_config=ray.train.FailureConfig(max_failures=0, controller_failure_limit=3),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=keep),
        ),
    )
    trainer.fit()


def choose(job: Job, root: Path, *, cpus: float, gpus: float) -> None:
    """Have a trial that trains nothing choose what it exports, in a plain task. Raises what the task raises."""
    import ray

    # A strategy of its own: a task of a Tune trial is otherwise held to the few CPUs of the driver.
    options = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": 0, "scheduling_strategy": "DEFAULT"}
    task = ray.remote(_choose).options(**options)
    ray.get(task.remote(job, root))


def _choose(job: Job, root: Path) -> None:
    from orchestrator.record.ledger import journal
    from trainables._fit import fit

    journal(root, kind="fit", id=job.trial_id)
    fit(job, _Alone())


class _Alone:
    """A `Reporter` of one process that has nothing to report and nothing to go on from."""

    rank = 0
    world_size = 1

    def report(self, points: list[dict[str, Any]], checkpoint: Path | None) -> None:
        """Nothing: there are no steps."""

    def resume_from(self) -> Path | None:
        """None: there are no checkpoints."""
        return None

    def last_checkpoint(self) -> str | None:
        """None: there are no checkpoints."""
        return None


def _first_cause(failures: dict[int, BaseException]) -> BaseException:
    """The failure that explains the others: when one rank fails, the rest only lose their connection to it."""
    found = [_unwrapped(failures[rank]) for rank in sorted(failures)]
    own = [error for error in found if not _is_lost(error)]
    return (own or found)[0]


def _is_lost(error: BaseException) -> bool:
    text = f"{type(error).__name__} {error}".lower()
    return any(sign in text for sign in ("connection", "actordied", "actor died", "workercrashed", "timed out", "gloo"))


def _unwrapped(error: BaseException) -> BaseException:
    """What Ray wrapped. `__cause__` of our own errors is not followed: the outer message has the place and way out."""
    for _ in range(10):
        cause = getattr(error, "cause", None) or getattr(error, "_base_exc", None)
        if not isinstance(cause, BaseException) or cause is error:
            break
        error = cause
    return error


def facts(error: BaseException) -> Facts:
    """Find what went wrong under Ray's wrappers."""
    import traceback

    inner = _first_cause(getattr(error, "worker_failures", None) or {0: error})
    text = "".join(traceback.format_exception(inner))
    names = {cls.__name__ for cls in type(inner).__mro__}
    lowered = f"{type(inner).__name__} {inner}".lower()
    if "OutOfMemoryError" in names or "out of memory" in lowered or isinstance(inner, MemoryError):
        kind = "oom"
    elif names & {"RayActorError", "ActorDiedError", "WorkerCrashedError", "NodeDiedError", "ActorUnavailableError"}:
        kind = "worker_died"
    else:
        kind = type(inner).__name__.removeprefix("RayTaskError(").removesuffix(")")
    message = str(inner).strip().splitlines()
    return Facts(kind, "\n".join(message[:6]) if message else kind, text)
