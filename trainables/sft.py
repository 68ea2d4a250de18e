"""Full-parameter supervised fine-tuning: every weight of the base model trains."""

from typing import Any

from trainables._bos_zero import BLOCKS as SCALING
from trainables._parallel import PARALLEL
from trainables._question_settings import QUESTIONS
from trainables._settings import Settings

VERSION = 1
"""Raised when an unchanged config gives other weights."""

SUMMARY = "full-parameter supervised fine-tuning"


BLOCKS = {**SCALING, **PARALLEL, **QUESTIONS}


class Config(Settings):
    """Full fine-tuning has no settings beyond `data` and `train`."""


def build(model: Any, config: Config) -> Any:
    """The model with all its weights trainable."""
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model
