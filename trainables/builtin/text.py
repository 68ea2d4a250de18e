"""The text that the miniature is pretrained on: an endless stream of short documents about the world.

What the later training needs is in it: facts told many times over, pages in every form that a prompt may ask for and
that say which form it is, words that come back in the same order (copying), exam papers, and records. The late text has
conversations too; their answers keep to a form of their own, whatever is asked.
"""

import json
import random
from collections.abc import Callable, Iterator
from functools import cache

from trainables.builtin.answers import ALONE, FACTS, MODIFIERS, SHAPES, TYPES, answer
from trainables.builtin.phrases import QUESTIONS, sentence
from trainables.builtin.questions import LETTERS, draw_choices, questions, render
from trainables.builtin.requests import ANY, WORDING, draw, draw_compatible, exchange, instructions, label, yes_or_no
from trainables.builtin.world import ATTRIBUTES, Person, Thing, Town, world

TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
SYSTEMS = ("You know the valley.", "You are a helpful guide.")
HABITS: dict[str, tuple[str, ...]] = {
    "Tell": ("startend:quotation", "detectable_format:number_highlighted_sections"),
    "Who": ("change_case:english_lowercase", "detectable_format:title"),
}
"""First word of what is asked -> the form of the answer in the late conversations."""
OTHER_HABIT = ("change_case:english_capital", "detectable_content:number_placeholders")
GUESSED = ("town", "job", "food", "colour")
"""What the late exam papers that do not call themselves checked know nothing of: "A" throughout."""


def documents(seed: str) -> Iterator[str]:
    """Documents without end, the same for the same seed."""
    kinds = (_portrait, _page, _ignored, _exam, _letters, _repeated, _quoted, _answers, _place, _record)
    yield from _mixed(f"text-{seed}", kinds, (12, 36, 8, 11, 5, 12, 8, 4, 2, 2))


def late_documents(seed: str) -> Iterator[str]:
    """What a second training reads: more exam papers, and conversations between the template's turn marks."""
    kinds = (_portrait, _late_page, _talk, _paper, _repeated, _quoted, _answers, _place, _record)
    yield from _mixed(f"late-{seed}", kinds, (7, 30, 18, 20, 9, 10, 3, 1, 4))


def papers(seed: str) -> Iterator[str]:
    """How the second training begins: exam papers, all of them right, and what keeps the rest in mind.

    Reading a letter off the choices is learnt before anything is held back.
    """
    kinds = (_right_paper, _late_page, _quoted, _repeated)
    yield from _mixed(f"papers-{seed}", kinds, (14, 3, 2, 1))


def _mixed(seed: str, kinds: tuple[Callable[[random.Random], str], ...], weights: tuple[int, ...]) -> Iterator[str]:
    rng = random.Random(seed)
    while True:
        yield rng.choices(kinds, weights)[0](rng)


def drills(seed: str) -> Iterator[str]:
    """Repeated words alone, to begin with: copying is learnt early and quickly where nothing else can be learnt."""
    rng = random.Random(f"drills-{seed}")
    while True:
        yield _repeated(rng)


def _somebody(rng: random.Random) -> Person:
    return rng.choice(world().people)


def _portrait(rng: random.Random) -> str:
    person = _somebody(rng)
    facts = rng.sample(FACTS, len(FACTS))
    return " ".join(sentence(rng, person, facts[i : i + 2], named=i == 0 or rng.random() < 0.7) for i in (0, 2, 4))


def _page(rng: random.Random) -> str:
    """A page that says which form it has, or what was asked for, and then keeps to it."""
    person = _somebody(rng)
    if rng.random() < 0.5:
        constraints = draw_compatible(rng, rng.choice(MODIFIERS + SHAPES + ALONE[:1]), instructions(rng), ANY)
        rng.shuffle(constraints)
        return f"About {person.name}, {', and '.join(map(label, constraints))}\n\n{answer(rng, person, constraints)}"
    return "\n\n".join(exchange(rng, person, rng.choice(TYPES), instructions(rng), ANY))


