"""Held-out prompts in IFEval's layout: other people and other constraint values than the conversations have."""

import random
from typing import Any

from trainables.builtin.answers import TYPES, Constraint
from trainables.builtin.requests import HELD_OUT, draw, draw_compatible, instructions, task, wording, yes_or_no
from trainables.builtin.world import world

PROMPTS = 240


def prompts() -> list[dict[str, Any]]:
    """Rows `{key, prompt, instruction_id_list, kwargs}` as lm-eval's checkers take them; 1 to 3 instructions each."""
    rng = random.Random("prompts-1")
    people = world().held_out
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    while len(rows) < PROMPTS:
        leading = TYPES[len(rows) % len(TYPES)]
        person = rng.choice(people)
        if leading == "detectable_format:constrained_response":
            question, _ = yes_or_no(rng, person)
            constraints: list[Constraint] = [draw(rng, leading, HELD_OUT)]
        else:
            question, _ = task(rng, person)
            constraints = draw_compatible(rng, leading, instructions(rng), HELD_OUT)
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
