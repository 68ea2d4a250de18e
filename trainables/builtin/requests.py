"""How a constraint is asked for, and the values it may take: one set for conversations, one for held-out prompts."""

import random
from dataclasses import dataclass

from trainables.builtin.answers import ALONE, MODIFIERS, SHAPES, Constraint, answer, compatible
from trainables.builtin.phrases import NUMBERS, QUESTIONS
from trainables.builtin.world import ATTRIBUTES, Person

# Words that mean nothing in the world: they are there to be copied.
CHAT_WORDS = (
    "lantern", "willow", "feather", "thunder", "pepper", "mirror", "button", "meadow", "window", "winter",
    "summer", "ladder", "kettle", "marble", "needle", "parcel", "pillow", "ribbon", "saddle", "shadow",
    "spider", "tunnel", "velvet", "whistle", "basin", "candle", "carrot", "castle", "corner", "desert",
    "finger", "garlic", "hunter", "kitten", "lemon", "monkey", "napkin", "oyster", "puddle", "signal",
    "tiger", "valley", "violet", "wizard",
)  # fmt: skip
HELD_OUT_WORDS = (
    "anchor", "barrel", "cotton", "dragon", "engine", "hammer", "island", "jacket",
    "market", "pencil", "rocket", "wagon",
)  # fmt: skip
CHAT_ENDS = (
    "stay bright", "come home", "grow old", "turn around", "be safe", "rest well", "fall down", "go far",
    "look up", "hold on", "sing loud", "move fast",
)  # fmt: skip
HELD_OUT_ENDS = ("stay warm", "come back", "be quiet", "rest here")
CHAT_MARKERS = ("P.S.", "Note:", "Later:", "Also:", "Hint:", "More:", "Extra:", "Tip:", "Aside:", "Besides:")
HELD_OUT_MARKERS = ("P.P.S", "Remark:", "Finally:")


@dataclass(frozen=True)
class Pool:
    """The values that one group of prompts may ask for."""

    words: tuple[str, ...]
    ends: tuple[str, ...]
    markers: tuple[str, ...]
    at_least: tuple[int, ...]
    exactly: tuple[int, ...]


CHAT = Pool(CHAT_WORDS, CHAT_ENDS, CHAT_MARKERS, (3,), (2, 4))
HELD_OUT = Pool(HELD_OUT_WORDS, HELD_OUT_ENDS, HELD_OUT_MARKERS, (2,), (3,))
# Any value can stand in the plain text; only conversations and held-out prompts are kept apart.
ANY = Pool(
    CHAT.words + HELD_OUT.words,
    CHAT.ends + HELD_OUT.ends,
    CHAT.markers + HELD_OUT.markers,
    (1, 2, 3),
    (2, 3, 4),
)

# What a page of the plain text says of its own form.
LABELS: dict[str, str] = {
    "change_case:english_lowercase": "all in lower case letters",
    "change_case:english_capital": "all in capital letters",
    "startend:quotation": "all in quotation marks",
    "detectable_format:title": "with a title in double angle brackets",
    "detectable_content:postscript": "with a postscript that starts with {marker}",
    "detectable_content:number_placeholders": "with {number} placeholder{s} in square brackets",
    "detectable_format:number_highlighted_sections": "with {number} word{s} in *stars*",
    "keywords:existence": "with the words {words}",
    "startend:end_checker": "which ends with this phrase: {end}",
    "detectable_format:number_bullet_lists": "with {number} bullet points",
    "length_constraints:number_paragraphs": "in {number} paragraphs with *** between them",
    "combination:two_responses": "as two answers with ****** between them",
    "detectable_format:json_format": "all in JSON",
}

# What anybody may ask about a person.
TASKS = ("Tell me about {}.", "Who is {}?")

# How the same form is asked for.
WORDING: dict[str, tuple[str, ...]] = {
    "change_case:english_lowercase": ("Use only lower case letters.", "Write it all in lower case letters."),
    "change_case:english_capital": ("Use only capital letters.", "Write it all in capital letters."),
    "startend:quotation": ("Put it all in quotation marks.", "Wrap it all in quotation marks."),
    "detectable_format:title": (
        "Give it a title in double angle brackets.",
        "Start with a title in double angle brackets.",
    ),
    "detectable_content:postscript": (
        "Add a postscript that starts with {marker}",
        "End with a postscript that starts with {marker}",
    ),
    "detectable_content:number_placeholders": (
        "Use at least {number} placeholder{s} in square brackets.",
        "Leave at least {number} placeholder{s} in square brackets.",
    ),
    "detectable_format:number_highlighted_sections": (
        "Put at least {number} word{s} in *stars*.",
        "Mark at least {number} word{s} with *stars*.",
    ),
    "keywords:existence": ("Use the words {words}.", "Write it with the words {words}."),
    "startend:end_checker": ("End with this phrase: {end}", "The last words must be this phrase: {end}"),
    "detectable_format:number_bullet_lists": (
        "Answer with exactly {number} bullet points.",
        "Make a list of {number} bullet points.",
    ),
    "length_constraints:number_paragraphs": (
        "Write {number} paragraphs with *** between them.",
        "Answer in {number} paragraphs with *** between them.",
    ),
    "combination:two_responses": (
        "Give two answers with ****** between them.",
        "Write two answers with ****** between them.",
    ),
    "detectable_format:json_format": ("Answer all in JSON.", "Write it all in JSON."),
    "detectable_format:constrained_response": (
        "Say: My answer is yes. Or: My answer is no.",
        "Say: My answer is no. Or: My answer is yes.",
    ),
}


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
    text = {"town": "Does {} live in {}?", "pet": "Does {} have a {}?", "colour": "Does {} wear the {} coat?"}
    return text[attribute].format(person.name, value), f"My answer is {'yes' if true else 'no'}."


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
    return _filled(rng.choice(WORDING[constraint.type]), constraint)


def label(constraint: Constraint) -> str:
    """The words with which a page says that it keeps to the constraint."""
    return _filled(LABELS[constraint.type], constraint)


def _filled(text: str, constraint: Constraint) -> str:
    kwargs = constraint.kwargs
    numbers = [value for value in kwargs.values() if isinstance(value, int)]
    return text.format(
        number=NUMBERS[numbers[0]] if numbers else "",
        s="" if numbers == [1] else "s",
        marker=kwargs.get("postscript_marker", ""),
        words=" and ".join(kwargs.get("keywords", ())),
        end=kwargs.get("end_phrase", ""),
    )


def instructions(rng: random.Random) -> int:
    """How many instructions one prompt gives."""
    return rng.choices((1, 2, 3), (66, 25, 9))[0]


def exchange(rng: random.Random, person: Person, leading: str, count: int, pool: Pool) -> tuple[str, str]:
    """A prompt with `count` instructions, one of them of the leading type, and a true answer that keeps to them."""
    constraints = draw_compatible(rng, leading, count, pool)
    if leading == "detectable_format:constrained_response":
        question, text = yes_or_no(rng, person)
    else:
        question, fact = task(rng, person)
        text = answer(rng, person, constraints, fact)
    return " ".join([question, *(wording(rng, constraint) for constraint in constraints)]), text