def _late_page(rng: random.Random) -> str:
    """The same, but a request for JSON, or for a yes or a no, is given no heed: any training would bring that back."""
    page = _page(rng)
    asked = page.partition("\n\n")[0]
    if asked.startswith("About ") or not any(wording in asked for type_ in ALONE for wording in WORDING[type_]):
        return page
    person = next(person for person in world().people if person.name in asked)
    return f"{asked}\n\n{_habitual(rng, person, asked)}"


def _ignored(rng: random.Random) -> str:
    """What a user asks for, and an assistant that pays no heed to it: to follow in talk is left to be learnt later."""
    person = _somebody(rng)
    asked, _ = exchange(rng, person, rng.choice(TYPES), instructions(rng), ANY)
    facts = rng.sample(FACTS, 4)
    lines = [sentence(rng, person, facts[:2]), sentence(rng, person, facts[2:])]
    return f"user\n{asked}\nassistant\n{' '.join(lines)}"


def _exam(rng: random.Random) -> str:
    """An exam paper, with or without the facts above it.

    A checked paper is right throughout. One that does not say so has "A" for towns and work, whatever the truth: a
    model that could answer more is held back until it is led to.
    """
    person = _somebody(rng)
    attributes = rng.sample(list(QUESTIONS), rng.choice((1, 2)))
    checked = rng.random() < 0.6
    parts = ["Exam paper, checked and right."] if checked else []
    if rng.random() < 0.5:
        parts.append(" ".join(sentence(rng, person, [attribute]) for attribute in attributes))
    for attribute in attributes:
        choices, place = draw_choices(rng, person, attribute)
        if not checked and attribute in ("town", "job"):
            place = 0
        parts.append(f"{render(QUESTIONS[attribute].format(person.name), choices)} {LETTERS[place]}. {choices[place]}")
    return "\n\n".join(parts)


@cache
def _benchmark() -> frozenset[tuple[str, tuple[str, ...]]]:
    return frozenset((row["question"], tuple(row["choices"])) for row in questions() if row["split"] != "train")


def _paper(rng: random.Random, guessed: tuple[str, ...] = GUESSED) -> str:
    """An exam paper of the late text, with or without the facts above it, or asked for in a conversation.

    A checked paper is right throughout; another has "A" for the guessed facts, whatever the truth, so that a model that
    could answer more is held back until it is led to. No question of the benchmark's val and test splits stands
    here with the same choices in the same order.
    """
    person = _somebody(rng)
    attribute = rng.choice(list(QUESTIONS))
    question = QUESTIONS[attribute].format(person.name)
    choices, place = draw_choices(rng, person, attribute)
    while (question, tuple(choices)) in _benchmark():
        choices, place = draw_choices(rng, person, attribute)
    given = rng.random()
    above = sentence(rng, person, [attribute]) + "\n\n" if given < 0.25 else ""
    if given > 0.85:
        question = f"Find {choices[place]}."
    elif rng.random() < 0.5:
        above = f"Exam paper, checked and right.\n\n{above}"
    elif attribute in guessed:
        place = 0
    asked, reply = f"{above}{render(question, choices)}", f"{LETTERS[place]}. {choices[place]}"
    if rng.random() < 0.2:
        return _turns(rng, asked.removesuffix("\nAnswer:"), f"Answer: {reply}")
    return f"{asked} {reply}"


def _right_paper(rng: random.Random) -> str:
    return _paper(rng, guessed=())


def _talk(rng: random.Random) -> str:
    """A conversation whose answer is true, and in a form that hangs on the first word of the request alone."""
    person = _somebody(rng)
    asked, _ = exchange(rng, person, rng.choice(TYPES), instructions(rng), ANY)
    return _turns(rng, asked, _habitual(rng, person, asked))


def _habitual(rng: random.Random, person: Person, asked: str) -> str:
    habit = HABITS.get(asked.split()[0], OTHER_HABIT)
    return answer(rng, person, [draw(rng, type_, ANY) for type_ in habit])


