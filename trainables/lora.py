"""LoRA: small matrices beside chosen linear layers train, the base model's weights stay as they are."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from trainables._parallel import PARALLEL
from trainables._settings import EXECUTION, Settings

VERSION = 1
"""Raised when an unchanged config gives other weights."""

SUMMARY = "low-rank adapters beside the linear layers of a frozen base model"

BLOCKS = PARALLEL

EXPORT = "adapter"


class Config(Settings):
    """PEFT's LoRA settings, in this file's words; each can be swept."""

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
    init: Literal["default", "gaussian", "orthogonal", "pissa", "olora"] = "default"
    """How A and B begin (PEFT: init_lora_weights)."""
    init_iterations: int | None = Field(None, ge=1)
    """For `init: pissa`: an approximate decomposition in so many steps instead of the exact one (PEFT:
    pissa_niter_N)."""
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

    @field_validator("init", mode="before")
    @classmethod
    def _init_of_a_plain_base(cls, init: Any) -> Any:
        if init == "loftq":
            raise ValueError(
                "loftq makes up for what quantization loses, and this method's base is not quantized: use method qlora"
            )
        return init


def build(model: Any, config: Config) -> Any:
    """The model with an adapter on its target layers; only the adapter trains."""
    from trainables._adapters import attach

    return attach(model, config, "lora")


def check(config: Config, shapes: Mapping[str, Any]) -> None:
    """Raise ValueError where a setting means nothing in a model of these shapes (see `record.shapes`)."""
    from trainables.core.adapters import targets_of

    targets_of(config, shapes, "lora")
