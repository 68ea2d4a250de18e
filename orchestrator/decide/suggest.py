"""Nearest valid names, for messages that end with the way out."""

from collections.abc import Iterable
from difflib import get_close_matches

MOST_LISTED = 12
"""Names that a message lists at most."""


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """The valid name most like `name`, or None where none is like it.

    Case and the choice between `_`, `-` and a space do not count. Of dotted names the last part counts too, so that
    `learning_rate` finds `train.learning_rate`.
    """
    names = list(dict.fromkeys(valid))
    plain = {_plain(item): item for item in reversed(names)}
    if _plain(name) in plain:
        return plain[_plain(name)]
    close = get_close_matches(_plain(name), plain, n=1, cutoff=0.6)
    if close:
        return plain[close[0]]
    leaves = {_plain(item.rpartition(".")[2]): item for item in reversed(names)}
    close = get_close_matches(_plain(name.rpartition(".")[2]), leaves, n=1, cutoff=0.75)
    return leaves[close[0]] if close else None


def did_you_mean(name: str, valid: Iterable[str], elsewhere: Iterable[str] = ()) -> str:
    """A sentence that points to the nearest valid name, and lists the valid ones where there is none near.

    `elsewhere` holds full dotted keys: a name that is valid in another place is pointed to there.
    """
    names = sorted(dict.fromkeys(valid))
    near = nearest(name, names)
    other = _same_leaf(name, elsewhere)
    if other and (near is None or _plain(near) != _plain(name)):
        near = other
    if near is None and not names:
        return "Nothing is valid here."
    listed = f"Valid: {listing(names)}."
    if near is None:
        return listed
    return (
        f"Did you mean {near}?" if near not in names or len(names) > MOST_LISTED else f"Did you mean {near}? {listed}"
    )


def listing(names: Iterable[str]) -> str:
    """Names separated by commas; a long list is cut and counted."""
    items = list(names)
    if len(items) <= MOST_LISTED:
        return ", ".join(items)
    return f"{', '.join(items[:MOST_LISTED])} and {len(items) - MOST_LISTED} more"


def _same_leaf(name: str, dotted: Iterable[str]) -> str | None:
    wanted = _plain(name.rpartition(".")[2])
    return next((key for key in dotted if _plain(key.rpartition(".")[2]) == wanted), None)


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "_").replace(" ", "_")
