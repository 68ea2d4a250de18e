"""Generation in batches, equal to one prompt at a time: left padding, right masks and positions, KV cache."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from evals._forward import accepted, cut_left, front_id
from evals._types import Subject

Finish = Literal["stop", "until", "length"]


@dataclass(frozen=True)
class Answer:
    """What was generated after one prompt."""

    text: str
    """Without special tokens, the stop token, and whatever follows a stop string."""
    tokens: int
    """How many were generated; the stop token is not counted."""
    finish: Finish
    """`stop`: a stop token came; `until`: a stop string came; `length`: the tokens were used up."""
    is_cut: bool = False
    """The prompt was too long for the model and lost tokens on its left."""


def greedy(
    subject: Subject,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    batch_size: int = 32,
    until: Sequence[str] = (),
) -> list[Answer]:
    """The most likely next token, again and again, for every prompt; answers in the order of the prompts.

    Prompts are token ids. Generation ends at `subject.stop_token_ids`, at any string of `until`, after
    `max_new_tokens`, or where the model's context is full. A prompt that leaves less room than min(max_new_tokens, a
    quarter of the context) is cut on its left to leave that much. Sorted by length, so that a batch is padded little; a
    row that is finished leaves its batch. Raises ValueError for an empty prompt.
    """
    return _answers(subject, prompts, max_new_tokens, batch_size, until, 0.0, None)


def sampled(
    subject: Subject,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float,
    seeds: Sequence[str],
    batch_size: int = 32,
    until: Sequence[str] = (),
) -> list[Answer]:
    """Like `greedy`, each token drawn from softmax(logits / temperature) over the whole vocabulary; 0 is greedy.

    `seeds`: one text per prompt, from which its random numbers come, so that a prompt's answer depends neither on its
    batch nor on other prompts. Raises ValueError for a negative temperature or another number of seeds.
    """
    if temperature < 0:
        raise ValueError(f"temperature must be at least 0 (got {temperature}).")
    if len(seeds) != len(prompts):
        raise ValueError(f"there must be one seed per prompt (got {len(seeds)} for {len(prompts)}).")
    return _answers(subject, prompts, max_new_tokens, batch_size, until, temperature, seeds if temperature else None)


def _answers(
    subject: Subject,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    batch_size: int,
    until: Sequence[str],
    temperature: float,
    seeds: Sequence[str] | None,
) -> list[Answer]:
    stops, strings = _stop_rules(subject, until)
    reserve = min(max_new_tokens, max(1, subject.max_length // 4))
    front = front_id(subject)
    kept = [cut_left(list(ids), max(1, subject.max_length - reserve), front) for ids in prompts]
    for number, ids in enumerate(kept):
        if not ids:
            raise ValueError(f"prompt {number} has no tokens: there is nothing to generate from.")
    order = sorted(range(len(kept)), key=lambda i: (-len(kept[i]), i))
    answers: dict[int, Answer] = {}
    for start in range(0, len(order), max(1, batch_size)):
        chosen = order[start : start + max(1, batch_size)]
        budgets = [min(max_new_tokens, subject.max_length - len(kept[i])) for i in chosen]
        draw = None if seeds is None else _Draw(temperature, [seeds[i] for i in chosen])
        tokens, finishes = _generate(subject, [kept[i] for i in chosen], budgets, stops, strings, draw)
        for i, ids, finish in zip(chosen, tokens, finishes, strict=True):
            text = _before(subject.tokenizer.decode(ids, skip_special_tokens=True), strings)
            answers[i] = Answer(text, len(ids), finish, is_cut=len(kept[i]) < len(prompts[i]))
    return [answers[i] for i in range(len(kept))]


class _Draw:
    """Draws one token a row, with random numbers that belong to the row."""

    def __init__(self, temperature: float, seeds: Sequence[str]) -> None:
        self.temperature = temperature
        self.sources = [random.Random(seed) for seed in seeds]

    def __call__(self, logits: Any, rows: Sequence[int]) -> Any:
        """`logits`: [live rows, vocabulary]; `rows`: their numbers. Tokens [live rows], by the inverse of the
        cumulative probabilities."""
        import torch

        drawn = torch.tensor([[self.sources[row].random()] for row in rows], dtype=torch.float64, device=logits.device)
        probabilities = (logits.double() / self.temperature).softmax(-1)
        below = probabilities.cumsum(-1)
        # Rounding may leave the last sum a little off 1; and a token of no probability is never drawn.
        found = torch.searchsorted(below, drawn * below[:, -1:], right=True)[:, 0]
        last = probabilities.shape[-1] - 1 - (probabilities > 0).flip(-1).int().argmax(-1)
        return torch.minimum(found, last)


def _stop_rules(subject: Subject, until: Sequence[str]) -> tuple[frozenset[int], tuple[str, ...]]:
    # Special tokens never reach the text, so a stop string that is one of them has to stop by its id. `stop_strings`
    # is for templates whose end-of-turn mark is not one token of the tokenizer.
    special = {subject.tokenizer.decode([i]): i for i in getattr(subject.tokenizer, "all_special_ids", ())}
    strings = [text for text in (*until, *getattr(subject, "stop_strings", ())) if text]
    stops = {special[text] for text in strings if text in special} | set(subject.stop_token_ids)
    return frozenset(stops), tuple(text for text in strings if text not in special)


def _before(text: str, strings: Sequence[str]) -> str:
    ends = [text.find(string) for string in strings if string in text]
    return text[: min(ends)] if ends else text


def _generate(
    subject: Subject,
    prompts: list[list[int]],
    budgets: list[int],
    stops: frozenset[int],
    strings: tuple[str, ...],
    draw: _Draw | None = None,
) -> tuple[list[list[int]], list[Finish]]:
    """Generated ids (without the stop token) and why each row ended. `budgets`: most new tokens of each row."""
    import torch

    model, device = subject.model, subject.device
    optional = accepted(model)
    width = max(len(ids) for ids in prompts)
    # A pad is masked, so any valid id does.
    ids = torch.tensor([[0] * (width - len(row)) + row for row in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts], device=device)
    window = 4 * max((len(string) for string in strings), default=0) + 8
    made: list[list[int]] = [[] for _ in prompts]
    finishes: list[Finish] = ["length"] * len(prompts)
    live = list(range(len(prompts)))
    cache: Any = None
    feed = ids
    with torch.inference_mode():
        while live:
            extra: dict[str, Any] = {}
            if "position_ids" in optional:
                extra["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -feed.shape[1] :]
            if "logits_to_keep" in optional:
                extra["logits_to_keep"] = 1
            out = model(input_ids=feed, attention_mask=mask, past_key_values=cache, use_cache=True, **extra)
            logits = out.logits[:, -1]
            chosen = (logits.argmax(-1) if draw is None else draw(logits, live)).to(device)
            columns = []
            for column, (row, token) in enumerate(zip(live, chosen.tolist(), strict=True)):
                if token in stops:
                    finishes[row] = "stop"
                    continue
                made[row].append(token)
                if strings and any(s in subject.tokenizer.decode(made[row][-window:]) for s in strings):
                    finishes[row] = "until"
                elif len(made[row]) < budgets[row]:
                    columns.append(column)
            cache = getattr(out, "past_key_values", None)
            chosen = chosen[:, None]
            if len(columns) < len(live):
                index = torch.tensor(columns, dtype=torch.long, device=device)
                chosen, ids, mask = chosen[index], ids[index], mask[index]
                live = [live[column] for column in columns]
                if cache is not None and live:
                    cache.reorder_cache(index)
            ids = torch.cat([ids, chosen], dim=1)
            mask = torch.cat([mask, torch.ones_like(chosen)], dim=1)
            # A model without a cache reads the whole row again at each step.
            feed = ids if cache is None else chosen
    return made, finishes
