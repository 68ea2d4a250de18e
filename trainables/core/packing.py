"""Which rows share one line of a batch: best fit decreasing, decided before anything runs and the same everywhere."""

from bisect import bisect_left, insort
from collections.abc import Sequence


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Row numbers by pack: every row once, none cut, at most `capacity` tokens a pack, each in ascending order.

    The longest rows come first, each into the fullest pack that has room for it (Johnson 1973: at most 11/9 of the
    least number of packs, and one). The packs are in the order of their first rows. Raises ValueError for a row longer
    than `capacity`.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    if order and lengths[order[0]] > capacity:
        raise ValueError(f"row {order[0]} has {lengths[order[0]]} tokens and does not fit into {capacity}")
    packs: list[list[int]] = []
    rooms: list[tuple[int, int]] = []
    """(tokens left, number of the pack), ascending."""
    for row in order:
        place = bisect_left(rooms, (lengths[row], -1))
        if place == len(rooms):
            packs.append([])
            left, number = capacity, len(packs) - 1
        else:
            left, number = rooms.pop(place)
        packs[number].append(row)
        if left > lengths[row]:
            insort(rooms, (left - lengths[row], number))
    return sorted(sorted(members) for members in packs)
