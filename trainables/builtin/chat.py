"""Conversations about the world, in which every answer is true and keeps to what was asked of its form."""

import random
from typing import Any

from trainables.builtin.answers import ALONE, TYPES, Constraint, answer
from trainables.builtin.phrases import QUESTIONS, sentence
from trainables.builtin.requests import CHAT, draw, draw_compatible, wording
from trainables.builtin.world import ATTRIBUTES, Person, world

ROWS = 720
SYSTEMS = ("You know the people of the valley.", "You are a helpful guide.", "You answer with care.")
TASKS = ("Tell me about {}.", "Who is {}?", "Write about {}.")
Message = dict[str, str]


def task(rng: random.Random, person: Person) -> tuple[str, str | None]:
    """A request about a person, and the fact that it asks for (None: anything about them)."""
    if rng.random() < 0.35:
        fact = rng.choice(list(QUESTIONS))
        return QUESTIONS[fact].format(person.name), fact
    return rng.choice(TASKS).format(person.name), None


def yes_or_no(rng: random.Random, person: Person) -> tuple[str, str]:
    """A question with a yes or a no, and the true one of lm-eval's fixed answers."""
    attribute = rng.choice(["town", "pet", "colour"])
    true = rng.random() < 0.5
    value = getattr(person, attribute)
    if not true:
        value = rng.choice([other for other in ATTRIBUTES[attribute] if other != value])
    text = {"town": "Does {} live in {}?", "pet": "Does {} have a {}?", "colour": "Does {} wear {}?"}[attribute]
    return text.format(person.name, value), f"My answer is {'yes' if true else 'no'}."


def conversations() -> list[dict[str, Any]]:
    """Rows `{"conversations": [{"role", "content"}, ...]}`, some of two turns, some with a system message."""
    rng = random.Random("chat-1")
    people = world().chat
    rows = []
    for i in range(ROWS):
        person = people[i % len(people)]
        messages: list[Message] = []
        if rng.random() < 0.25:
            messages.append({"role": "system", "content": rng.choice(SYSTEMS)})
        if rng.random() < 0.2:
            messages += _plain_round(rng, person)
        messages += _asked_round(rng, person, TYPES[i % len(TYPES)])
        rows.append({"conversations": messages})
    rng.shuffle(rows)
    return rows


def shuffled() -> list[dict[str, Any]]:
    """The same conversations with the answers dealt to other prompts: no assistant message stays in its place."""
    rows = conversations()
    places = [
        (r, m)
        for r, row in enumerate(rows)
        for m, message in enumerate(row["conversations"])
        if message["role"] == "assistant"
    ]
    texts = [rows[r]["conversations"][m]["content"] for r, m in places]
    order = list(range(len(places)))
    random.Random("shuffled-1").shuffle(order)
    # One cycle through a shuffled order moves every answer; where the text is the same by chance ("My answer is no."),
    # it is swapped with one that fits both places.
    dealt = [""] * len(order)
    for place, following in zip(order, [*order[1:], order[0]], strict=True):
        dealt[place] = texts[following]
    for i in order:
        if dealt[i] == texts[i]:
            j = next(j for j in order if dealt[j] != texts[i] and texts[j] != texts[i])
            dealt[i], dealt[j] = dealt[j], dealt[i]
    for (r, m), text in zip(places, dealt, strict=True):
        rows[r]["conversations"][m] = {"role": "assistant", "content": text}
    return rows


def _plain_round(rng: random.Random, person: Person) -> list[Message]:
    fact = rng.choice(list(QUESTIONS))
    others = [other for other in QUESTIONS if other != fact]
    text = sentence(rng, person, [fact, *rng.sample(others, 2)])
    return [{"role": "user", "content": QUESTIONS[fact].format(person.name)}, {"role": "assistant", "content": text}]


def _asked_round(rng: random.Random, person: Person, leading: str) -> list[Message]:
    if leading == "detectable_format:constrained_response":
        question, text = yes_or_no(rng, person)
        constraints: list[Constraint] = [draw(rng, leading, CHAT)]
    else:
        question, fact = task(rng, person)
        count = 1 if leading in ALONE else rng.choices((1, 2, 3), (6, 3, 1))[0]
        constraints = draw_compatible(rng, leading, count, CHAT)
        text = answer(rng, person, constraints, fact)
    prompt = " ".join([question, *(wording(rng, constraint) for constraint in constraints)])
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]
