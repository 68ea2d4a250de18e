"""Four-choice questions about the world: rows for a benchmark, and exam papers for the plain text."""

import random
from typing import Any

from trainables.builtin.phrases import QUESTIONS
from trainables.builtin.world import ATTRIBUTES, Person, world

LETTERS = "ABCD"


def draw_choices(rng: random.Random, person: Person, attribute: str) -> tuple[list[str], int]:
    """Four different values for the attribute, the true one among them, and the place of the true one."""
    truth = getattr(person, attribute)
    others = rng.sample([value for value in ATTRIBUTES[attribute] if value != truth], 3)
    place = rng.randrange(4)
    return [*others[:place], truth, *others[place:]], place


def render(question: str, choices: list[str]) -> str:
    """The question as exams print it, up to and with "Answer:"."""
    lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=True)]
    return "\n".join([question, *lines, "Answer:"])


def questions() -> list[dict[str, Any]]:
    """Rows `{question, choices, answer, subject, split}`; train asks about chat people, val and test about others."""
    rng = random.Random("questions-1")
    here = world()
    half = len(here.held_out) // 2
    groups = {"train": here.chat, "val": here.held_out[:half], "test": here.held_out[half:]}
    rows: list[dict[str, Any]] = []
    for split, people in groups.items():
        for person in people:
            for attribute, question in QUESTIONS.items():
                for _ in range(2 if split == "train" else 4):
                    choices, place = draw_choices(rng, person, attribute)
                    rows.append(
                        {
                            "question": question.format(person.name),
                            "choices": choices,
                            "answer": place,
                            "subject": attribute,
                            "split": split,
                        }
                    )
    return rows
