"""Packed rows: several rows in one line of a batch, none of which sees another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trainables.core.loss import IGNORED
from trainables.core.masking import Marked
from trainables.core.packing import pack

if TYPE_CHECKING:
    import torch

    from trainables._data import Rows


@dataclass(frozen=True)
class Pack:
    """Rows that share a line, in order."""

    rows: tuple[Marked, ...]

    def __len__(self) -> int:
        return sum(len(row) for row in self.rows)


class PackedRows(Sequence[Pack]):
    """The packs of some rows, made once; what shuffles and batches rows does it to packs."""

    def __init__(self, rows: "Rows", capacity: int) -> None:
        self._rows = rows
        self.packs = pack([int(length) for length in rows.lengths], capacity)
        self.lengths = np.array([int(rows.lengths[members].sum()) for members in self.packs], dtype=np.int64)
        self.target_counts = np.array([int(rows.target_counts[members].sum()) for members in self.packs])
        self.capacity = capacity

    def __len__(self) -> int:
        return len(self.packs)

    def __getitem__(self, index: Any) -> Any:
        return Pack(tuple(self._rows[number] for number in self.packs[index]))

    def note(self) -> str:
        """How full the packs are, one line."""
        share = self.lengths.sum() / max(1, len(self) * self.capacity)
        return f"packing: {len(self._rows)} rows in {len(self)} packs of {self.capacity} tokens, {share:.0%} full"


def collate_packs(
    packs: Sequence[Pack | None], pad_id: int, width: int | None = None, is_flat: bool = False
) -> "dict[str, torch.Tensor]":
    """A batch of packs: input_ids, position_ids, labels, each int64 [packs, tokens]; there is no attention mask.

    Positions begin at 0 with every row, which is how transformers knows where one ends (`masking_utils`): it then lets
    no position attend across a border, and padding is a row of its own. `is_flat`: one line for all, without padding,
    as flash attention takes packed rows. None is a filler pack of one pad token with no target.
    """
    import torch

    lines = [_line(pack, pad_id) for pack in packs]
    if is_flat:
        ids, positions, labels = (np.concatenate(parts) for parts in zip(*lines, strict=True))
        lines = [(ids, positions, labels)]
        width = None
    width = max([len(ids) for ids, _, _ in lines] + [width or 0])
    arrays = {name: np.zeros((len(lines), width), dtype=np.int64) for name in ("input_ids", "position_ids", "labels")}
    for line, (ids, positions, labels) in enumerate(lines):
        behind = width - len(ids)
        arrays["input_ids"][line] = np.pad(ids, (0, behind), constant_values=pad_id)
        arrays["position_ids"][line] = np.concatenate([positions, np.arange(behind)])
        arrays["labels"][line] = np.pad(labels, (0, behind), constant_values=IGNORED)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _line(pack: Pack | None, pad_id: int) -> tuple[Any, Any, Any]:
    """(ids, positions, labels) of one pack; what comes first in a row has no label, since nothing predicts it."""
    if pack is None:
        return np.array([pad_id]), np.zeros(1, dtype=np.int64), np.array([IGNORED])
    ids = np.concatenate([row.ids for row in pack.rows]).astype(np.int64)
    positions = np.concatenate([np.arange(len(row)) for row in pack.rows])
    targets = np.concatenate([row.targets for row in pack.rows]) & (positions > 0)
    return ids, positions, np.where(targets, ids, IGNORED)


def check_borders(model: Any, vocabulary: int, device: str, is_flat: bool) -> None:
    """Raise ValueError where this model attends across the border between packed rows: where another row before it
    changes what it makes of a row. Takes two forward passes over eight tokens."""
    import torch

    size = min(vocabulary, 8)
    behind = Marked(np.arange(4, dtype=np.int32) % size, np.ones(4, dtype=np.bool_), np.zeros(4, dtype=np.uint8))
    found = []
    for first in (1, 2):
        ids = (np.arange(4, dtype=np.int32) + first) % size
        before = Marked(ids, np.ones(4, dtype=np.bool_), np.zeros(4, dtype=np.uint8))
        batch = collate_packs([Pack((before, behind))], 0, is_flat=is_flat)
        with torch.no_grad():
            given = {name: batch[name].to(device) for name in ("input_ids", "position_ids")}
            found.append(model(**given).logits[:, 4:].float())
    difference, scale = (found[0] - found[1]).abs().max(), found[0].abs().max()
    if difference > 1e-4 * scale:
        raise ValueError(
            "data.packing: the attention of this model crosses the borders between packed rows "
            f"(logits move by {float(difference):.2g} when the row before changes). Set data.packing: false."
        )
