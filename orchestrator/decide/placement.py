"""How many trials and evals run at once, so that none waits for ever for what another holds."""

from dataclasses import dataclass

DRIVER_CPUS = 0.02
"""A trial's driver only waits for its workers; what it holds, its own workers cannot have."""
WORKER_CPUS = 0.9
"""Default of a worker and of an eval: with a driver beside it, one of each fits on two cores."""


@dataclass(frozen=True)
class Need:
    """What one trial (driver and all workers) or one eval holds while it runs."""

    cpus: float
    gpus: float

    def times(self, capacity: "Capacity") -> int:
        """How many of these fit into the capacity together."""
        by_cpu = int(capacity.cpus / self.cpus + 1e-9) if self.cpus else 10**6
        by_gpu = int(capacity.gpus / self.gpus + 1e-9) if self.gpus else 10**6
        return min(by_cpu, by_gpu)

    def __str__(self) -> str:
        return f"{self.cpus:g} CPUs" + (f" and {self.gpus:g} GPUs" if self.gpus else "")


@dataclass(frozen=True)
class Capacity:
    """What the cluster has."""

    cpus: float
    gpus: float
    nodes: tuple[tuple[float, float], ...] = ()
    """(CPUs, GPUs) of each machine of a cluster: one worker, or one eval, runs on one of them."""

    def check_one(self, what: str, need: Need) -> None:
        """Raises ValueError where no machine of the cluster has room for one worker or one eval."""
        if self.nodes and not any(cpus >= need.cpus and gpus >= need.gpus for cpus, gpus in self.nodes):
            most = max(self.nodes, key=lambda node: (node[1], node[0]))
            largest = Capacity(*most)
            raise ValueError(
                f"resources: one {what} needs {need}, and the largest machine has {largest}. Ask for less."
            )

    def less(self, need: Need, count: int) -> "Capacity":
        """What is left when `count` of these run."""
        return Capacity(self.cpus - need.cpus * count, self.gpus - need.gpus * count)

    def __str__(self) -> str:
        return f"{self.cpus:g} CPUs" + (f" and {self.gpus:g} GPUs" if self.gpus else ", no GPU")


def worker_need(capacity: Capacity, cpus: float | None, gpus: float | None) -> Need:
    """What one worker, or one eval, holds: as asked for, else a core's share, and a GPU where there are GPUs."""
    return Need(WORKER_CPUS if cpus is None else cpus, float(capacity.gpus > 0) if gpus is None else gpus)


def trial_need(worker: Need, workers: int) -> Need:
    """What a whole trial holds: its driver and all its workers."""
    return Need(DRIVER_CPUS + workers * worker.cpus, workers * worker.gpus)


@dataclass(frozen=True)
class Slots:
    """Trials at once; evals beside them; evals at once when no trial runs."""

    trials: int
    evals_beside: int
    evals_alone: int


def slots(
    capacity: Capacity, trial: Need, evaluation: Need, *, waiting: int, max_trials: int | None, max_evals: int | None
) -> Slots:
    """Divide a cluster among trials and evals.

    Room for one eval is kept beside the trials where a trial is left then: an eval of a finished trial overlaps the
    training of the next. Raises ValueError when one trial or one eval can never be placed.
    """
    if waiting and trial.times(capacity) < 1:
        raise ValueError(
            f"resources: one trial needs {trial}, and there are {capacity}. Ask for fewer or smaller workers."
        )
    if evaluation.times(capacity) < 1:
        raise ValueError(
            f"resources: one eval needs {evaluation}, and there are {capacity}. Lower resources.eval_cpus or eval_gpus."
        )
    alone = min(evaluation.times(capacity), max_evals or 10**6)
    if not waiting:
        return Slots(0, 0, alone)
    beside_one_eval = trial.times(capacity.less(evaluation, 1))
    trials = max(1, min(beside_one_eval or trial.times(capacity), waiting, max_trials or 10**6))
    beside = min(evaluation.times(capacity.less(trial, trials)), alone)
    return Slots(trials, beside, alone)
