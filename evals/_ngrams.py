"""How varied texts are: distinct n-grams over all of them, and repeated n-grams within each.

Words are what stands between white space. Sources: Li et al. 2016, "A Diversity-Promoting Objective Function for Neural
Conversation Models", arXiv:1510.03055 (distinct-n; they divide by words, most who followed by n-grams, as is done here,
so that 1 means that no n-gram comes twice); Welleck et al. 2020, "Neural Text Generation With Unlikelihood Training",
arXiv:1908.04319 (repeated n-grams within a text).
"""

from collections import Counter
from collections.abc import Sequence


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """The n-grams of a text's words in order; none for a text of fewer words."""
    words = text.split()
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def distinct(texts: Sequence[str], n: int) -> list[tuple[float, int]]:
    """For each text (its part of all texts' distinct n-grams, its n-grams); distinct-n is the ratio of their sums.

    Each occurrence of an n-gram that comes f times in all texts counts 1 / f, so every distinct n-gram counts 1 in all.
    """
    each = [ngrams(text, n) for text in texts]
    times = Counter(gram for grams in each for gram in grams)
    return [(sum(1 / times[gram] for gram in grams), len(grams)) for grams in each]


def repeated(text: str, n: int) -> float:
    """Share of a text's n-grams that came before in it: 1 - distinct / all; 0 for a text without any."""
    grams = ngrams(text, n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
