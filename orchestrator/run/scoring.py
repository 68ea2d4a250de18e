"""Ray tasks that score exports, and the same scoring without Ray."""

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.decide.failures import MOST_ATTEMPTS, decide
from orchestrator.decide.placement import Need
from orchestrator.record.ledger import Ledger, journal
from orchestrator.record.records import EvalRecord, Failure, MetricRecord
from orchestrator.record.tasks import EvalTask, Observer
from orchestrator.registry import installed
from orchestrator.run.workers import facts

_loaded: dict[Path, Any] = {}
"""The export that this process loaded last: evals of one export often follow each other in one worker process."""


def score(task: EvalTask) -> EvalRecord:
    """Load the export, run the eval, write its record. Raises what the eval raises."""
    journal(task.root, kind="eval", id=task.id, trial=task.trial_id, eval=task.eval)
    began = time.time()
    module = installed().eval(task.eval)
    subject = replace(_subject(task.export), base_folder=task.base)
    ledger = Ledger(task.root)
    folder = ledger.trial_folder(task.trial_id) / "evals" / task.id
    folder.mkdir(parents=True, exist_ok=True)
    config = module.Config.model_validate({**task.config, **task.schemas})
    result = module.run(subject, config, task.data, folder)
    record = EvalRecord(
        id=task.id,
        trial_id=task.trial_id,
        eval=task.eval,
        config=task.config,
        version=task.version,
        harness=task.harness,
        data_hash=task.data_hash,
        metrics={
            name: MetricRecord(value=m.value, direction=m.direction, n=m.n, stderr=m.stderr, chance=m.chance)
            for name, m in result.metrics.items()
        },
        tables=result.tables,
        seconds=time.time() - began,
        finished=time.time(),
        environment=dict(subject.environment),
    )
    return ledger.put_eval(record, result.samples)


def _subject(export: Path) -> Any:
    from trainables._export import load

    if export not in _loaded:
        _loaded.clear()
        _loaded[export] = load(export)
    return _loaded[export]


def failed(task: EvalTask, error: BaseException) -> Failure:
    """An eval's error as a failure record."""
    known = facts(error)
    return Failure(
        kind=known.kind,
        message=known.message,
        traceback=known.traceback,
        deterministic=decide(known.kind, known.message, MOST_ATTEMPTS, 1).deterministic,
        phase=task.eval,
    )


class EvalQueue:
    """Hands evals to Ray in order, never more at once than there are slots for."""

    def __init__(self, observer: Observer, need: Need):
        import ray

        self.observer = observer
        self._waiting: deque[EvalTask] = deque()
        self._running: dict[Any, EvalTask] = {}
        # A crashed worker process is tried once more; an error in the eval itself is not.
        self._remote = ray.remote(num_cpus=need.cpus, num_gpus=need.gpus, max_retries=1)(score)

    def add(self, tasks: Iterable[EvalTask]) -> None:
        """Queue evals whose export is there."""
        self._waiting.extend(tasks)

    @property
    def empty(self) -> bool:
        """Nothing waits, nothing runs."""
        return not self._waiting and not self._running

    def poll(self, slots: int, timeout: float = 0.0) -> None:
        """Collect what has ended, then fill the free slots."""
        import ray

        if self._running:
            ended, _ = ray.wait(list(self._running), num_returns=1, timeout=timeout)
            for reference in ended:
                self._collect(reference)
        while self._waiting and len(self._running) < slots:
            task = self._waiting.popleft()
            self.observer.eval_started(task)
            self._running[self._remote.options(name=f"eval:{task.eval}:{task.trial_id}").remote(task)] = task

    def _collect(self, reference: Any) -> None:
        import ray

        task = self._running.pop(reference)
        try:
            record = ray.get(reference)
        except Exception as error:  # the boundary of one eval: the others go on
            self.observer.eval_finished(task, None, failed(task, error))
        else:
            self.observer.eval_finished(task, record, None)
