"""The order of rows as the DataLoader takes it: one rank's micro batches of every step."""

import math
from collections.abc import Iterator
from typing import Any

from trainables.core.batches import epoch_order, rank_slices


class Order:
    """Batch sampler of one rank: per epoch the micro batches of every step, filled up with None so that all ranks and
    all steps have the same shape. Set `epoch` before iterating."""

    def __init__(self, rows: int, seed: int, rank: int, world: int, global_batch: int, micro: int, accumulation: int):
        self.rows, self.seed, self.rank, self.world = rows, seed, rank, world
        self.global_batch, self.micro, self.accumulation = global_batch, micro, accumulation
        self.epoch = 0
        self.finished = False
        """Whether nothing is left to train: then it gives no batch."""
        self._drawn: tuple[int, list[int]] = (-1, [])

    def rows_in_order(self, epoch: int) -> list[int]:
        """All rows as this epoch visits them; the same on every rank."""
        if self._drawn[0] != epoch:
            self._drawn = (epoch, epoch_order(self.rows, self.seed, epoch))
        return self._drawn[1]

    def steps(self) -> int:
        """Optimizer steps per epoch; the last one may have fewer rows."""
        return math.ceil(self.rows / self.global_batch)

    def step_rows(self, epoch: int, step: int) -> list[int]:
        """The rows of one optimizer step over all ranks."""
        start = step * self.global_batch
        return self.rows_in_order(epoch)[start : start + self.global_batch]

    def __len__(self) -> int:
        return self.steps() * self.accumulation

    def __iter__(self) -> Iterator[list[int | None]]:
        if self.finished:
            return
        order = self.rows_in_order(self.epoch)
        for start in range(0, self.rows, self.global_batch):
            step = order[start : start + self.global_batch]
            yield from rank_slices(step, self.rank, self.world, self.micro, self.accumulation)


class Rows:
    """The training rows as the DataLoader wants them; None is a row in which no token counts."""

    def __init__(self, rows: Any):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | None) -> Any:
        return None if index is None else self.rows[index]
