"""Norms of the gradient that reaches each position of a sequence, at the embeddings and behind every decoder layer.

What is told is the Euclidean norm of the derivative of the step's loss (the sum over targets divided by the targets of
the whole global batch) by one position's vector, averaged over the sequences of the step. It does not depend on micro
batches or workers. Positions are a token's own: the first token of every sequence is at 0, in a packed line too, and no
pad has one. Sequences in which no token counts get no gradient by construction and are left out of the average.

Where a scaling by 0 leaves a state of exactly zero, training stops the gradient of that state behind every layer
(_silent_positions). What is told of a layer is what came to it, before it is stopped: it holds what the next layer
made of this state, through the tokens that attend to it, and not what went by way of the same position further up.
"""

import math
from typing import Any

from trainables._positions import own_positions
from trainables._silent_positions import decoder_layers
from trainables.core.loss import IGNORED

KEPT = 16
"""Positions told apart; those behind them share one value."""
MOST_STEPS = 64
"""Steps of one training that are looked at, spread evenly."""
EMBEDDING = ("embedding", "embedding as the layers get it")
"""The first two rows: the output of the embedding module itself, and what hooks on it, such as a scaling, make of it.
Where position 0 is scaled by 0 the first is exactly 0 there, and the second is not."""


def looked_at(step: int, total_steps: int) -> bool:
    """Whether this step (from 1) is one of the at most `MOST_STEPS` that are looked at; the first and last are."""
    every = math.ceil(max(1, total_steps - 1) / (MOST_STEPS - 1))
    return step == total_steps or (step - 1) % every == 0


def with_targets(positions: Any, labels: Any) -> Any:
    """Which tokens belong to a sequence that has a target, bool [rows, tokens]; `positions` is -1 at pads.

    A sequence begins wherever the position is 0; what packing fills up is a sequence of its own, with no target.
    """
    import torch

    sequence = (positions == 0).flatten().cumsum(0)
    counted = torch.zeros(int(sequence[-1]) + 1, dtype=torch.bool, device=positions.device)
    counted[sequence[(labels != IGNORED).flatten()]] = True
    return counted[sequence].view_as(positions) & (positions >= 0)


class PositionGradients:
    """Hooks on a model that is trained; `take` gives the norms of the step since the last call, or None.

    Raises ValueError where the model has no input embeddings or no list of decoder layers.
    """

    def __init__(self, model: Any, world_size: int = 1) -> None:
        embedding, layers = _embedding(model), _layers(model)
        self.rows = [*EMBEDDING, *(f"layer {number}" for number in range(len(layers)))]
        self.world_size = world_size
        self.is_on = False
        self._inputs: dict[str, Any] = {}
        self._place: Any = None
        self._counted: Any = None
        self._factor: Any = None
        self._sums: Any = None
        self._counts: Any = None
        self._handles = [
            model.register_forward_pre_hook(self._begins, with_kwargs=True),
            # The first hook of all sees what the module itself gave, the last what the others made of it.
            embedding.register_forward_hook(self._hook(0, leaf=True), prepend=True),
            embedding.register_forward_hook(self._hook(1)),
            # Before a gradient is stopped there: the hooks of a tensor run in the order they were put on.
            *(layer.register_forward_hook(self._hook(2 + number), prepend=True) for number, layer in enumerate(layers)),
        ]

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def watch(self, loss: Any, labels: Any) -> None:
        """Tell the labels of the forward pass that was just made, and its loss, before the backward pass."""
        import torch

        if not (self.is_on and torch.is_grad_enabled() and loss.requires_grad):
            return
        positions, real = own_positions(labels, **self._inputs)
        positions = positions.masked_fill(~real, -1)
        self._counted = with_targets(positions, labels)
        self._place = positions[self._counted].clamp(max=KEPT)
        if self._counts is None:
            self._counts = torch.zeros(KEPT + 1, dtype=torch.float64, device=labels.device)
            self._sums = torch.zeros(len(self.rows), KEPT + 1, dtype=torch.float64, device=labels.device)
        self._counts += torch.bincount(self._place, minlength=KEPT + 1)
        # What training multiplies the loss by afterwards, for workers or a narrow type, is no part of the derivative.
        loss.register_hook(self._scaled)

    def take(self) -> list[list[float | None]] | None:
        """[row][position] since the last call: `KEPT` positions, then one value for those behind; None where no
        sequence is so long. Every rank must call it; None where nothing was looked at."""
        import torch

        if self._sums is None:
            return None
        sums, counts = self._sums, self._counts
        self._sums = self._counts = self._counted = self._place = None
        if self.world_size > 1:
            torch.distributed.all_reduce(sums)
            torch.distributed.all_reduce(counts)
        means = (sums / counts).tolist()
        return [[None if math.isnan(value) else float(f"{value:.6g}") for value in row] for row in means]

    def _begins(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        self._inputs = {name: kwargs.get(name) for name in ("attention_mask", "position_ids")}

    def _scaled(self, gradient: Any) -> None:
        self._factor = gradient.detach().double().to(self._sums.device)

    def _hook(self, row: int, leaf: bool = False) -> Any:
        import torch

        def gone_back(gradient: Any) -> None:
            # What a method puts in front of every sequence, such as a soft prompt, is none of its tokens.
            own = gradient.detach()[:, -self._counted.shape[1] :]
            # A layer may lie on another device than the labels.
            norms = torch.linalg.vector_norm(own.float(), dim=-1).to(self._sums.device)
            self._sums[row].index_add_(0, self._place, norms[self._counted].double() / self._factor)

        def passed(module: Any, args: Any, output: Any) -> None:
            if not (self.is_on and torch.is_grad_enabled()):
                return
            hidden = output[0] if isinstance(output, tuple | list) else output
            if leaf and not hidden.requires_grad:
                # The embeddings of a frozen base: nothing would be derived by them otherwise.
                hidden.requires_grad_(True)
            if hidden.requires_grad:
                hidden.register_hook(gone_back)

        return passed


def _embedding(model: Any) -> Any:
    found = model.get_input_embeddings()
    if found is None:
        raise ValueError("train.log_position_gradients: this model has no input embeddings. Leave it out.")
    return found


def _layers(model: Any) -> Any:
    found = decoder_layers(model)
    if found is None:
        raise ValueError(
            f"train.log_position_gradients: the decoder layers of this model were not found ({type(model).__name__}). "
            "Leave it out."
        )
    return found
