"""How far stated confidence is from being right: expected calibration error, and entropy over choices. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Bin:
    """The answers whose confidence lies in (low, high]."""

    low: float
    high: float
    n: int
    confidence: float | None
    """Mean confidence; None where the bin is empty."""
    accuracy: float | None


@dataclass(frozen=True)
class Calibration:
    """Expected calibration error with what it is made of."""

    error: float
    """sum over bins of n_b / n * |accuracy_b - confidence_b|."""
    bins: tuple[Bin, ...]
    shares: tuple[float, ...]
    """What each answer adds: the sign of its bin's gap times (correct - confidence). Their mean is the error."""


def calibration(confidences: Sequence[float], correct: Sequence[float], bins: int = 15) -> Calibration:
    """Expected calibration error with bins of equal width (Guo et al. 2017, "On Calibration of Modern Neural Networks",
    arXiv:1706.04599, section 2), a confidence being the probability of the choice that is taken.

    Raises ValueError for no answers, other lengths, confidences outside 0..1 or no bin.
    """
    if not confidences or len(confidences) != len(correct):
        raise ValueError(f"there must be as many verdicts as confidences (got {len(correct)} and {len(confidences)}).")
    if bins < 1 or not all(0 <= confidence <= 1 for confidence in confidences):
        raise ValueError(f"confidences must lie between 0 and 1, in at least one bin (got {bins} bins).")
    places = [max(0, math.ceil(confidence * bins - 1e-12) - 1) for confidence in confidences]
    found: list[Bin] = []
    signs: list[float] = []
    for place in range(bins):
        members = [i for i, own in enumerate(places) if own == place]
        edges = (place / bins, (place + 1) / bins)
        if not members:
            found.append(Bin(*edges, 0, None, None))
            signs.append(0.0)
            continue
        mean = sum(confidences[i] for i in members) / len(members)
        right = sum(correct[i] for i in members) / len(members)
        found.append(Bin(*edges, len(members), mean, right))
        signs.append(1.0 if right >= mean else -1.0)
    shares = tuple(
        signs[place] * (right - confidence)
        for place, right, confidence in zip(places, correct, confidences, strict=True)
    )
    return Calibration(abs(sum(shares) / len(shares)), tuple(found), shares)


def entropy(probabilities: Sequence[float]) -> float:
    """-sum p log p in nats; 0 for a sure answer, log n for n choices alike."""
    return -math.fsum(p * math.log(p) for p in probabilities if p > 0)


def softmax(logs: Sequence[float]) -> list[float]:
    """Probabilities among these alone, from natural logs of any common scale."""
    top = max(logs)
    weights = [math.exp(value - top) for value in logs]
    return [weight / math.fsum(weights) for weight in weights]
