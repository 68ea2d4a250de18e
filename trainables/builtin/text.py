"""The plain text that the miniature is pretrained on: an endless stream of short documents about the world.

No document is a conversation. What the later training needs is in it, though: facts told many times over, pages in
every form that a prompt may ask for, phrases that come back word for word (copying), exam papers, and records.
"""

import json
import random
from collections.abc import Iterator

from trainables.builtin.answers import ALONE, FACTS, MODIFIERS, SHAPES, answer
from trainables.builtin.phrases import NUMBERS, QUESTIONS, sentence
from trainables.builtin.questions import LETTERS, draw_choices, render
from trainables.builtin.requests import CHAT, HELD_OUT, Pool, draw_compatible
from trainables.builtin.world import Person, Thing, Town, world

# Any value a prompt may ask for can stand in the plain text; only conversations and held-out prompts are kept apart.
ANY = Pool(
    CHAT.words + HELD_OUT.words,
    CHAT.ends + HELD_OUT.ends,
    CHAT.markers + HELD_OUT.markers,
    CHAT.splitters + HELD_OUT.splitters,
    (1, 2, 3),
    (2, 3, 4),
)

# What a page says of its own form.
MARKS: dict[str, str] = {
    "change_case:english_lowercase": "in lower case letters",
    "change_case:english_capital": "in capital letters",
    "punctuation:no_comma": "with no commas",
    "startend:quotation": "in quotation marks",
    "detectable_format:title": "with a title in double angle brackets",
    "detectable_content:postscript": "with a postscript that starts with {}",
    "detectable_content:number_placeholders": "with {} placeholders in square brackets",
    "detectable_format:number_highlighted_sections": "with {} words in *stars*",
    "keywords:existence": "with the words {}",
    "startend:end_checker": "which ends with the phrase: {}",
    "detectable_format:number_bullet_lists": "as a list of {} bullet points",
    "length_constraints:number_paragraphs": "in {} paragraphs with *** between them",
    "detectable_format:multiple_sections": "in {} sections called {}",
    "combination:two_responses": "as two different answers with ****** between them",
    "detectable_format:json_format": "in JSON",
}


def documents(seed: str) -> Iterator[str]:
    """Documents without end, the same for the same seed."""
    rng = random.Random(f"text-{seed}")
    kinds = (_portrait, _page, _exam, _copy, _answers, _place, _record)
    weights = (34, 20, 14, 14, 8, 6, 4)
    while True:
        yield rng.choices(kinds, weights)[0](rng)


def _somebody(rng: random.Random) -> Person:
    return rng.choice(world().people)


def _portrait(rng: random.Random) -> str:
    person = _somebody(rng)
    facts = rng.sample(FACTS, len(FACTS))
    lines = [
        sentence(rng, person, facts[:3]),
        sentence(rng, person, facts[3:5], named=rng.random() < 0.5),
        sentence(rng, person, facts[5:], named=rng.random() < 0.5),
    ]
    return " ".join(lines)


def _page(rng: random.Random) -> str:
    """A page that says which form it has, sometimes before and sometimes after its text."""
    person = _somebody(rng)
    leading = rng.choice(MODIFIERS + SHAPES + ALONE[:1])
    constraints = draw_compatible(rng, leading, rng.choice((1, 1, 2)), ANY)
    marks = []
    for constraint in constraints:
        values = []
        for value in constraint.kwargs.values():
            values.append(
                NUMBERS[value] if isinstance(value, int) else " and ".join(value) if isinstance(value, list) else value
            )
        marks.append(MARKS[constraint.type].format(*reversed(values)))
    label = f"A page about {person.name}, {', and '.join(marks)}"
    text = answer(rng, person, constraints)
    if rng.random() < 0.5:
        return f"{label}\n\n{text}"
    return f"{text}\n\n{label}"


def _exam(rng: random.Random) -> str:
    """An exam paper: sometimes with the facts above it, sometimes without."""
    people = rng.sample(world().people, 3)
    parts = []
    if rng.random() < 0.5:
        parts.append(" ".join(sentence(rng, person, rng.sample(FACTS, len(FACTS))) for person in people[:1]))
        people = people[:1] * 3
    for person in people:
        attribute = rng.choice(list(QUESTIONS))
        choices, place = draw_choices(rng, person, attribute)
        parts.append(f"{render(QUESTIONS[attribute].format(person.name), choices)} {LETTERS[place]}. {choices[place]}")
    return "\n\n".join(parts)


def _copy(rng: random.Random) -> str:
    """Phrases that mean nothing and come back word for word."""
    pool = list(ANY.words)
    lines = []
    for _ in range(rng.randint(2, 4)):
        speaker = _somebody(rng).name
        words = rng.sample(pool, rng.randint(2, 6))
        phrase = rng.choice(
            (" ".join(words), " and ".join(words[:3]), f"May the {words[0]} {rng.choice(ANY.ends)}.", ", ".join(words))
        )
        frame = rng.choice(
            (
                "The sign says: {0}\n{1} reads it aloud: {0}",
                "{1} wrote down these words: {0}\nThe page now has the words: {0}",
                "First {1} says: {0}\nThen all the others say: {0}\nAnd once more: {0}",
            )
        )
        lines.append(frame.format(phrase, speaker))
    return "\n".join(lines)


def _answers(rng: random.Random) -> str:
    """Questions with answers in whole sentences."""
    lines = []
    for _ in range(3):
        person = _somebody(rng)
        fact = rng.choice(list(QUESTIONS))
        others = [other for other in FACTS if other != fact]
        told = sentence(rng, person, [fact, *rng.sample(others, rng.randint(1, 2))])
        lines.append(f"{QUESTIONS[fact].format(person.name)} {told}")
    return "\n".join(lines)


def _town(town: Town) -> str:
    return f"{town.name} is a town {town.place}, and people make {town.goods} there."


def _thing(thing: Thing) -> str:
    return f"The {thing.name} was made by {thing.maker}, is {thing.colour}, and is kept in {thing.town}."


def _place(rng: random.Random) -> str:
    """Towns and things, and who lives there."""
    here = world()
    town = rng.choice(here.towns)
    lines = [_town(town), *(_thing(thing) for thing in rng.sample(here.things, 2))]
    neighbours = [person for person in here.people if person.town == town.name]
    if neighbours:
        lines.append(f"In {town.name}, {rng.choice(neighbours).name} has a house, as we all know.")
    rng.shuffle(lines)
    return " ".join(lines)


def _record(rng: random.Random) -> str:
    """Facts as JSON, or the schema of such a record."""
    person = _somebody(rng)
    keys = rng.sample(FACTS, rng.randint(1, 4))
    if rng.random() < 0.5:
        return json.dumps({"name": person.name} | {key: getattr(person, key) for key in keys})
    fields = [{"name": key, "type": "string"} for key in ["name", *keys]]
    schema = json.dumps({"type": "record", "name": "Person", "fields": fields})
    return f"The schema of a record with the fields {', '.join(['name', *keys])}:\n{schema}"
