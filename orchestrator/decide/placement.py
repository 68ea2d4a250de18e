"""How many trials and evals run at once, so that none waits for ever for what another holds."""

from collections.abc import Collection
from dataclasses import dataclass

DRIVER_CPUS = 0.02
"""A trial's driver only waits for its workers; what it holds, its own workers cannot have."""
WORKER_CPUS = 0.9
"""Default of a worker and of an eval: with a driver beside it, one of each fits on two cores."""
MANY = 10**6
"""How many of something that needs nothing."""


@dataclass(frozen=True)
class Need:
    """What one worker or one eval holds while it runs, all of it on one machine."""

    cpus: float
    gpus: float

    def __str__(self) -> str:
        return f"{self.cpus:g} CPUs" + (f" and {self.gpus:g} GPUs" if self.gpus else "")


@dataclass(frozen=True)
class Crew:
    """What one trial holds while it runs: its driver, and workers that may be spread over machines."""

    worker: Need
    workers: int

    @property
    def total(self) -> Need:
        """Driver and workers together."""
        return Need(DRIVER_CPUS + self.workers * self.worker.cpus, self.workers * self.worker.gpus)


@dataclass(frozen=True)
class Capacity:
    """What the cluster has."""

    cpus: float
    gpus: float
    nodes: tuple[tuple[float, float], ...] = ()
    """(CPUs, GPUs) of each machine; empty for one machine that has all of it."""

    @property
    def machines(self) -> "Machines":
        """Each machine by itself."""
        return Machines(self.nodes or ((self.cpus, self.gpus),))

    def __str__(self) -> str:
        has = f"{self.cpus:g} CPUs" + (f" and {self.gpus:g} GPUs" if self.gpus else ", no GPU")
        return has if len(self.nodes) < 2 else f"{has} on {len(self.nodes)} machines"


@dataclass(frozen=True)
class Machines:
    """What is free, machine by machine: (CPUs, GPUs)."""

    free: tuple[tuple[float, float], ...]

    def room(self, need: Need) -> int:
        """How many of these find a machine each has room on."""
        return sum(_times(cpus, gpus, need) for cpus, gpus in self.free)

    def without(self, need: Need, count: int) -> "Machines":
        """What is left when `count` of these run, the poorest machines filled first, as Ray keeps GPUs for who asks."""
        free = list(self.free)
        for place in sorted(range(len(free)), key=lambda i: (free[i][1], free[i][0])):
            cpus, gpus = free[place]
            here = min(count, _times(cpus, gpus, need))
            free[place] = (cpus - need.cpus * here, gpus - need.gpus * here)
            count -= here
        return Machines(tuple(free))

    def with_drivers(self, trials: int) -> "Machines":
        """What is left beside the drivers of so many trials: where Ray puts them is not known, so room for all of them
        is kept on every machine."""
        return Machines(tuple((max(cpus - trials * DRIVER_CPUS, 0.0), gpus) for cpus, gpus in self.free))

    def beside(self, crew: Crew, trials: int) -> "Machines | None":
        """What is left beside so many trials; None where not all of their workers find a place."""
        free = self.with_drivers(trials)
        workers = trials * crew.workers
        return free.without(crew.worker, workers) if free.room(crew.worker) >= workers else None

    def trials(self, crew: Crew, most: int, evaluation: Need | None = None) -> int:
        """How many trials run at once, at most `most`; with `evaluation`, so that one eval finds room beside them."""
        for count in range(most, 0, -1):
            left = self.beside(crew, count)
            if left is not None and (evaluation is None or left.room(evaluation)):
                return count
        return 0

    @property
    def largest(self) -> Capacity:
        """The machine with the most GPUs, then CPUs."""
        return Capacity(*max(self.free, key=lambda machine: (machine[1], machine[0])))


def _times(cpus: float, gpus: float, need: Need) -> int:
    by_cpu = int(cpus / need.cpus + 1e-9) if need.cpus else MANY
    by_gpu = int(gpus / need.gpus + 1e-9) if need.gpus else MANY
    return min(by_cpu, by_gpu)


def worker_need(capacity: Capacity, cpus: float | None, gpus: float | None) -> Need:
    """What one worker, or one eval, holds: as asked for, else a core's share, and a GPU where there are GPUs."""
    return Need(WORKER_CPUS if cpus is None else cpus, float(capacity.gpus > 0) if gpus is None else gpus)


@dataclass(frozen=True)
class Slots:
    """Trials at once; evals beside them; evals at once when no trial runs."""

    trials: int
    evals_beside: int
    evals_alone: int


def slots(
    capacity: Capacity,
    crews: Collection[Crew],
    evaluation: Need,
    *,
    waiting: int,
    max_trials: int | None,
    max_evals: int | None,
) -> Slots:
    """Divide a cluster among trials, which hold one of `crews` each, and evals.

    Room for one eval is kept beside the trials where a trial is left then: an eval of a finished trial overlaps the
    training of the next. Raises ValueError when one trial or one eval can never be placed.
    """
    machines = capacity.machines
    crews = set(crews) if waiting else set()
    for crew in sorted(crews, key=lambda crew: (crew.total.gpus, crew.total.cpus), reverse=True):
        _check(capacity, crew)
    alone = min(machines.room(evaluation), max_evals or MANY)
    if alone < 1:
        has = f"there are {capacity}" if len(machines.free) < 2 else f"the largest machine has {machines.largest}"
        raise ValueError(f"resources: one eval needs {evaluation}, and {has}. Lower resources.eval_cpus or eval_gpus.")
    if not crews:
        return Slots(0, 0, alone)
    # So many of any one crew fit, and therefore so many of several crews.
    most = min(waiting, max_trials or MANY)
    trials = min(machines.trials(crew, most, evaluation) or machines.trials(crew, most) for crew in crews)
    left = [machines.beside(crew, trials) for crew in crews]
    return Slots(trials, min(min(free.room(evaluation) if free else 0 for free in left), alone), alone)


def _check(capacity: Capacity, crew: Crew) -> None:
    """Raises ValueError where one trial with this crew finds no place, though nothing else runs."""
    if capacity.machines.trials(crew, 1):
        return
    machines = capacity.machines.with_drivers(1)
    workers = f"{crew.workers} workers of {crew.worker} each"
    if len(machines.free) < 2 or crew.total.cpus > capacity.cpus or crew.total.gpus > capacity.gpus:
        told = f"one trial needs {crew.total}, and there are {capacity}"
    elif not machines.room(crew.worker):
        told = f"one worker needs {crew.worker}, and the largest machine has {capacity.machines.largest}"
    else:
        room = machines.room(crew.worker)
        told = f"one trial needs {workers}, and the {len(machines.free)} machines have room for {room} of them"
    raise ValueError(f"resources: {told}. Ask for fewer or smaller workers.")
