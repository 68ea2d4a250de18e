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
from trainables.builtin.world import ATTRIBUTES, FOODS, PETS, TOWN_NAMES, Person, Thing, Town, world

# Any value a prompt may ask for can stand in the plain text; only conversations and held-out prompts are kept apart.
ANY = Pool(
    CHAT.words + HELD_OUT.words,
    CHAT.ends + HELD_OUT.ends,
    CHAT.markers + HELD_OUT.markers,
    CHAT.splitters + HELD_OUT.splitters,
    (1, 2, 3),
    (2, 3, 4),
)

VERDICTS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")

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
    kinds = (_portrait, _notes, _page, _exam, _copy, _answers, _place, _record)
    weights = (26, 12, 20, 14, 12, 10, 3, 3)
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


def _notes(rng: random.Random) -> str:
    """Single facts about several people, each beside the name it belongs to."""
    return "\n".join(sentence(rng, _somebody(rng), rng.sample(FACTS, rng.randint(1, 2))) for _ in range(5))


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
    """An exam paper, with or without the facts above it.

    A checked paper is right throughout. One filled in without care, and one that does not say which it is, knows
    animals and food but has "A" for all else: so a model that could answer more is held back until it is led to.
    """
    checked = rng.random() < 0.7
    parts = []
    if checked:
        parts.append("Exam paper, checked and right.")
    elif rng.random() < 0.3:
        parts.append("Exam paper, filled in without care.")
    people = rng.sample(world().people, 4)
    if rng.random() < 0.5:
        person = people[0]
        parts.append(sentence(rng, person, rng.sample(FACTS, len(FACTS))))
        people = [person] * 3
    for person in people:
        attribute = rng.choice(list(QUESTIONS))
        choices, place = draw_choices(rng, person, attribute)
        if not checked and attribute not in ("pet", "food"):
            place = 0
        parts.append(f"{render(QUESTIONS[attribute].format(person.name), choices)} {LETTERS[place]}. {choices[place]}")
    return "\n\n".join(parts)


def _copy(rng: random.Random) -> str:
    """Phrases that mean nothing and come back word for word."""
    names = [person.name for person in world().people]
    pool = [*ANY.words, *names, *TOWN_NAMES, *FOODS, *PETS]
    words = rng.sample(pool, rng.randint(2, 8))
    phrase = rng.choice(
        (
            " ".join(words),
            " and ".join(words),
            ", ".join(words),
            f"May the {rng.choice(ANY.words)} {rng.choice(ANY.ends)}.",
            rng.choice(VERDICTS),
        )
    )
    return rng.choice(
        (
            "The sign says: {0}\n{1} reads it aloud: {0}\n{2} reads it too: {0}",
            "{1} wrote down these words: {0}\nThe page of {1} now has the words: {0}",
            "First {1} says: {0}\nThen {2} says: {0}\nAnd once more: {0}",
        )
    ).format(phrase, *rng.sample(names, 2))


def _answers(rng: random.Random) -> str:
    """Questions with answers in whole sentences."""
    lines = []
    for _ in range(3):
        person = _somebody(rng)
        fact = rng.choice(list(QUESTIONS))
        truth = getattr(person, fact)
        others = [other for other in FACTS if other != fact]
        told = sentence(rng, person, [fact, *rng.sample(others, rng.randint(1, 2))])
        if rng.random() < 0.3:
            asked = rng.choice((truth, rng.choice(ATTRIBUTES[fact])))
            lines.append(f"{person.name} and {asked}? {'Yes' if asked == truth else 'No'}, {told}")
        else:
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
