"""The loss: negative log-likelihood of the targets after the causal shift, summed, and divided once by a given number.

Summing and dividing once by the number of targets in the whole global batch is what makes the update independent of how
the batch is split into micro batches or over workers.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

IGNORED = -100
"""Label of a position that does not count."""


def nll_sum(logits: "torch.Tensor", labels: "torch.Tensor") -> tuple["torch.Tensor", int]:
    """(sum of the targets' negative log-likelihood in nats, number of targets).

    logits: [batch, tokens, vocab], any float type; labels: [batch, tokens], -100 where nothing is to be predicted.
    Position t is predicted by the logits of t - 1, so the first label never counts. The sum is a float32 scalar,
    exactly 0 with a zero gradient when there is no target.
    """
    shifted = labels[..., 1:]
    counted = shifted != IGNORED
    # Only the rows that count are turned into float32: the whole would be the largest tensor of a training step.
    chosen = logits[..., :-1, :][counted].float()
    targets = shifted[counted]
    picked = chosen.log_softmax(dim=-1).gather(-1, targets.unsqueeze(-1))
    return -picked.sum(), int(targets.numel())


def causal_loss(
    logits: "torch.Tensor", labels: "torch.Tensor", num_items: "torch.Tensor | int | float | None" = None
) -> "torch.Tensor":
    """`nll_sum` divided by `num_items`, the targets of the whole global batch (those of this batch when None).

    A float32 scalar; 0, not NaN, when there is no target or `num_items` is 0.
    """
    import torch

    total, count = nll_sum(logits, labels)
    divisor = torch.as_tensor(count if num_items is None else num_items, dtype=total.dtype, device=total.device)
    return total / divisor.clamp(min=1.0)
