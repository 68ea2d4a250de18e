"""How alike two models' hidden states are: cosine similarity of vectors, linear CKA of sets of them. Values in, values
out.

Source of CKA: Kornblith, Norouzi, Lee and Hinton 2019, "Similarity of Neural Network Representations Revisited" (ICML,
arXiv:1905.00414), equations 3 and 4 with a linear kernel. Of its standard error: the delete-a-group jackknife (Efron
and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 11).
"""

import math
from collections.abc import Sequence

import numpy as np

GROUPS = 10
"""Groups of items that the jackknife leaves out in turn."""
NO_SPREAD = 1e-5
"""Vectors that lie closer together than this share of their length differ by rounding alone."""


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Cosine similarity of each pair of vectors [..., width]; result [...], float64.

    A vector of zeros has no direction: beside another one the similarity is 0, beside a second vector of zeros 1.
    """
    x, y = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    dot, first, second = (x * y).sum(-1), np.sqrt((x * x).sum(-1)), np.sqrt((y * y).sum(-1))
    both = (first > 0) & (second > 0)
    near = np.divide(dot, first * second, out=np.zeros_like(dot), where=both)
    return np.where((first == 0) & (second == 0), 1.0, np.clip(near, -1.0, 1.0))


def linear_cka(one: np.ndarray, other: np.ndarray) -> float:
    """Linear CKA of two sets of vectors on the same items, [items, width] each; widths may differ.

    With centred columns ||Y'X||^2 / (||X'X|| ||Y'Y||) in Frobenius norms: 1 for the same vectors, also rotated, moved
    and scaled as a whole; near 0 for unrelated ones where items outnumber dimensions by far, and too high where they do
    not. NaN where the vectors of a side do not differ among the items. Raises ValueError where the items differ in
    number.
    """
    if len(one) != len(other):
        raise ValueError(f"both sides must hold the same items (got {len(one)} and {len(other)}).")
    return cka_of_grams(gram(one), gram(other))


def gram(vectors: np.ndarray) -> np.ndarray:
    """Inner products of the centred vectors [items, width] with each other, [items, items] in float64; all zero where
    they differ by rounding alone."""
    x = np.asarray(vectors, dtype=np.float64)
    centred = x - x.mean(0)
    if not len(x) or (centred**2).sum() <= NO_SPREAD**2 * (x**2).sum():
        return np.zeros((len(x), len(x)))
    return np.asarray(centred @ centred.T)


def cka_of_grams(one: np.ndarray, other: np.ndarray) -> float:
    """Linear CKA from two matrices of inner products, [items, items], centred here: ||Y'X||^2 = sum of K * L."""
    k, other_k = _centred(one), _centred(other)
    spread = math.sqrt(float((k * k).sum()) * float((other_k * other_k).sum()))
    return float((k * other_k).sum()) / spread if spread > 0 else math.nan


def _centred(products: np.ndarray) -> np.ndarray:
    rows = products.mean(0)
    return products - rows - rows[:, None] + rows.mean()


def jackknife(grams: Sequence[tuple[np.ndarray, np.ndarray]], clusters: Sequence[int]) -> float:
    """Standard error of the mean CKA over layers, `grams` being the two sides of each layer and `clusters` the number
    of the text, 0 to n - 1, that each item is from: texts are left out in turn, in at most GROUPS groups. NaN for one
    text, and where a layer has no CKA."""
    group = np.asarray(clusters) % GROUPS
    names = np.unique(group)
    if len(names) < 2:
        return math.nan
    kept = [np.flatnonzero(group != name) for name in names]
    found = np.array(
        [np.mean([cka_of_grams(*(side[np.ix_(items, items)] for side in pair)) for pair in grams]) for items in kept]
    )
    return math.sqrt((len(names) - 1) / len(names) * float(((found - found.mean()) ** 2).sum()))
