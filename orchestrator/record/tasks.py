"""What is handed to Ray, and what is heard back. Plain values: they cross processes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from orchestrator.record.records import EvalRecord, Failure, TrialRecord
from trainables._settings import Job


@dataclass(frozen=True)
class TrialTask:
    """One trial to train."""

    job: Job
    root: Path
    settings: dict[str, Any]
    workers: int = 1
    cpus_per_worker: float | None = None
    """None: what the cluster allows."""
    gpus_per_worker: float | None = None
    """None: one where the cluster has GPUs."""
    keep_checkpoints: int = 1
    trains: bool = True
    """False: it only chooses, in one task without Ray Train."""


@dataclass(frozen=True)
class EvalTask:
    """One eval of one export. `data` is the file to read, or None where the eval finds its data itself."""

    id: str
    trial_id: str
    eval: str
    config: dict[str, Any]
    root: Path
    export: Path
    data: Path | None
    data_hash: str
    version: int
    harness: str
    schemas: Mapping[str, str] = field(default_factory=dict)
    """Field of the config -> path of the JSON schema that it names; the config keeps the name."""
    base: Path | None = None
    """Export of the base row, for an eval that compares with it; None where there is none."""


class Observer(Protocol):
    """Hears what happens, in the command's own process and thread."""

    def trial_started(self, trial_id: str) -> None:
        """A driver was started."""

    def trial_reported(self, trial_id: str, points: list[dict[str, Any]]) -> None:
        """New points of a running trial."""

    def trial_finished(self, record: TrialRecord) -> None:
        """Training ended, well or badly."""

    def eval_started(self, task: EvalTask) -> None:
        """An eval was handed to Ray."""

    def eval_finished(self, task: EvalTask, record: EvalRecord | None, failure: Failure | None) -> None:
        """An eval ended, well or badly."""
