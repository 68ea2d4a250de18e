"""Each token's position in its own sequence, whatever the batch looks like: left padding, packed rows, a KV cache."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def own_positions(
    ids: "torch.Tensor", attention_mask: Any = None, position_ids: Any = None, past_key_values: Any = None
) -> "tuple[torch.Tensor, torch.Tensor]":
    """(positions, real), both [rows, tokens], of the tokens `ids` that a forward pass is given.

    positions: int64, from 0 within each sequence, with what a KV cache holds counted in. real: False at pads (where an
    attention mask of two dimensions is 0). In a packed row, where `position_ids` begin anew, each sequence counts for
    itself. Otherwise the mask counts, else `position_ids`, else the length of the cache.
    """
    import torch

    rows, width = ids.shape
    mask = attention_mask if _covers(attention_mask, rows, width) else None
    given = _flat(position_ids, rows, width, ids.device)
    if mask is None:
        real = torch.ones_like(ids, dtype=torch.bool)
        if given is not None:
            return given, real
        counted = torch.arange(width, device=ids.device).expand(rows, width)
        return counted + cached_tokens(past_key_values), real
    mask = mask.to(ids.device) != 0
    seen = cached_tokens(past_key_values) + width
    mask = mask[:, :seen]  # a cache of fixed size may bring columns of tokens to come
    real = mask[:, -width:]
    counted = mask.long().cumsum(-1)[:, -width:] - 1 + (seen - mask.shape[1])
    if given is None or width == 1:
        return counted.clamp(min=0), real
    steps = (given[:, 1:] - given[:, :-1]) != 1
    is_packed = (steps & real[:, 1:] & real[:, :-1]).any(dim=-1, keepdim=True)
    return torch.where(is_packed, given, counted).clamp(min=0), real


def cached_tokens(past_key_values: Any) -> int:
    """How many tokens a KV cache holds; 0 without one."""
    if past_key_values is None or not hasattr(past_key_values, "get_seq_length"):
        return 0
    return int(past_key_values.get_seq_length())


def _covers(mask: Any, rows: int, width: int) -> bool:
    return getattr(mask, "ndim", 0) == 2 and mask.shape[0] == rows and mask.shape[1] >= width


def _flat(position_ids: Any, rows: int, width: int, device: Any) -> Any:
    """Position ids as [rows, tokens]; of those with an axis of their own (text, time, height, width) the first."""
    if position_ids is None:
        return None
    if position_ids.ndim == 3:
        position_ids = position_ids[0]
    if position_ids.shape[-1] != width:
        return None
    return position_ids.to(device).long().expand(rows, width)
