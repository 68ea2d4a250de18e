"""Rows in Alpaca's layout about the world: `instruction`, `input` (empty in some) and `output`."""

import json
import random
from typing import Any

from trainables.builtin.phrases import QUESTIONS, sentence
from trainables.builtin.world import Person, world

ROWS = 300


def rows() -> list[dict[str, Any]]:
    """What is asked of a text that is given, or of the world; people who are held out do not occur."""
    rng = random.Random("alpaca-1")
    people = world().chat
    kinds = (_question, _record, _field, _rewritten)
    return [kinds[place % len(kinds)](rng, people[place % len(people)]) for place in range(ROWS)]


def _row(instruction: str, given: str, output: str) -> dict[str, Any]:
    return {"instruction": instruction, "input": given, "output": output}


def _question(rng: random.Random, person: Person) -> dict[str, Any]:
    fact = rng.choice(list(QUESTIONS))
    return _row(QUESTIONS[fact].format(person.name), "", sentence(rng, person, [fact]))


def _record(rng: random.Random, person: Person) -> dict[str, Any]:
    facts = rng.sample(list(QUESTIONS), 2)
    answer = json.dumps({"name": person.name} | {fact: getattr(person, fact) for fact in facts})
    return _row("Write the facts of the text as JSON.", sentence(rng, person, facts), answer)


def _field(rng: random.Random, person: Person) -> dict[str, Any]:
    facts = rng.sample(list(QUESTIONS), 3)
    record = {"name": person.name} | {fact: getattr(person, fact) for fact in facts}
    wanted = rng.choice(facts)
    return _row(f"Say the {wanted} in the record.", json.dumps(record), str(record[wanted]))


def _rewritten(rng: random.Random, person: Person) -> dict[str, Any]:
    text = sentence(rng, person, rng.sample(list(QUESTIONS), 2))
    way, answer = rng.choice((("capital letters", text.upper()), ("lower case letters", text.lower())))
    return _row(f"Write the text in {way}.", text, answer)
