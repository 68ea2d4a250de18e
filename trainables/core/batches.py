"""Which rows an optimizer step sees, and how they are split: decided before anything runs, the same on every rank.

The rows of a step follow from the seed, the epoch and the global batch alone. Splitting them into micro batches or over
workers only says who computes what: no row is repeated, none is lost, and places left over hold None, a row in which no
token counts.
"""

import math
import random
from collections.abc import Sequence

DEFAULT_MICRO_BATCH = 8
"""Most rows per forward pass where nothing is said."""


def epoch_order(rows: int, seed: int, epoch: int) -> list[int]:
    """The row numbers 0 ... rows - 1 in the order of this epoch."""
    # Sorting by random() and not shuffle(): only the numbers of random() are promised to stay the same between Pythons.
    draw = random.Random(f"epoch order {seed} {epoch}")
    keys = [draw.random() for _ in range(rows)]
    return sorted(range(rows), key=keys.__getitem__)


def batch_shape(
    global_batch: int, world: int = 1, micro_batch: int | None = None, accumulation: int | None = None
) -> tuple[int, int]:
    """(rows per forward pass, forward passes per step) of each of `world` workers, filling in what is not given.

    What is chosen leaves as few places empty as possible. Raises ValueError where both are given and do not make up the
    global batch.
    """
    if micro_batch is not None and accumulation is not None:
        if micro_batch * accumulation * world != global_batch:
            raise ValueError(
                "train.global_batch: must be micro_batch x accumulation x workers "
                f"(got {global_batch} with {micro_batch} x {accumulation} x {world} = "
                f"{micro_batch * accumulation * world}). Leave train.accumulation empty to have it chosen."
            )
        return micro_batch, accumulation
    per_rank = math.ceil(global_batch / world)
    if micro_batch is not None:
        micro_batch = min(micro_batch, per_rank)
        return micro_batch, math.ceil(per_rank / micro_batch)
    if accumulation is None:
        accumulation = math.ceil(per_rank / DEFAULT_MICRO_BATCH)
    return math.ceil(per_rank / accumulation), accumulation


def rank_slices(
    rows: Sequence[int], rank: int, world: int, micro_batch: int, accumulation: int
) -> list[list[int | None]]:
    """The micro batches of one rank for one step: always `accumulation` lists of `micro_batch` places, None where
    empty.

    `rows`: the rows of the step over all ranks. Rows are dealt out to the ranks in turn, so that a short step is shared
    evenly. Raises ValueError when there are more rows than places.
    """
    if len(rows) > micro_batch * accumulation * world:
        raise ValueError(f"{len(rows)} rows do not fit {world} x {accumulation} micro batches of {micro_batch}")
    mine: list[int | None] = list(rows[rank::world])
    mine += [None] * (micro_batch * accumulation - len(mine))
    return [mine[start : start + micro_batch] for start in range(0, len(mine), micro_batch)]
