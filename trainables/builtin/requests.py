"""How a constraint is asked for, and the values it may take: one set for conversations, one for held-out prompts."""

import random
from dataclasses import dataclass

from trainables.builtin.answers import ALONE, MODIFIERS, SHAPES, Constraint, compatible
from trainables.builtin.phrases import NUMBERS

# Words that mean nothing in the world: they are there to be copied.
CHAT_WORDS = (
    "lantern", "willow", "feather", "thunder", "pepper", "mirror", "button", "meadow", "window", "winter",
    "summer", "ladder", "kettle", "marble", "needle", "parcel", "pillow", "ribbon", "saddle", "shadow",
    "spider", "tunnel", "velvet", "whistle",
)  # fmt: skip
HELD_OUT_WORDS = (
    "anchor", "barrel", "cotton", "dragon", "engine", "hammer", "island", "jacket",
    "market", "pencil", "rocket", "wagon",
)  # fmt: skip
CHAT_ENDS = ("stay bright", "come home", "grow old", "turn around", "be safe", "rest well")
HELD_OUT_ENDS = ("stay warm", "come back", "be quiet", "rest here")


@dataclass(frozen=True)
class Pool:
    """The values that one group of prompts may ask for."""

    words: tuple[str, ...]
    ends: tuple[str, ...]
    markers: tuple[str, ...]
    splitters: tuple[str, ...]
    at_least: tuple[int, ...]
    exactly: tuple[int, ...]


CHAT = Pool(
    CHAT_WORDS, CHAT_ENDS, ("P.S.", "Note:", "Later:", "Also:"), ("Section", "Part", "Page", "Step"), (1, 3), (2, 4)
)
HELD_OUT = Pool(HELD_OUT_WORDS, HELD_OUT_ENDS, ("P.P.S", "Remark:"), ("Chapter", "Topic"), (2,), (3,))

WORDING: dict[str, tuple[str, ...]] = {
    "change_case:english_lowercase": ("Use only lower case letters.", "Write it all in lower case."),
    "change_case:english_capital": ("Use only capital letters.", "Write it all in capital letters."),
    "punctuation:no_comma": ("Do not use any commas.", "Write it with no commas."),
    "startend:quotation": ("Put the whole answer in quotation marks.", "Wrap it all in quotation marks."),
    "detectable_format:title": (
        "Give it a title in double angle brackets.",
        "Start with a title in double angle brackets.",
    ),
    "detectable_content:postscript": (
        "Add a postscript that starts with {marker}",
        "At the end, add a postscript with {marker}",
    ),
    "detectable_content:number_placeholders": (
        "Use at least {number} placeholder{s} in square brackets.",
        "Leave {number} or more placeholders in square brackets.",
    ),
    "detectable_format:number_highlighted_sections": (
        "Highlight at least {number} word{s} with *stars*.",
        "Mark {number} or more words with *stars*.",
    ),
    "keywords:existence": ("Use the words {words}.", "The words {words} must be in it."),
    "startend:end_checker": ("End with this exact phrase: {end}", "The last words must be: {end}"),
    "detectable_format:number_bullet_lists": (
        "Answer with exactly {number} bullet points.",
        "Make a list of {number} bullet points.",
    ),
    "length_constraints:number_paragraphs": (
        "Write {number} paragraphs with *** between them.",
        "Make it {number} paragraphs and put *** between them.",
    ),
    "detectable_format:multiple_sections": (
        "Write {number} sections and call each of them {splitter} with its number.",
        "Make {number} sections and start each with {splitter} and its number.",
    ),
    "combination:two_responses": (
        "Give two different answers with ****** between them.",
        "Write two answers and put ****** between them.",
    ),
    "detectable_format:json_format": ("Give the whole answer as JSON.", "Answer only in JSON."),
    "detectable_format:constrained_response": (
        "Say one of these: My answer is yes. My answer is no. My answer is maybe.",
    ),
}


def draw(rng: random.Random, type_: str, pool: Pool) -> Constraint:
    """A constraint of the given type with values from the pool."""
    match type_:
        case "detectable_content:postscript":
            return Constraint(type_, {"postscript_marker": rng.choice(pool.markers)})
        case "detectable_content:number_placeholders":
            return Constraint(type_, {"num_placeholders": rng.choice(pool.at_least)})
        case "detectable_format:number_highlighted_sections":
            return Constraint(type_, {"num_highlights": rng.choice(pool.at_least)})
        case "keywords:existence":
            return Constraint(type_, {"keywords": rng.sample(pool.words, 2)})
        case "startend:end_checker":
            return Constraint(type_, {"end_phrase": f"May the {rng.choice(pool.words)} {rng.choice(pool.ends)}."})
        case "detectable_format:number_bullet_lists":
            return Constraint(type_, {"num_bullets": rng.choice(pool.exactly)})
        case "length_constraints:number_paragraphs":
            return Constraint(type_, {"num_paragraphs": rng.choice(pool.exactly)})
        case "detectable_format:multiple_sections":
            return Constraint(
                type_, {"section_spliter": rng.choice(pool.splitters), "num_sections": rng.choice(pool.exactly)}
            )
        case _:
            return Constraint(type_)


def draw_compatible(rng: random.Random, leading: str, count: int, pool: Pool) -> list[Constraint]:
    """`count` constraints that one answer can keep to, one of them of the leading type (fewer if it stands alone)."""
    types = [leading]
    while len(types) < count and leading not in ALONE:
        candidate = rng.choice(MODIFIERS + SHAPES)
        if compatible([*types, candidate]):
            types.append(candidate)
    return [draw(rng, type_, pool) for type_ in types]


def wording(rng: random.Random, constraint: Constraint) -> str:
    """The sentence that asks for the constraint."""
    kwargs = constraint.kwargs
    numbers = [value for value in kwargs.values() if isinstance(value, int)]
    return rng.choice(WORDING[constraint.type]).format(
        number=NUMBERS[numbers[0]] if numbers else "",
        s="" if numbers == [1] else "s",
        marker=kwargs.get("postscript_marker", ""),
        splitter=kwargs.get("section_spliter", ""),
        words=" and ".join(kwargs.get("keywords", ())),
        end=kwargs.get("end_phrase", ""),
    )
