"""Searches over text prompts, on made-up scores: each question is answered right under some prompts and not others."""

import pytest

from trainables.core.prompt_search import Answer, Prompt, candidates, edits, search

QUESTIONS = 64


def graded(quality):
    """A scorer: a prompt answers the share of questions that `quality` says, and what was asked is kept."""
    asked = []

    def scorer(prompt, places):
        asked.extend((prompt, place) for place in places)
        share = quality(prompt)
        # 37 is prime to 64, so that any sample is answered about as well as the whole.
        return [Answer(right=(place * 37) % QUESTIONS < share * QUESTIONS, loss=1 - share) for place in places]

    return scorer, asked


def by_number(prompt):
    return int(prompt.instruction) / 20


def numbered(count=16):
    return [Prompt(instruction=str(number)) for number in range(count)]


def test_candidates_are_the_cross_product_each_once():
    found = candidates(["a chemist", ""], ["Answer.", "Think."], (0, 2))
    assert len(found) == 8
    assert found[0] == Prompt("a chemist", "Answer.", 0)
    assert candidates([], ["x", "x"]) == [Prompt("", "x", 0)]
    assert Prompt("Who.", "What.").text == "Who.\n\nWhat."


@pytest.mark.parametrize("way", ["all", "halving", "random"])
def test_the_best_prompt_is_found_and_scored_on_every_question(way):
    scorer, _ = graded(by_number)
    found = search(numbered(), scorer, QUESTIONS, way=way)
    assert found.best == Prompt(instruction="15")
    assert found.accuracy == 0.75
    assert len(found.tried[0].answers) == QUESTIONS


def test_halving_asks_less_than_all_and_nothing_twice():
    scorer, asked = graded(by_number)
    found = search(numbered(), scorer, QUESTIONS, way="halving")
    assert found.scored == len(asked) == len(set(asked)) < 16 * QUESTIONS / 2
    assert {len(tally.answers) for tally in found.tried} >= {4, 8, 16, QUESTIONS}, "samples grow"


@pytest.mark.parametrize("count", [2, 3, 8, 16, 17])
@pytest.mark.parametrize("budget", [1, 64, 65, 70, 90, 130, 200, 500, 5000])
def test_halving_keeps_to_its_budget_and_scores_the_winner_on_every_question(count, budget):
    scorer, asked = graded(by_number)
    found = search(numbered(count), scorer, QUESTIONS, way="halving", budget=budget)
    assert len(asked) == len(set(asked)) == found.scored <= max(budget, QUESTIONS), "one whole pass at least"
    assert len(found.tried[0].answers) == QUESTIONS
    # A budget that all samples fit into changes nothing.
    assert budget < 5000 or found == search(numbered(count), graded(by_number)[0], QUESTIONS, way="halving")


def test_a_budget_of_halving_is_used_for_as_many_prompts_and_questions_as_fit():
    scorer, _ = graded(by_number)
    found = search(numbered(8), scorer, QUESTIONS, way="halving", budget=88)
    assert (len(found.tried), found.scored) == (8, 88), "8 x 2 + 4 x 2 + 2 x 4 + 56"
    found = search(numbered(8), scorer, QUESTIONS, way="halving", budget=87)
    assert (len(found.tried), found.scored) == (8, 76), "8 + 4 + 2 x 2 + 60"
    assert len(search(numbered(8), scorer, QUESTIONS, way="halving", budget=75).tried) < 8


def test_random_scores_as_many_prompts_as_its_budget_has_passes_for():
    scorer, asked = graded(by_number)
    found = search(numbered(), scorer, QUESTIONS, way="random", budget=3 * QUESTIONS + 5, seed=1)
    assert len(asked) == found.scored == 3 * QUESTIONS
    assert found == search(numbered(), graded(by_number)[0], QUESTIONS, way="random", budget=3 * QUESTIONS + 5, seed=1)


def test_a_tree_of_edits_finds_a_prompt_that_nobody_wrote():
    def quality(prompt):
        return 0.2 + 0.35 * ("Check it." in prompt.text) + 0.35 * ("Be brief." in prompt.text)

    written = [Prompt(instruction="Answer. Check it."), Prompt(instruction="Answer. Be brief.")]
    scorer, asked = graded(quality)
    found = search(written, scorer, QUESTIONS, way="mcts", budget=1200)
    assert "Check it." in found.best.text
    assert "Be brief." in found.best.text
    assert found.best not in written
    assert len(asked) == found.scored <= 1200
    assert len(asked) == len(set(asked))


def test_edits_without_room_for_a_question_are_left_out():
    scorer, asked = graded(lambda prompt: 0.2 + 0.1 * prompt.shots)
    found = search([Prompt(instruction="Answer.")], scorer, QUESTIONS, way="mcts", budget=2000)
    assert found.best.shots == 5
    scorer, asked = graded(lambda prompt: 0.2 + 0.1 * prompt.shots)
    found = search(
        [Prompt(instruction="Answer.")],
        scorer,
        QUESTIONS,
        way="mcts",
        budget=2000,
        fits=lambda prompt: prompt.shots < 3,
    )
    assert found.best.shots == 2
    assert max(prompt.shots for prompt, _ in asked) == 2


def test_as_many_right_answers_are_told_apart_by_the_loss():
    def scorer(prompt, places):
        return [Answer(right=True, loss=float(prompt.instruction)) for _ in places]

    assert search([Prompt(instruction=text) for text in ("2", "1", "3")], scorer, 4).best.instruction == "1"


def test_an_edit_is_one_step_away_and_examples_stay_between_none_and_five():
    import random

    prompt = Prompt("a chemist", "First. Second.", 5)
    made = edits(prompt, ("Third.", "a chemist"), random.Random(0))
    texts = {edit.instruction for edit in made}
    assert {"First.", "Second.", "Second. First.", "First. Second. Third.", "Third. First. Second."} <= texts
    assert {edit.shots for edit in made} == {4, 5}
    assert prompt not in made


def test_a_search_without_prompts_or_questions_is_refused():
    with pytest.raises(ValueError, match="needs prompts and questions"):
        search([], graded(by_number)[0], 4)
    with pytest.raises(ValueError, match="needs prompts and questions"):
        search(numbered(), graded(by_number)[0], 0)
