"""lm-eval's IFEval task on rows of our own: its settings, its checkers and its aggregation, only the data replaced."""

import contextlib
import difflib
import inspect
import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals._types import DataError

LEVELS = ("prompt_level_strict_acc", "inst_level_strict_acc", "prompt_level_loose_acc", "inst_level_loose_acc")
"""lm-eval's names of its four numbers."""
FIELDS = ("key", "prompt", "instruction_id_list", "kwargs")
SHOWN_MISTAKES = 8


@dataclass(frozen=True)
class Verdict:
    """One prompt, its answer, and for each of its instructions whether it was followed."""

    row: Mapping[str, Any]
    answer: str
    strict: list[bool]
    loose: list[bool]
    is_random: bool
    """The checker of one of its instructions draws what it asks for at random, so the verdict says nothing."""


def check_rows(rows: Sequence[Mapping[str, Any]], place: str) -> list[dict[str, Any]]:
    """The rows as the scorer wants them: arguments without empty values, every instruction known.

    Raises DataError that names each mistake's row: a missing field, an unknown instruction type or argument, lists of
    different lengths, a key that appears twice.
    """
    from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT

    mistakes: list[str] = []
    checked = []
    for number, row in enumerate(rows, start=1):
        where = f"row {number} (key {row.get('key')!r})"
        missing = [name for name in FIELDS if row.get(name) is None]
        if missing:
            mistakes.append(f"{where}: has no {', '.join(missing)}")
            continue
        arguments = row["kwargs"]
        if isinstance(arguments, str):
            with contextlib.suppress(json.JSONDecodeError):
                arguments = json.loads(arguments)
        names = row["instruction_id_list"]
        if not isinstance(names, list) or not names or not isinstance(arguments, list) or len(names) != len(arguments):
            mistakes.append(f"{where}: instruction_id_list and kwargs must be lists of the same length, not empty")
            continue
        if not isinstance(row["prompt"], str):
            mistakes.append(f"{where}: prompt must be a text (got {row['prompt']!r})")
            continue
        kept = [{k: v for k, v in (item or {}).items() if v is not None} for item in arguments]
        mistakes += [
            f"{where}: {message}"
            for name, item in zip(names, kept, strict=True)
            if (message := _instruction_mistake(name, item, INSTRUCTION_DICT))
        ]
        checked.append({**row, "kwargs": kept})
    seen = Counter(str(row["key"]) for row in checked)
    mistakes += [f"key {key!r} appears {count} times" for key, count in seen.items() if count > 1]
    if mistakes:
        more = len(mistakes) - SHOWN_MISTAKES
        lines = "".join(f"\n  {mistake}." for mistake in mistakes[:SHOWN_MISTAKES])
        raise DataError(f"{place}: not in IFEval's layout.{lines}" + (f"\n  and {more} more." if more > 0 else ""))
    return checked


def _instruction_mistake(name: str, arguments: Mapping[str, Any], registry: Mapping[str, Any]) -> str:
    """What is wrong with one instruction, or nothing."""
    if name not in registry:
        close = difflib.get_close_matches(str(name), registry, n=1)
        return f"unknown instruction type {name!r}" + (f"; the nearest is {close[0]}" if close else "")
    known = [p for p in inspect.signature(registry[name].build_description).parameters if p != "self"]
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        return f"{name} takes {', '.join(known) or 'no arguments'} (got {', '.join(unknown)})"
    with _seeded_random():
        try:
            registry[name](name).build_description(**{k: v for k, v in arguments.items() if v})
        except (ValueError, TypeError, AttributeError) as error:
            return f"{name} refuses its arguments {dict(arguments)}: {error}"
    return ""


def draws_at_random(row: Mapping[str, Any]) -> bool:
    """Whether a checker of this row makes up what it asks for, as for a `letter` that is not one or a missing argument.

    Told by the checker itself: building it moves Python's random state, or it does not.
    """
    from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT

    with _seeded_random():
        for name, arguments in zip(row["instruction_id_list"], row["kwargs"], strict=True):
            before = random.getstate()
            INSTRUCTION_DICT[name](name).build_description(**{k: v for k, v in arguments.items() if v})
            if random.getstate() != before:
                return True
    return False


@contextlib.contextmanager
def _seeded_random() -> Iterator[None]:
    """Python's random numbers from a fixed start, and the caller's state back afterwards."""
    state = random.getstate()
    random.seed(0)
    try:
        yield
    finally:
        random.setstate(state)


class _Rows(list[dict[str, Any]]):
    """Rows as lm-eval wants a split: a sequence with `features`. Not an Arrow table, which would force one type on an
    argument whose values differ between instructions, and fill every row with the arguments of all others."""

    features = dict.fromkeys(FIELDS)


def score(lm: Any, rows: Sequence[Mapping[str, Any]], max_new_tokens: int) -> tuple[dict[str, float], list[Verdict]]:
    """Run lm-eval's `ifeval` task: answers from `lm`, verdicts and the four numbers from its own functions.

    `lm` is an `lm_eval.api.model.LM`; `rows` come from `check_rows`. langdetect and Python's random numbers are seeded,
    so that the same answers always get the same verdicts.
    """
    import langdetect
    from lm_eval import tasks
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks._yaml_loader import load_yaml

    settings = load_yaml(Path(str(tasks.__file__)).parent / "ifeval" / "ifeval.yaml")
    settings["generation_kwargs"] = {**settings["generation_kwargs"], "max_gen_toks": max_new_tokens}

    class OnRows(ConfigurableTask):
        """The stock task with its download replaced."""

        def download(self, *_args: Any, **_kwargs: Any) -> None:
            self.dataset = {settings["test_split"]: _Rows(dict(row) for row in rows)}

    # langdetect draws random numbers of its own, from this seed anew for each text.
    langdetect.DetectorFactory.seed = 0
    with _seeded_random():
        found = evaluate(
            lm=lm,
            task_dict={"tasks": {"ifeval": OnRows(config=settings)}},
            apply_chat_template=True,
            log_samples=True,
            bootstrap_iters=0,
        )
    assert found is not None
    totals = {name: float(found["results"]["ifeval"][f"{name},none"]) for name in LEVELS}
    samples = sorted(found["samples"]["ifeval"], key=lambda sample: sample["doc_id"])
    verdicts = [
        Verdict(
            row=sample["doc"],
            answer=sample["filtered_resps"][0],
            strict=[bool(value) for value in sample["inst_level_strict_acc"]],
            loose=[bool(value) for value in sample["inst_level_loose_acc"]],
            is_random=draws_at_random(sample["doc"]),
        )
        for sample in samples
    ]
    return totals, verdicts
