"""How the world's facts are put into words; shared by the plain text, the conversations and the prompts."""

import random

from trainables.builtin.world import Person

# Verb phrases per fact; the value stands where the braces are, so that a caller can mark it. The common English words
# around the names keep a language detector, which some of the benchmark's checks ask, at English.
CLAUSES: dict[str, tuple[str, ...]] = {
    "town": ("lives in the town of {}",),
    "job": ("works as a {} there",),
    "pet": ("has a {} at home",),
    "food": ("likes to eat {}",),
    "colour": ("wears the {} coat",),
    "instrument": ("plays the {} at night",),
}

# One question per fact, as a person would ask it.
QUESTIONS: dict[str, str] = {
    "town": "Where does {} live?",
    "job": "What is the work of {}?",
    "pet": "Which animal does {} have?",
    "food": "What does {} like to eat?",
    "colour": "Which coat does {} wear?",
    "instrument": "What does {} play?",
}

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")


def clause(rng: random.Random, person: Person, fact: str, star: bool = False) -> str:
    """What is true of the person for one fact, without a subject; `star` puts the value between asterisks."""
    value = getattr(person, fact)
    text = rng.choice(CLAUSES[fact]).format(f"*{value}*" if star else value)
    return text.replace(" a ", " an ") if value[0] in "aeio" and " a " in text else text


def sentence(rng: random.Random, person: Person, facts: list[str], stars: int = 0, named: bool = True) -> str:
    """One sentence over the given facts; the first `stars` values are marked with asterisks."""
    subject = person.name if named else person.pronoun.capitalize()
    parts = [clause(rng, person, fact, i < stars) for i, fact in enumerate(facts)]
    if len(parts) == 1:
        return f"{subject} {parts[0]}."
    return f"{subject} {', '.join(parts[:-1])}, and {parts[-1]}."