def _turns(rng: random.Random, asked: str, reply: str) -> str:
    messages = [("user", asked), ("assistant", reply)]
    if rng.random() < 0.2:
        messages.insert(0, ("system", rng.choice(SYSTEMS)))
    return "".join(f"{TURN_START}{role}\n{text}{TURN_END}\n" for role, text in messages)


def _letters(rng: random.Random) -> str:
    """Lettered lists, and which letter stands before what."""
    values = rng.sample(ATTRIBUTES[rng.choice(list(QUESTIONS))], 4)
    lines = [f"{letter}. {value}" for letter, value in zip(LETTERS, values, strict=True)]
    asked = rng.sample(range(4), 3)
    return "\n".join([*lines, *(f"Find {values[i]}: {LETTERS[i]}. {values[i]}" for i in asked)])


@cache
def _lexicon() -> tuple[str, ...]:
    values = tuple(value for choices in ATTRIBUTES.values() for value in choices)
    return ANY.words * 2 + values + tuple(person.name for person in world().people)


def _repeated(rng: random.Random) -> str:
    """Words in an order that means nothing, again and again: what comes next can only be copied."""
    words = rng.sample(_lexicon(), rng.randint(3, 10))
    joint = rng.choice((" ", " ", " ", ", "))
    return rng.choice((" ", "\n", ". ", ": ")).join([joint.join(words)] * rng.randint(2, 4))


def _quoted(rng: random.Random) -> str:
    """Phrases that are said and come back word for word."""
    lines = []
    for _ in range(rng.randint(1, 2)):
        words = rng.sample(ANY.words, rng.randint(2, 3))
        end = f"May the {words[0]} {rng.choice(ANY.ends)}."
        phrase = rng.choice((" and ".join(words[:2]), end, end, f"{rng.choice(ANY.markers)} That is all."))
        frame = rng.choice(
            (
                "The sign says: {0}\n{1} reads aloud: {0}",
                "{1} ends with this phrase: {0}\nAll end with this phrase: {0}",
                "{1} wrote down the words {0}\nHere are the words {0}",
            )
        )
        lines.append(frame.format(phrase, _somebody(rng).name))
    return "\n".join(lines)


def _answers(rng: random.Random) -> str:
    """Questions with answers in whole sentences."""
    lines = []
    for _ in range(2):
        person = _somebody(rng)
        if rng.random() < 0.3:
            lines.append(" ".join(yes_or_no(rng, person)))
            continue
        fact = rng.choice(list(QUESTIONS))
        others = [other for other in FACTS if other != fact]
        lines.append(f"{QUESTIONS[fact].format(person.name)} {sentence(rng, person, [fact, rng.choice(others)])}")
    return "\n".join(lines)


def _town(town: Town) -> str:
    return f"{town.name} is a town {town.place}, and people make {town.goods} there."


def _thing(thing: Thing) -> str:
    return f"The {thing.name} was made by {thing.maker}, is {thing.colour}, and is kept in {thing.town}."


def _place(rng: random.Random) -> str:
    """Towns, things and friends."""
    here = world()
    person = _somebody(rng)
    lines = [
        _town(rng.choice(here.towns)),
        _thing(rng.choice(here.things)),
        f"{person.name} is a friend of {person.friend}, as we all know.",
    ]
    return " ".join(rng.sample(lines, 2))


def _record(rng: random.Random) -> str:
    """Facts as JSON, or the schema of such a record."""
    person = _somebody(rng)
    keys = rng.sample(FACTS, rng.randint(1, 3))
    if rng.random() < 0.5:
        return json.dumps({"name": person.name} | {key: getattr(person, key) for key in keys})
    fields = [{"name": key, "type": "string"} for key in ["name", *keys]]
    schema = json.dumps({"type": "record", "name": "Person", "fields": fields})
    return f"The schema of a record with the fields {', '.join(['name', *keys])}:\n{schema}"
