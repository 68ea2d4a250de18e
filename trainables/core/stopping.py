"""When a training has stopped getting better, and which of its measurements was the best: judged from the list alone,
so that a resumed training judges as the whole one does."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Verdict:
    """What the measurements so far come to."""

    best: int | None
    """Place of the best measurement, the first of equals; None where none is a finite number."""
    since: int
    """Measurements since the last one that was better by more than the threshold."""
    stop: bool
    reason: str = ""
    """Why it stops, one clause."""


def judge(
    values: Sequence[float],
    *,
    direction: Literal["min", "max"] = "min",
    patience: int | None = None,
    threshold: float = 0.0,
) -> Verdict:
    """Judge measurements in the order they were made.

    One counts as better when it beats the last that counted by more than `threshold`; after `patience` measurements in
    a row that do not, it stops (None: never). NaN and infinities are never better.
    """
    sign = 1.0 if direction == "min" else -1.0
    best: int | None = None
    reference = math.inf
    since = 0
    for place, value in enumerate(values):
        cost = sign * value if math.isfinite(value) else math.inf
        if cost < math.inf and (best is None or cost < sign * values[best]):
            best = place
        if cost < reference - threshold:
            reference, since = cost, 0
        else:
            since += 1
    if patience is None or since < patience:
        return Verdict(best, since, stop=False)
    beaten = f" by more than {threshold:g}" if threshold else ""
    return Verdict(best, since, True, f"{since} measurements in a row were not better{beaten}")
