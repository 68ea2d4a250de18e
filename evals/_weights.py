"""The weight that a module works with: dequantized, with its adapter in it, on the CPU. The model stays as it is."""

import copy
import importlib
from typing import Any

from evals._modules import Part, is_transposed, is_wrapped, plain_layer
from evals._types import DataError


def has_weight(module: Any) -> bool:
    """Whether there is a matrix or vector to look at."""
    return getattr(plain_layer(module), "weight", None) is not None


def weight_of(module: Any, part: Part) -> Any:
    """The part's weight as it stands in the module, [outputs, inputs] but in a Conv1D. In the model's own type where no
    adapter is on it, else in float32."""
    weight = effective_weight(module)
    if part.rows is None:
        return weight.clone()
    first, last = part.rows
    return (weight[:, first:last] if is_transposed(module) else weight[first:last]).clone()


def effective_weight(module: Any) -> Any:
    """The module's weight with what PEFT adds to it: W + delta for a LoRA, with its magnitudes for DoRA, whatever
    another adapter makes of it. Raises DataError for an adapter that PEFT cannot add to a weight."""
    import torch

    with torch.no_grad():
        if not is_wrapped(module):
            return _dequantized(module)
        if getattr(module, "disable_adapters", False):
            return effective_weight(_beneath(module))
        if not hasattr(module, "base_layer"):
            return effective_weight(_trained_copy(module))
        return _merged(module)


def _beneath(module: Any) -> Any:
    return module.base_layer if hasattr(module, "base_layer") else module.original_module


def _trained_copy(module: Any) -> Any:
    """What stands for the module since training: the copy of the adapter that is on."""
    active = module.active_adapter
    name = active if isinstance(active, str) else next(iter(active), "")
    copies = module.modules_to_save
    return copies[name] if name in copies else module.original_module  # noqa: SIM401 (a ModuleDict has no `get`)


def _dequantized(module: Any) -> Any:
    import torch

    if type(module.weight) is torch.nn.Parameter and module.weight.is_floating_point():
        return module.weight.detach().to("cpu")
    from peft.utils.integrations import dequantize_module_weight

    return dequantize_module_weight(module).detach().to("cpu")


def _merged(module: Any) -> Any:
    """PEFT's own merge, on a copy of the adapter over a plain float32 copy of the layer beneath: merging and unmerging
    the module itself would round its weights for good, and a quantized one would be quantized again."""
    import torch

    base = module.get_base_layer()
    beneath = _plain_copy(base)
    # deepcopy takes the plain layer wherever it would have copied the module's own.
    clone = copy.deepcopy(module, {id(base): beneath}).to(device="cpu", dtype=torch.float32)
    family, _, file = type(module).__module__.rpartition(".")
    if type(base).__module__.startswith("bitsandbytes") and file != "layer":
        clone.__class__ = importlib.import_module(f"{family}.layer").Linear
        for name in ("fan_in_fan_out", "is_target_conv_1d_layer"):
            clone.__dict__.setdefault(name, False)
    try:
        clone.merge()
    except (AttributeError, NotImplementedError, RuntimeError, ValueError) as error:
        raise DataError(
            f"matrices.weights: PEFT cannot add an adapter of {type(module).__name__} to its weight ({error}). "
            "Write `weights: false` to look at activations alone."
        ) from error
    return clone.get_base_layer().weight.detach()


def _plain_copy(base: Any) -> Any:
    """The layer with a float32 weight on the CPU, an ordinary linear layer where it is quantized."""
    import torch

    weight = _dequantized(base)
    if not type(base).__module__.startswith("bitsandbytes"):
        return copy.deepcopy(base).to(device="cpu", dtype=torch.float32)
    plain = torch.nn.Linear(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
    plain.weight = torch.nn.Parameter(weight.float(), requires_grad=False)
    if base.bias is not None:
        plain.bias = torch.nn.Parameter(base.bias.detach().float().cpu(), requires_grad=False)
    return plain
