"""Conversations about the world, in which every answer is true and keeps to what was asked of its form."""

import random
from typing import Any

from trainables.builtin.answers import TYPES
from trainables.builtin.phrases import QUESTIONS, sentence
from trainables.builtin.requests import CHAT, exchange, instructions
from trainables.builtin.text import SYSTEMS
from trainables.builtin.world import Person, world

ROWS = 500
Message = dict[str, str]


def conversations() -> list[dict[str, Any]]:
    """Rows `{"conversations": [{"role", "content"}, ...]}`, some of two turns, some with a system message."""
    rng = random.Random("chat-1")
    people = world().chat
    rows = []
    for i in range(ROWS):
        person = people[i % len(people)]
        messages: list[Message] = []
        if rng.random() < 0.2:
            messages.append({"role": "system", "content": rng.choice(SYSTEMS)})
        again = rng.random() < 0.18
        if again:
            messages += _plain_round(rng, person)
        prompt, text = exchange(rng, person, TYPES[i % len(TYPES)], 1 if again else instructions(rng), CHAT)
        messages += [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]
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
    text = sentence(rng, person, [fact, rng.choice(others)])
    return [{"role": "user", "content": QUESTIONS[fact].format(person.name)}, {"role": "assistant", "content": text}]
