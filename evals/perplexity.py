"""Perplexity of conversations by role: exp of the mean negative log-likelihood of the tokens that a role contributes.

Token i is predicted from the tokens before it (the causal shift), never from itself; padding counts for nothing; the
divisor is the number of counted tokens over all rows.
"""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from evals._types import EXECUTION, DataError, Direction, Encoded, Metric, Result, Settings, Subject

VERSION = 2
Role = Literal["assistant", "user", "all"]


class Config(Settings):
    """The `perplexity` block under `evals`."""

    data: str = "heldout"
    """`heldout`: the rows that the trial held out; or a file of conversations (JSON, JSONL or Parquet)."""
    roles: tuple[Role, ...] = Field(("assistant",), min_length=1)
    """Whose tokens are scored, each as a metric of its own."""
    reverse: Literal["auto", "reorder", "in_order"] = "auto"
    """For the role user: put the answer of a single-turn row before its question (`auto`), as `data.reverse` does."""
    mask_span: Literal["message", "content"] = "content"
    """`content`: a message's text and its end-of-turn token; `message`: all that the template adds for it."""
    max_length: int | None = Field(None, ge=2)
    """Longest row in tokens; the model's own limit when empty."""
    limit: int | None = Field(None, ge=1)
    """Use only the first rows."""
    batch_size: int = Field(8, ge=1, json_schema_extra=EXECUTION)
    """Rows scored at once."""

    @field_validator("roles")
    @classmethod
    def _distinct(cls, roles: tuple[Role, ...]) -> tuple[Role, ...]:
        if len(set(roles)) != len(roles):
            raise ValueError("must name each role once")
        return roles


def metrics(config: Config) -> dict[str, Direction]:
    """Per role the perplexity and the bits per byte of the scored text; smaller is better."""
    names = [f"perplexity/{role}{suffix}" for role in config.roles for suffix in ("", "_bits_per_byte")]
    return dict.fromkeys(names, "min")


def harness() -> str:
    """Scored by our own code."""
    return ""


def run(subject: Subject, config: Config, data: Path | None, folder: Path) -> Result:
    """Score each row once per role. Raises DataError when no row has a token of a role."""
    from evals._rows import arranged, read_conversations

    if data is None:
        raise DataError(f"perplexity.data: must be `heldout` or a file that is here (got {config.data!r}).")
    rows = read_conversations(data, config.limit)
    samples: list[dict[str, Any]] = [{"key": row.key, "paired": True, "scores": {}} for row in rows]
    found: dict[str, Metric] = {}
    scored: dict[str, Any] = {}
    for role in config.roles:
        encoded: list[Encoded] = []
        refused: Counter[str] = Counter()
        for row in rows:
            try:
                shown = arranged(row.messages, role, config.reverse, row.single_turn)
                encoded.append(
                    subject.encode(shown, role, config.mask_span, config.max_length) if shown else Encoded([], [])
                )
            except ValueError as error:
                # A chat template may refuse an order of roles; such a row is not scored, as it is not trained on.
                encoded.append(Encoded([], []))
                refused[str(error)] += 1
        sums = row_sums(subject, encoded, config.batch_size)
        if not any(tokens for _, tokens in sums):
            why = f" ({', '.join(refused)})" if refused else ""
            raise DataError(f"{data}: none of its {len(rows)} rows has a token of role {role!r} to score{why}.")
        scored[role] = {"rows": sum(tokens > 0 for _, tokens in sums), "refused": dict(refused)}
        sizes = [len(counted_text(subject.tokenizer, row).encode()) for row in encoded]
        for sample, (nll, tokens), size in zip(samples, sums, sizes, strict=True):
            if tokens:
                sample[role] = {"nll": nll, "tokens": tokens, "bytes": size}
                sample["scores"][f"perplexity/{role}"] = {"sum": nll, "count": tokens, "scale": "exp"}
                bits = {"sum": nll / math.log(2), "count": size}
                sample["scores"][f"perplexity/{role}_bits_per_byte"] = bits
        found |= _metrics(role, [nll for nll, _ in sums], [tokens for _, tokens in sums], sizes)
    samples = [sample for sample in samples if sample["scores"]]
    return Result(found, samples, {"rows": {"read": len(rows), **scored}})


def _metrics(role: str, nlls: Sequence[float], tokens: Sequence[int], sizes: Sequence[int]) -> dict[str, Metric]:
    from evals._stats import exponential, ratio

    perplexity = exponential(ratio(nlls, tokens))
    bits = ratio([nll / math.log(2) for nll in nlls], sizes)
    return {
        f"perplexity/{role}": Metric(perplexity.value, "min", n=sum(tokens), stderr=perplexity.stderr_or_none),
        f"perplexity/{role}_bits_per_byte": Metric(bits.value, "min", n=sum(tokens), stderr=bits.stderr_or_none),
    }


def row_sums(subject: Subject, rows: Sequence[Encoded], batch_size: int) -> list[tuple[float, int]]:
    """For each encoded row: the sum of its counted tokens' negative log-likelihoods (nats, float64), and their number.

    The first token of a row has nothing before it and is never counted, whatever its mark.
    """
    from evals._score import Request, token_logprobs

    requests = [
        Request(row.input_ids, [i for i, counted in enumerate(row.counts) if counted and i > 0]) for row in rows
    ]
    scored = token_logprobs(subject, requests, batch_size)
    return [(-math.fsum(result.logprobs), len(result.logprobs)) for result in scored]


def counted_text(tokenizer: Any, row: Encoded) -> str:
    """The text of the counted tokens without special tokens, each unbroken stretch decoded by itself."""
    stretches: list[list[int]] = []
    for i, (token, counted) in enumerate(zip(row.input_ids, row.counts, strict=True)):
        if counted and i > 0:
            if not row.counts[i - 1] or i == 1:
                stretches.append([])
            stretches[-1].append(token)
    return "".join(tokenizer.decode(stretch, skip_special_tokens=True) for stretch in stretches)
