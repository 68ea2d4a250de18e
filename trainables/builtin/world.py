"""A small invented valley: people, towns and things, with facts that make an answer right or wrong.

Everything is drawn once from a fixed seed. `random.Random` seeded with a string gives the same draws in every process
and on every Python this project supports, whatever `PYTHONHASHSEED` says.
"""

import random
from dataclasses import dataclass
from functools import cache

FIRST_SYLLABLES = (
    "Bel",
    "Cor",
    "Dar",
    "Fen",
    "Gil",
    "Hol",
    "Jun",
    "Kas",
    "Lor",
    "Mar",
    "Nel",
    "Per",
    "Ros",
    "Sil",
    "Tam",
    "Vin",
)
LAST_SYLLABLES = ("a", "by", "den", "ga", "ick", "lo", "mi", "nor", "on", "ret", "sa", "wen")
TOWN_NAMES = (
    "Alder",
    "Brook",
    "Cliff",
    "Dunmore",
    "Elmwood",
    "Fairhill",
    "Greenford",
    "Harbor",
    "Kingsley",
    "Oakton",
    "Redbank",
    "Stonebridge",
)
JOBS = (
    "baker",
    "carpenter",
    "doctor",
    "farmer",
    "fisher",
    "gardener",
    "miller",
    "painter",
    "sailor",
    "tailor",
    "teacher",
    "weaver",
)
PETS = ("cat", "dog", "goat", "goose", "hen", "horse", "mouse", "owl", "pony", "rabbit", "sheep", "turtle")
FOODS = ("apples", "beans", "bread", "cake", "cheese", "cherries", "fish", "honey", "plums", "rice", "soup", "walnuts")
COLOURS = ("black", "blue", "brown", "gold", "green", "grey", "orange", "pink", "purple", "red", "white", "yellow")
INSTRUMENTS = (
    "bells",
    "cello",
    "drum",
    "fiddle",
    "flute",
    "guitar",
    "harp",
    "horn",
    "organ",
    "piano",
    "trumpet",
    "violin",
)
PLACES = ("by the river", "near the sea", "on the hill", "in the forest", "by the lake", "under the mountain")
GOODS = (
    "baskets",
    "boats",
    "bricks",
    "candles",
    "carpets",
    "clocks",
    "glass",
    "paper",
    "pots",
    "rope",
    "shoes",
    "wool",
)
THINGS = ("bench", "bowl", "box", "chair", "cup", "door", "lamp", "ring")
MATERIALS = ("copper", "iron", "oak", "silver", "stone", "tin")

PEOPLE_FOR_CHAT = 40
PEOPLE_HELD_OUT = 24


@dataclass(frozen=True)
class Town:
    """A town: where it lies and what is made there."""

    name: str
    place: str
    goods: str


@dataclass(frozen=True)
class Person:
    """A person and the facts about them; a friend is always from the same group (chat or held out)."""

    name: str
    pronoun: str
    town: str
    job: str
    pet: str
    food: str
    colour: str
    instrument: str
    friend: str


@dataclass(frozen=True)
class Thing:
    """A thing such as "the copper lamp": who made it and in which town it is kept."""

    name: str
    maker: str
    town: str
    colour: str


@dataclass(frozen=True)
class World:
    """All there is: `chat` people appear in conversations, `held_out` people only in the plain text and in tests."""

    chat: tuple[Person, ...]
    held_out: tuple[Person, ...]
    towns: tuple[Town, ...]
    things: tuple[Thing, ...]

    @property
    def people(self) -> tuple[Person, ...]:
        """Everybody, the chat group first."""
        return self.chat + self.held_out


# The facts of a person that a question can ask for, each with every value it can take.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "town": TOWN_NAMES,
    "job": JOBS,
    "pet": PETS,
    "food": FOODS,
    "colour": COLOURS,
    "instrument": INSTRUMENTS,
}


@cache
def world() -> World:
    """The one world; the same on every call and every machine."""
    rng = random.Random("valley-1")
    names = [first + last for first in FIRST_SYLLABLES for last in LAST_SYLLABLES]
    rng.shuffle(names)
    groups = []
    for start, size in ((0, PEOPLE_FOR_CHAT), (PEOPLE_FOR_CHAT, PEOPLE_HELD_OUT)):
        group = names[start : start + size]
        groups.append(tuple(_person(rng, name, group[(i + 1) % size]) for i, name in enumerate(group)))
    towns = tuple(
        Town(name, rng.choice(PLACES), goods)
        for name, goods in zip(TOWN_NAMES, rng.sample(GOODS, len(TOWN_NAMES)), strict=True)
    )
    labels = [f"{material} {thing}" for material in MATERIALS for thing in THINGS]
    things = tuple(
        Thing(label, rng.choice(groups[0]).name, rng.choice(TOWN_NAMES), rng.choice(COLOURS))
        for label in rng.sample(labels, 24)
    )
    return World(groups[0], groups[1], towns, things)


def _person(rng: random.Random, name: str, friend: str) -> Person:
    facts = {attribute: rng.choice(values) for attribute, values in ATTRIBUTES.items()}
    return Person(name=name, pronoun=rng.choice(("he", "she")), friend=friend, **facts)
