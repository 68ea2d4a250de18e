"""Every shipped sweep file, in each of its profiles."""

import pytest
import yaml

from orchestrator.decide.plan import describe, make_plan
from orchestrator.decide.spec import load
from orchestrator.record.contents import Contents
from tests.conftest import ROOT

FILES = sorted((ROOT / "sweeps").glob("*.yaml"))
CASES = [
    pytest.param(path, profile, id=f"{path.stem}-{profile}")
    for path in FILES
    for profile in yaml.safe_load(path.read_text(encoding="utf-8"))["profiles"]
]
MOST_DEMO_TRIALS, MOST_DEMO_STEPS = 6, 60


@pytest.fixture(scope="module")
def plans(tmp_path_factory):
    contents = Contents(tmp_path_factory.mktemp("cache"))

    def plan(path, profile):
        text = path.read_text(encoding="utf-8")
        return make_plan(load(text, profile=profile, source=str(path)), contents)

    return plan


def test_there_are_sweep_files():
    assert {"sft_tune", "masking"} <= {path.stem for path in FILES}


@pytest.mark.parametrize("path, profile", CASES)
def test_a_shipped_file_loads_and_plans_without_a_warning(path, profile, plans):
    plan = plans(path, profile)
    assert plan.sweep.name == path.stem
    assert plan.sweep.question
    assert plan.trials
    assert plan.bases
    assert plan.warnings == ()
    assert len({trial.id for trial in (*plan.trials, *plan.bases)}) == len(plan.trials) + len(plan.bases)
    for trial in plan.trials:
        assert trial.label in describe(plan)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_default_profile_runs_anywhere_and_is_small(path, plans):
    plan = plans(path, None)
    assert plan.profile == "demo"
    assert plan.unresolved == ()
    assert len(plan.trials) <= MOST_DEMO_TRIALS
    for trial in plan.trials:
        assert trial.estimate.steps <= MOST_DEMO_STEPS


def test_the_full_tuning_table_is_complete(plans):
    plan = plans(ROOT / "sweeps" / "sft_tune.yaml", "full")
    train = plan.sweep.train
    assert (train.learning_rate, train.epochs, train.global_batch) == (2e-5, 3, 128)
    assert (train.warmup_ratio, train.lr_schedule, train.precision) == (0.1, "cosine", "bf16")
    assert (plan.sweep.data.max_length, plan.sweep.data.max_rounds) == (2048, 5)
    assert plan.axes == {
        "train.learning_rate": [2e-5, 2.5e-6, 5e-6, 1e-5, 5e-5],
        "train.epochs": [3, 2, 4],
        "train.global_batch": [128, 64, 256],
        "train.warmup_ratio": [0.1, 0.05, 0.15],
        "train.lr_schedule": ["cosine", "linear", "constant_with_warmup"],
    }
    assert len(plan.trials) == 13
    assert (plan.objective.metric, plan.objective.direction) == ("ifeval/prompt_level_strict_acc", "max")
    assert plan.objective.target == 0.22


@pytest.mark.parametrize("profile", ["demo", "full"])
def test_masking_compares_both_roles_and_both_spans_by_the_users_turns(profile, plans):
    plan = plans(ROOT / "sweeps" / "masking.yaml", profile)
    found = {(trial.settings.data.train_on, trial.settings.data.mask_span) for trial in plan.trials}
    assert found == {(role, span) for role in ("assistant", "user") for span in ("message", "content")}
    assert (plan.objective.metric, plan.objective.direction) == ("perplexity/user", "min")
    assert set(plan.sweep.evals) == {"perplexity", "samples"}
    assert plan.sweep.evals["samples"].role == "user"
