"""Finds the input embeddings of a model, whatever is wrapped around it."""

from dataclasses import dataclass
from typing import Any

from trainables._bos_zero import BLOCK


@dataclass(frozen=True)
class Place:
    """Where a model's input embeddings are."""

    name: str
    """Dotted name in the model itself, without the wrappers around it: model.embed_tokens."""
    module: Any
    model: Any
    """The model itself, without the wrappers."""
    around: tuple[Any, ...]
    """The modules that it lies in, the outermost first."""


def find_embeddings(model: Any) -> Place:
    """The input embeddings of a model, also under DDP, DeepSpeed or PEFT. Raises ValueError where it has none."""
    inner = model
    while _wrapped(inner) is not None:
        inner = _wrapped(inner)
    if hasattr(inner, "get_base_model"):
        inner = inner.get_base_model()
    try:
        module = inner.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        module = None
    names = {id(each): name for name, each in model.named_modules()}
    own = {id(each): name for name, each in inner.named_modules()}
    if module is None or id(module) not in own:
        raise ValueError(
            f"{BLOCK}: {type(inner).__name__} has no input embeddings (get_input_embeddings) whose output could be "
            "scaled. Leave the block out, or use another model."
        )
    parts = names[id(module)].split(".")
    around = tuple(model.get_submodule(".".join(parts[:stop])) for stop in range(len(parts)))
    return Place(own[id(module)], module, inner, around)


def _wrapped(model: Any) -> Any:
    """The model inside DDP, DeepSpeed's engine or a compiled module; None for one that is no wrapper."""
    if type(model).__name__ in ("DistributedDataParallel", "DataParallel", "DeepSpeedEngine"):
        return model.module
    return model._modules.get("_orig_mod") if hasattr(model, "_modules") else None
