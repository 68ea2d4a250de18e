"""The settings that every method with an adapter has: PEFT's, in this project's words."""

from typing import Annotated, Literal

from pydantic import Field

from trainables._settings import EXECUTION, Settings


class AdapterSettings(Settings):
    """What the blocks `lora` and `qlora` have in common; how A and B begin differs."""

    rank: int = Field(16, ge=1)
    """Rank of the matrices A and B (PEFT: r)."""
    alpha: int = Field(32, ge=1)
    """The adapter's output is scaled by alpha / rank (PEFT: lora_alpha)."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout in front of A (PEFT: lora_dropout)."""
    targets: str | Annotated[list[str], Field(min_length=1)] = "all-linear"
    """`attention`, `mlp` or `all-linear` (all but the output layer), resolved for the model's architecture; a list of
    names, the last parts of module names, with * as wildcard; or a regular expression over full names."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Which biases of the base train too."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) instead (PEFT: use_rslora)."""
    dora: bool = False
    """Decompose weights into magnitude and direction (PEFT: use_dora)."""
    layers: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None
    """Numbers of the layers that get an adapter; all when empty (PEFT: layers_to_transform)."""
    modules_to_save: list[str] | None = None
    """Modules that train whole and are saved with the adapter, such as [lm_head]."""
    lora_plus_ratio: float | None = Field(None, gt=0)
    """LoRA+: the learning rate of B is that of A times this; the same for both when empty."""
    merge: bool = Field(False, json_schema_extra=EXECUTION)
    """Also write `merged/`: the base model with the adapter added to its weights."""
    evaluate: Literal["adapter", "merged"] = "adapter"
    """What the evals score: the base with the adapter beside it, or the merged model."""
