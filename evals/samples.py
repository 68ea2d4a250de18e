"""Answers to look at: the next turn of a role, generated greedily, beside the real one. A table, not a score."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from evals._turns import Turn, split_turn, transcript
from evals._types import EXECUTION, DataError, Direction, Metric, Result, Settings, Subject

VERSION = 2


class Config(Settings):
    """The `samples` block under `evals`."""

    data: str = "heldout"
    """`heldout`: the rows that the trial held out; or a file of conversations, or of rows with a `prompt`."""
    role: Literal["assistant", "user"] = "assistant"
    """Who speaks next."""
    reverse: Literal["auto", "reorder", "in_order"] = "auto"
    """For `role: user`: put the answer of a single-turn row before its question (`auto`), as `data.reverse` does."""
    n: int = Field(20, ge=1)
    """How many rows, from the first on."""
    max_new_tokens: int = Field(256, ge=1)
    """Longest answer in tokens."""
    batch_size: int = Field(32, ge=1, json_schema_extra=EXECUTION)
    """Rows generated at once."""


def metrics(config: Config) -> dict[str, Direction]:
    """Two facts about the answers, so that an empty table explains itself; neither judges what they say."""
    return {"samples/answered": "max", "samples/finished": "max"}


def harness() -> str:
    """Scored by our own code."""
    return ""


def run(subject: Subject, config: Config, data: Path | None, folder: Path) -> Result:
    """Generate the next turn of `config.role` for the first rows that have one.

    `samples/answered`: share of answers that are not blank; `samples/finished`: share that the model ended itself.
    Raises DataError when no row has such a turn.
    """
    from evals._generate import greedy
    from evals._rows import read_rows

    if data is None:
        raise DataError(f"samples.data: must be `heldout` or a file that is here (got {config.data!r}).")
    turns = next_turns(read_rows(data), str(data), config)
    if not turns:
        raise DataError(f"{data}: no row has a turn of role {config.role!r} to put beside a generated one.")
    prompts, refused = [], Counter[str]()
    for turn in turns:
        try:
            prompts.append((turn, subject.tokenize(subject.prompt(turn.messages, config.role))))
        except ValueError as error:
            # A chat template may refuse an order of roles; the other rows can still be looked at.
            refused[str(error)] += 1
    if not prompts:
        raise DataError(f"{data}: the chat template refuses all {len(turns)} rows: {', '.join(refused)}.")
    answers = greedy(subject, [ids for _, ids in prompts], config.max_new_tokens, config.batch_size)
    samples: list[dict[str, Any]] = []
    for (turn, _), answer in zip(prompts, answers, strict=True):
        said, ended = bool(answer.text.strip()), answer.finish != "length"
        samples.append(
            {
                "key": turn.key,
                "paired": True,
                "prompt": transcript(turn.messages),
                "role": config.role,
                "answer": answer.text,
                "reference": turn.reference,
                "tokens": answer.tokens,
                "finish": answer.finish,
                "prompt_cut": answer.is_cut,
                "scores": {
                    "samples/answered": {"sum": int(said), "count": 1},
                    "samples/finished": {"sum": int(ended), "count": 1},
                },
            }
        )
    found = {name: _share([sample["scores"][name]["sum"] for sample in samples]) for name in metrics(config)}
    lengths = sorted(answer.tokens for answer in answers)
    table = {"mean": sum(lengths) / len(lengths), "shortest": lengths[0], "longest": lengths[-1]}
    return Result(found, samples, {"tokens": table, "refused": dict(refused)})


def _share(values: Sequence[int]) -> Metric:
    from evals._stats import mean

    estimate = mean(values)
    return Metric(estimate.value, "max", n=len(values), stderr=estimate.stderr_or_none)


def next_turns(rows: Sequence[dict[str, Any]], place: str, config: Config) -> list[Turn]:
    """The first `config.n` turns to generate. Rows with a `prompt` are one user message with no reference but their
    `reference` or `response`, where given. Raises DataError for a row that is neither that nor a conversation."""
    from evals._rows import keys_of, messages_of, single_turn_of

    turns: list[Turn] = []
    for number, (key, row) in enumerate(zip(keys_of(rows), rows, strict=True), start=1):
        if isinstance(row.get("prompt"), str) and "conversations" not in row and "messages" not in row:
            if config.role == "assistant":
                real = row.get("reference", row.get("response"))
                turns.append(
                    Turn(key, [{"role": "user", "content": row["prompt"]}], real if isinstance(real, str) else None)
                )
        else:
            messages = messages_of(row, f"{place}: row {number}")
            before, reference = split_turn(messages, config.role, config.reverse, single_turn_of(row))
            if reference is not None:
                turns.append(Turn(key, before, reference))
        if len(turns) == config.n:
            break
    return turns
