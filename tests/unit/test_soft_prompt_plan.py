"""Soft prompts in a sweep file: what makes one trial another, and what is refused before anything runs."""

import pytest

from orchestrator.decide.plan import make_plan
from orchestrator.errors import SweepFileError
from orchestrator.registry import installed
from tests.unit.sweep_stand_ins import Catalogue, read

FILE = """
method: soft_prompt
search:
  kind: list
  trials:
    - {name: one, %s}
    - {name: other, %s}
"""


def plan_of(one, other, catalogue=None):
    return make_plan(read(FILE % (one, other), registry=installed()), catalogue or Catalogue())


def ids(*trials, catalogue=None):
    return len({trial.id for trial in plan_of(*trials, catalogue=catalogue).trials})


def test_which_split_is_trained_on_makes_another_trial():
    assert ids("data.split: train", "data.split: dev") == 2


def test_another_block_of_questions_makes_another_trial():
    assert ids("questions.loss_over: vocab", "questions.loss_over: choices") == 2


def test_a_base_row_is_asked_on_the_day_and_in_the_words_of_the_trials_beside_it():
    words = "Which one of the letters is right?"
    plan = plan_of(
        "train.epochs: 2", f"questions.date: 2025-01-01, questions.instruction: '{words}', questions.system: Hello."
    )
    assert [base.label for base in plan.bases] == [
        "base",
        "base date=2025-01-01 instruction='Hello.\\n\\nWhich one of the…'",
    ]
    assert [base.settings.blocks for base in plan.bases] == [
        {},
        {"questions": {"date": "2025-01-01", "instruction": f"Hello.\n\n{words}"}},
    ]
    assert [trial.base_id for trial in plan.trials] == [base.id for base in plan.bases]
    one = plan_of("questions.loss_over: choices", "questions.date: 2024-07-26")
    assert [base.id for base in one.bases] == [plan.bases[0].id], "what is not how a question is asked makes no other"


def test_an_earlier_prefix_is_known_by_its_content():
    folders = {"runs/a": "same", "runs/b": "same", "runs/c": "changed"}
    trials = ("soft_prompt.init: runs/a", "soft_prompt.init: runs/c")
    assert ids(*trials, catalogue=Catalogue(folders)) == 2
    with pytest.raises(SweepFileError, match="the same trial"):
        plan_of("soft_prompt.init: runs/a", "soft_prompt.init: runs/b", Catalogue(folders))


def test_text_prompts_are_the_same_whatever_others_train_with():
    text = "soft_prompt.kind: text, train.learning_rate"
    with pytest.raises(SweepFileError, match="the same trial"):
        plan_of(f"{text}: 1e-3", f"{text}: 1e-2")
    trial = plan_of(f"{text}: 1e-3", "train.learning_rate: 1e-2").trials[0]
    assert (trial.estimate.steps, trial.estimate.rows) == (None, None)


def test_a_prefix_may_stop_by_the_accuracy_that_is_measured_of_questions_and_by_no_other():
    known = "train.best_metric: train/heldout_accuracy, train.best_direction: max"
    assert ids(known, "train.learning_rate: 1e-3") == 2
    with pytest.raises(SweepFileError, match="train/heldout_accuracy"):
        plan_of("train.best_metric: train/rouge", "train.learning_rate: 1e-3")


def test_keys_and_values_with_gradient_checkpointing_are_refused_before_anything_runs():
    asked = "train.gradient_checkpointing: true, train.learning_rate: 1e-3"
    with pytest.raises(SweepFileError, match=r"train\.gradient_checkpointing: .*soft_prompt\.kind: prefix lies"):
        plan_of(f"soft_prompt.kind: prefix, {asked}", "soft_prompt.kind: prefix")
    assert plan_of(f"soft_prompt.kind: soft, {asked}", "soft_prompt.kind: prefix")
