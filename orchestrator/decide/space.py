"""Expands a search into points: which keys each trial sets, to which values. Pure, and the same on every machine."""

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

Overrides = dict[str, Any]
"""Dotted key -> value."""

SIGNIFICANT_DIGITS = 6
"""Digits of a drawn number: enough to tell draws apart, few enough to hide how machines differ in log and exp."""

MOST_REPEATED = 1000
"""Draws in a row that bring nothing new, after which no more are looked for."""


@dataclass(frozen=True)
class Distribution:
    """Where the values of a `random` axis come from: uniform, loguniform, randint or quniform, with their bounds."""

    kind: str
    bounds: tuple[float, ...]

    def draw(self, stream: random.Random) -> float | int:
        """One value; `randint` includes both ends, `quniform` gives multiples of its step."""
        low, high = self.bounds[0], self.bounds[1]
        if self.kind == "randint":
            # From random() alone: only its numbers are promised to stay the same between Python versions.
            return int(low) + int(stream.random() * (int(high) - int(low) + 1))
        if self.kind == "quniform":
            step = self.bounds[2]
            first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
            multiple = (first + int(stream.random() * (last - first + 1))) * step
            return multiple if isinstance(multiple, int) else _rounded(multiple, 12)
        if self.kind == "loguniform":
            value = math.exp(math.log(low) + stream.random() * (math.log(high) - math.log(low)))
        else:
            value = low + stream.random() * (high - low)
        return min(max(_rounded(value, SIGNIFICANT_DIGITS), low), high)

    @property
    def size(self) -> int | None:
        """How many different values there are; None where there is no end of them."""
        if self.kind == "randint":
            return int(self.bounds[1]) - int(self.bounds[0]) + 1
        if self.kind == "quniform":
            low, high, step = self.bounds
            return math.floor(high / step + 1e-9) - math.ceil(low / step - 1e-9) + 1
        return None


@dataclass(frozen=True)
class Axis:
    """One axis: its name as in the file, and its steps (each sets one or more keys) or the distribution of one key."""

    name: str
    steps: tuple[Overrides, ...] = ()
    distribution: Distribution | None = None

    @property
    def size(self) -> int | None:
        """How many different steps there are; None where there is no end of them."""
        return self.distribution.size if self.distribution else len(self.steps)

    def draw(self, stream: random.Random) -> Overrides:
        """One step, each as likely as the others."""
        if self.distribution:
            return {self.name: self.distribution.draw(stream)}
        return self.steps[int(stream.random() * len(self.steps))]


@dataclass(frozen=True)
class Point:
    """One trial of a search before its seeds: what it sets over the file's own values."""

    overrides: Overrides = field(default_factory=dict)
    name: str = ""
    place: str = ""
    """Where it stands in the file, for messages: `search.trials[2]`; empty where it comes from axes."""


def grid(axes: Sequence[Axis]) -> list[Point]:
    """Every combination; the last axis varies fastest."""
    return [Point(_together(steps)) for steps in product(*(axis.steps for axis in axes))]


def one_at_a_time(axes: Sequence[Axis], baseline: Callable[[str], Any]) -> list[Point]:
    """The baseline, then each step of each axis over it. `baseline(key)` is the file's own value: a step that sets
    nothing else is the baseline itself and is not repeated."""
    points = [Point()]
    for axis in axes:
        for step in axis.steps:
            if any(canonical(value) != canonical(baseline(key)) for key, value in step.items()):
                points.append(Point(step))
    return points


def sample(axes: Sequence[Axis], samples: int, seed: int) -> list[Point]:
    """`samples` different combinations, drawn independently per axis.

    Each axis has a stream of its own, named by seed and axis: the order of the axes does not matter, and more samples
    begin with the same ones. Raises ValueError where there are fewer combinations than samples: a narrow continuous
    range holds few numbers of `SIGNIFICANT_DIGITS` digits.
    """
    sizes = [axis.size for axis in axes]
    if all(size is not None for size in sizes):
        combinations = math.prod(size or 0 for size in sizes)
        if combinations < samples:
            raise ValueError(f"there are only {combinations} combinations")
    streams = [random.Random(f"{seed} {axis.name}") for axis in axes]
    found: dict[str, Point] = {}
    repeated = 0
    while len(found) < samples:
        drawn = _together([axis.draw(stream) for axis, stream in zip(axes, streams, strict=True)])
        repeated = repeated + 1 if canonical(drawn) in found else 0
        if repeated == MOST_REPEATED and any(size is None for size in sizes):
            raise ValueError(f"there are only {len(found)} different combinations of {SIGNIFICANT_DIGITS} digits")
        found.setdefault(canonical(drawn), Point(drawn))
    return list(found.values())


def canonical(value: Any) -> str:
    """JSON with sorted keys: equal exactly where the values are, and 1 is not true as it would be in Python."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)


def _together(steps: Sequence[Mapping[str, Any]]) -> Overrides:
    return {key: value for step in steps for key, value in step.items()}


def _rounded(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")
