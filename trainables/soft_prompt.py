"""Soft prompts: a learnt prefix before a multiple-choice question, the model frozen (Lester et al. 2021,
arXiv:2104.08691)."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from trainables._question_settings import QUESTIONS
from trainables._settings import EXECUTION, Settings
from trainables.core.footprint import Footprint

VERSION = 1
"""Raised when an unchanged config gives other weights."""

SUMMARY = "a learnt prefix before multiple-choice questions, the whole model frozen"

BLOCKS = QUESTIONS

EXPORT = "soft_prompt"

ROWS = "questions"
"""What it is trained on: the block `questions` is always there."""

LENGTH = 20
"""Rows of a prefix that no text gives a length."""


class Config(Settings):
    """What the prefix is and how it begins."""

    kind: Literal["soft", "prefix", "p_tuning"] = "soft"
    """`soft`: embeddings before the question; `prefix`: keys and values of every layer (PEFT's prefix tuning, which is
    P-tuning v2); `p_tuning`: embeddings that an encoder makes (PEFT's P-tuning)."""
    length: int | None = Field(None, ge=1)
    """Rows that train; as many as the initial text has tokens when empty."""
    init: str = "text"
    """How they begin: `text`; `vocab`: the embeddings of random tokens; `normal`: drawn with the mean and spread of the
    embeddings; or the folder of an earlier export."""
    init_text: str | None = None
    """The text of `init: text`; the system text and instruction of `questions` when empty. Where `length` is not its
    own, the last rows of the text written again and again."""
    reparametrisation: Literal["auto", "none", "mlp", "lstm"] = "auto"
    """Layers that the rows come out of while they are trained: for `p_tuning` those of PEFT's encoder (`auto`: mlp),
    for the others an mlp that is added to the rows (`auto`: none)."""
    reparametrisation_hidden: int | None = Field(None, ge=1)
    """Width of those layers; the model's own when empty."""
    bits: Literal[4, 8] | None = None
    """Read the frozen base with fewer bits (4: NF4 with double quantization)."""
    nearest: int = Field(3, ge=0, json_schema_extra=EXECUTION)
    """How many of the vocabulary's tokens nearest to each row are told at every measurement."""

    @model_validator(mode="after")
    def _kind_has_it(self) -> "Config":
        allowed = ("auto", "mlp", "lstm") if self.kind == "p_tuning" else ("auto", "none", "mlp")
        if self.reparametrisation not in allowed:
            raise ValueError(
                f"reparametrisation: kind {self.kind} has {', '.join(allowed)} (got {self.reparametrisation!r})"
            )
        if self.init_text is not None and self.init != "text":
            raise ValueError(f"init_text would be ignored with init: {self.init}: leave it out, or use init: text")
        return self


def quantization(config: Config) -> dict[str, Any] | None:
    """How the base model is read, as plain values; None for its own type."""
    if config.bits is None or config.bits == 8:
        return None if config.bits is None else {"bits": 8}
    return {"bits": 4, "quant_type": "nf4", "double_quant": True, "compute_dtype": "auto"}


def build(model: Any, config: Config, task: Any = None) -> Any:
    """The frozen model behind a fresh prefix. `task`: the questions (`_question_task.QuestionTask`), which know the
    template's opening and the text that the prefix begins as; without it there is no opening, and random rows."""
    from trainables._soft_prompts import attach

    return attach(model, config, task)


def footprint(config: Config, shapes: Mapping[str, Any], dtype: str) -> Footprint | None:
    """What a prefix adds to a model of these shapes; None: that hangs on the tokens of a text."""
    return None


def told(model: Any, config: Config) -> dict[str, Any]:
    """What there is to tell of the prefix at a measurement: {"metrics": {...}, "nearest": per row}."""
    from trainables._soft_prompts import told as told_of

    return told_of(model, config.nearest)


def save(model: Any, folder: Any) -> dict[str, Any]:
    """Write the prefix in PEFT's format; returns what export.json is to say of it."""
    from trainables._soft_prompts import save as write

    return write(model, folder)
