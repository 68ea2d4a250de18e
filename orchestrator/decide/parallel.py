"""What is wrong where a trial is spread over devices by `deepspeed` or `fsdp`."""

from collections.abc import Mapping
from typing import Any

from orchestrator.decide.settings import TrialSettings
from orchestrator.errors import Mistake
from trainables._deepspeed import Shape, deepspeed_config, stage_of
from trainables._parallel import DeepSpeed
from trainables._settings import ModelSettings
from trainables.core.batches import batch_shape


def both_mistakes(blocks: Mapping[str, Any], model: ModelSettings | None) -> list[Mistake]:
    """Whether more than one way of spreading a trial is asked for."""
    asked = [name for name in ("deepspeed", "fsdp") if name in blocks]
    found = []
    if len(asked) > 1:
        found.append(Mistake("fsdp", None, "cannot be used together with deepspeed", "Keep one of the two blocks."))
    if asked and model is not None and model.device_map is not None:
        rule = f"cannot be used together with {asked[0]}, which places weights itself"
        found.append(Mistake("model.device_map", model.device_map, rule, "Leave one of the two out."))
    return found


def deepspeed_mistakes(settings: TrialSettings, own: Mapping[str, Any] | None) -> list[Mistake]:
    """Whether DeepSpeed can do what the trial says; `own` is the content of the file that `deepspeed.config` names."""
    block, train, model = DeepSpeed(**settings.blocks["deepspeed"]), settings.train, settings.model
    workers = settings.resources.workers
    micro_batch, accumulation = batch_shape(train.global_batch, workers, train.micro_batch, train.accumulation)
    dtype = "float32" if model.dtype == "auto" else model.dtype
    precision = None if train.precision == "auto" else train.precision
    try:
        deepspeed_config(block, model, train, Shape(micro_batch, accumulation, workers, dtype, precision), own)
    except ValueError as error:
        key, _, rule = str(error).partition(": ")
        return [Mistake(key, None, rule.rstrip("."))]
    if train.keep == "best" and stage_of(block, own) == 3:
        rule = "weights that ZeRO-3 divides can be put together at the end alone"
        return [Mistake("train.keep", "best", rule, "Use a stage of 2 or less, or train.keep: last.")]
    return []
