"""Held-out prompts in IFEval's layout: other people and other constraint values than the conversations have."""

import random
from typing import Any

from trainables.builtin.answers import TYPES
from trainables.builtin.requests import HELD_OUT, draw_compatible, instructions, task, wording, yes_or_no
from trainables.builtin.world import world

PROMPTS = 240
# Each needs a phrase copied that no conversation has: hard for so small a model, so fewer prompts lead with them.
HARD = ("detectable_content:postscript", "keywords:existence", "startend:end_checker")


def prompts() -> list[dict[str, Any]]:
    """Rows `{key, prompt, instruction_id_list, kwargs}` as lm-eval's checkers take them; 1 to 3 instructions each."""
    rng = random.Random("prompts-1")
    people = world().held_out
    order = [*TYPES, *(type_ for type_ in TYPES if type_ not in HARD)]
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    while len(rows) < PROMPTS:
        leading = order[len(rows) % len(order)]
        person = rng.choice(people)
        constraints = draw_compatible(rng, leading, instructions(rng), HELD_OUT)
        asks = yes_or_no if leading == "detectable_format:constrained_response" else task
        question, _ = asks(rng, person)
        prompt = " ".join([question, *(wording(rng, constraint) for constraint in constraints)])
        if prompt in seen:
            continue
        seen.add(prompt)
        rows.append(
            {
                "key": len(rows) + 1,
                "prompt": prompt,
                "instruction_id_list": [constraint.type for constraint in constraints],
                "kwargs": [constraint.kwargs for constraint in constraints],
            }
        )
    return rows
