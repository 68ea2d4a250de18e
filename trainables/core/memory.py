"""How much memory a training takes on one device, from the model's shape alone: a sum of five parts, in bytes.

Weights, gradients and optimizer state are counted; activations and logits follow what the layers of a Llama-like
decoder keep for the backward pass (after the accounting of Korthikanti et al. 2022, "Reducing Activation Recomputation
in Large Transformer Models", arXiv:2205.05198, with gated feed-forward, grouped keys and fused attention instead of
theirs).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
OPTIMIZER_STATES = {"adamw": 2.0, "adamw_8bit": 0.5, "paged_adamw_8bit": 0.5, "sgd": 0.0, "adafactor": 0.0}
"""Copies of float32 weights that an optimizer keeps; Adafactor's rows and columns are too small to count."""
CARDS_GB = (6, 8, 12, 16, 24, 40, 80)
"""Sizes that GPUs are sold in."""
RESERVED_BYTES = 1 << 30
"""What the driver, its context and a fragmented allocator take of a card."""


@dataclass(frozen=True)
class Shape:
    """What of a decoder's configuration rules its memory."""

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_width: int
    """Width of the keys (and of the values) of one token: key heads x head size."""
    query_width: int
    vocab: int


@dataclass(frozen=True)
class Memory:
    """Peak memory of one device in bytes, by what holds it."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """All parts together."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits

    @property
    def card_gb(self) -> int | None:
        """The smallest card it fits, in GB as cards are sold; None where it fits none."""
        return next((size for size in CARDS_GB if self.total + RESERVED_BYTES <= size << 30), None)


@dataclass(frozen=True)
class Footprint:
    """What a method makes of a model, as far as memory is concerned."""

    trainable: int
    """Parameters that train."""
    added: int
    """Of these, how many the method adds to the model: an adapter's."""
    weight_bytes: int
    """The base model's weights in memory."""


def shape_of(config: Mapping[str, Any], parameters: int) -> Shape | None:
    """The shape in a config.json; None where it does not say it in the names that Llama-like (and GPT-2) models use."""

    def first(*names: str) -> int | None:
        return next((config[name] for name in names if isinstance(config.get(name), int)), None)

    hidden, layers = first("hidden_size", "n_embd", "d_model"), first("num_hidden_layers", "n_layer", "num_layers")
    heads, vocab = first("num_attention_heads", "n_head", "num_heads"), first("vocab_size")
    if not hidden or not layers or not heads or not vocab:
        return None
    head_size = first("head_dim") or hidden // heads
    return Shape(
        parameters=parameters,
        layers=layers,
        hidden=hidden,
        intermediate=first("intermediate_size", "n_inner", "d_ff") or 4 * hidden,
        heads=heads,
        kv_width=(first("num_key_value_heads") or heads) * head_size,
        query_width=heads * head_size,
        vocab=vocab,
    )


def full_fine_tuning(
    shape: Shape,
    *,
    rows: int,
    tokens: int,
    dtype: str = "float32",
    compute_dtype: str = "float32",
    optimizer: str = "adamw",
    attention: str = "sdpa",
    gradient_checkpointing: bool = False,
) -> Memory:
    """Memory of one device that trains every weight, `rows` rows of `tokens` tokens at once.

    `dtype` is that of the weights, of their gradients and of the optimizer's state; `compute_dtype` that of the forward
    pass. With AdamW in float32 that is 16 bytes a parameter before the first activation.
    """
    weights = shape.parameters * BYTES[dtype]
    logits = logit_bytes(shape, rows=rows, tokens=tokens, compute_dtype=compute_dtype)
    activations = activation_bytes(
        shape,
        rows=rows,
        tokens=tokens,
        compute_dtype=compute_dtype,
        attention=attention,
        gradient_checkpointing=gradient_checkpointing,
    )
    if gradient_checkpointing:
        # A layer is computed again when the logits are gone, so that the two share their room.
        inputs = rows * tokens * shape.layers * shape.hidden * BYTES[compute_dtype]
        activations -= min(activations - inputs, logits)
    return Memory(
        weights=weights,
        gradients=weights,
        optimizer=int(weights * OPTIMIZER_STATES[optimizer]),
        activations=activations,
        logits=logits,
    )


def activation_bytes(
    shape: Shape, *, rows: int, tokens: int, compute_dtype: str, attention: str, gradient_checkpointing: bool
) -> int:
    """What the layers keep for the backward pass.

    Per token and layer: two norms (their input in float32, and normalized), the input of the projections, queries,
    keys, values and the attention's output, and the feed-forward's input, gate, activated gate, up and product. Eager
    attention also keeps scores and probabilities of every pair of tokens. With checkpointing a layer keeps its input
    alone, and one layer at a time the rest.
    """
    size = BYTES[compute_dtype]
    norms = 2 * shape.hidden * (4 + size)
    attended = size * (shape.hidden + 2 * shape.query_width + 2 * shape.kv_width)
    forward = size * (shape.hidden + 4 * shape.intermediate)
    per_token = norms + attended + forward
    if attention == "eager":
        per_token += shape.heads * tokens * (4 + size)
    if gradient_checkpointing:
        return rows * tokens * (shape.layers * shape.hidden * size + per_token)
    return rows * tokens * shape.layers * per_token


def logit_bytes(shape: Shape, *, rows: int, tokens: int, compute_dtype: str) -> int:
    """The head's output, its log-softmax in float32, and the gradients of both: the head is as wide as the vocabulary,
    so that this rules small models."""
    size = BYTES[compute_dtype]
    copy = 0 if size == 4 else 4
    return rows * tokens * shape.vocab * (2 * size + copy + 4 + 4)
