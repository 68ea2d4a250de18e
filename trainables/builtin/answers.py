"""Answers about one person that keep to a set of constraints, built so that they are also true of the world."""

import json
import random
from dataclasses import dataclass, field
from typing import Any

from trainables.builtin.phrases import CLAUSES, sentence
from trainables.builtin.world import Person

FACTS = tuple(CLAUSES)
PLACEHOLDERS = ("[name]", "[date]", "[address]", "[number]")

# Instruction types that set the shape of the whole answer: at most one of them in a prompt.
SHAPES = (
    "detectable_format:number_bullet_lists",
    "length_constraints:number_paragraphs",
    "combination:two_responses",
)
# Types that leave no room for any other.
ALONE = ("detectable_format:json_format", "detectable_format:constrained_response")
MODIFIERS = (
    "change_case:english_lowercase",
    "change_case:english_capital",
    "startend:quotation",
    "detectable_format:title",
    "detectable_content:postscript",
    "detectable_content:number_placeholders",
    "detectable_format:number_highlighted_sections",
    "keywords:existence",
    "startend:end_checker",
)
TYPES = MODIFIERS + SHAPES + ALONE


@dataclass(frozen=True)
class Constraint:
    """One instruction in lm-eval's terms: its type and the arguments its checker takes."""

    type: str
    kwargs: dict[str, Any] = field(default_factory=dict)


def compatible(types: list[str]) -> bool:
    """Whether one answer can keep to all of these types at once."""
    chosen = set(types)
    if len(chosen) < len(types) or (len(types) > 1 and chosen & set(ALONE)):
        return False
    # A quotation mark hides the first bullet, and the asterisks of highlights are read as separators or bullets.
    return not (
        len(chosen & set(SHAPES)) > 1
        or chosen >= {"change_case:english_lowercase", "change_case:english_capital"}
        or chosen >= {"startend:quotation", "detectable_format:number_bullet_lists"}
        or ("detectable_format:number_highlighted_sections" in chosen and chosen & set(SHAPES))
    )


def answer(rng: random.Random, person: Person, constraints: list[Constraint], first: str | None = None) -> str:
    """A true answer that keeps to every constraint; `first` is a fact that must be told, and is told first."""
    wanted = {c.type: c.kwargs for c in constraints}
    if "detectable_format:json_format" in wanted:
        return _record(rng, person, first)
    facts = [fact for fact in rng.sample(FACTS, len(FACTS)) if fact != first]
    if first is not None:
        facts.insert(0, first)
    text = _body(rng, person, facts, wanted)
    if "detectable_content:number_placeholders" in wanted:
        count = wanted["detectable_content:number_placeholders"]["num_placeholders"]
        text += f" Fill in {' and '.join(PLACEHOLDERS[:count])}."
    if "keywords:existence" in wanted:
        text += f" Here are the words {' and '.join(wanted['keywords:existence']['keywords'])}."
    if "detectable_format:title" in wanted:
        text = f"<<About {person.name}>>\n{text}"
    if "detectable_content:postscript" in wanted:
        text += f"\n{wanted['detectable_content:postscript']['postscript_marker']} That is all."
    if "startend:end_checker" in wanted:
        text += f" {wanted['startend:end_checker']['end_phrase']}"
    if "startend:quotation" in wanted:
        text = f'"{text}"'
    if "change_case:english_lowercase" in wanted:
        text = text.lower()
    if "change_case:english_capital" in wanted:
        text = text.upper()
    return text


def _body(rng: random.Random, person: Person, facts: list[str], wanted: dict[str, dict[str, Any]]) -> str:
    stars = wanted.get("detectable_format:number_highlighted_sections", {}).get("num_highlights", 0)
    if "detectable_format:number_bullet_lists" in wanted:
        count = wanted["detectable_format:number_bullet_lists"]["num_bullets"]
        return "\n".join(f"- {sentence(rng, person, [fact])}" for fact in facts[:count])
    if "length_constraints:number_paragraphs" in wanted:
        count = wanted["length_constraints:number_paragraphs"]["num_paragraphs"]
        return "\n***\n".join(sentence(rng, person, [fact]) for fact in facts[:count])
    if "combination:two_responses" in wanted:
        return "\n******\n".join(sentence(rng, person, [fact]) for fact in facts[:2])
    return sentence(rng, person, facts[: max(2, stars)], stars)


def _record(rng: random.Random, person: Person, first: str | None) -> str:
    keys = [key for key in FACTS if key != first]
    chosen = ([first] if first else []) + rng.sample(keys, 1 if first else 2)
    return json.dumps({"name": person.name} | {key: getattr(person, key) for key in chosen})
