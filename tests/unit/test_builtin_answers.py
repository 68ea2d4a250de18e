"""Every generated answer passes lm-eval's own checkers for what its prompt asked for."""

import json
import random
from typing import Any

import pytest

from trainables.builtin import sources
from trainables.builtin.answers import ALONE, TYPES, Constraint, answer, compatible
from trainables.builtin.requests import CHAT, HELD_OUT, Pool, draw_compatible, yes_or_no
from trainables.builtin.world import world


@pytest.fixture(scope="module")
def checked() -> Any:
    """lm-eval's verdict on a response: one bool an instruction."""
    import langdetect
    from lm_eval.tasks.ifeval.utils import InputExample, test_instruction_following_strict

    langdetect.DetectorFactory.seed = 0

    def verdicts(constraints: list[Constraint], response: str) -> list[bool]:
        types, kwargs = [c.type for c in constraints], [c.kwargs for c in constraints]
        return test_instruction_following_strict(InputExample(0, types, "", kwargs), response).follow_instruction_list

    return verdicts


@pytest.mark.parametrize("pool", [CHAT, HELD_OUT], ids=["chat", "held-out"])
def test_answers_keep_to_their_constraints(checked: Any, pool: Pool) -> None:
    rng = random.Random(pool.markers[0])
    people = world().people
    wrong = []
    for i in range(480):
        leading = TYPES[i % len(TYPES)]
        constraints = draw_compatible(rng, leading, 1 + i % 3, pool)
        person = people[i % len(people)]
        if leading == "detectable_format:constrained_response":
            text = yes_or_no(rng, person)[1]
        else:
            text = answer(rng, person, constraints)
        if not all(checked(constraints, text)):
            wrong.append((constraints, text))
    # langdetect takes a few short sentences full of invented names for another language; nothing else may fail.
    assert all(any(c.type.startswith("change_case") for c in constraints) for constraints, _ in wrong), wrong[:3]
    assert len(wrong) <= 10, wrong[:5]


def test_the_benchmark_file_is_accepted_as_it_stands_and_its_answers_can_be_given() -> None:
    from lm_eval.tasks.ifeval.utils import process_results

    for line in sources.content("ifeval").decode().splitlines():
        row = json.loads(line)
        assert process_results(row, ["no"])["prompt_level_strict_acc"] in (True, False)
        constraints = [Constraint(t, k) for t, k in zip(row["instruction_id_list"], row["kwargs"], strict=True)]
        assert compatible([c.type for c in constraints])


def test_no_type_of_the_benchmark_needs_downloaded_language_data() -> None:
    assert not set(TYPES) & {"length_constraints:number_sentences", "change_case:capital_word_frequency"}


def test_a_type_that_stands_alone_is_never_joined_by_another() -> None:
    for type_ in ALONE:
        assert not compatible([type_, "detectable_format:title"])
    assert not compatible(["change_case:english_lowercase", "change_case:english_capital"])
    assert not compatible(["detectable_format:title", "detectable_format:title"])
    assert compatible(["detectable_format:title", "startend:quotation"])


def test_answers_are_true() -> None:
    rng = random.Random(7)
    for person in world().chat:
        text = answer(rng, person, [], "town")
        assert person.town in text
        assert person.name in text
        record = json.loads(answer(rng, person, [Constraint("detectable_format:json_format")], "pet"))
        assert record["name"] == person.name
        assert record["pet"] == person.pet
        assert all(getattr(person, key) == value for key, value in record.items())
