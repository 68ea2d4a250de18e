import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.decide.placement import Capacity, Need, slots, trial_need, worker_need


def place(cpus, gpus=0.0, workers=1, waiting=5, **limits):
    capacity = Capacity(cpus, gpus)
    worker = worker_need(capacity, None, None)
    limits = {"max_trials": None, "max_evals": None, **limits}
    return slots(capacity, trial_need(worker, workers), worker, waiting=waiting, **limits)


def test_two_cores_hold_one_trial_and_one_eval_beside_it():
    found = place(2)
    assert (found.trials, found.evals_beside, found.evals_alone) == (1, 1, 2)


def test_one_core_trains_first_and_scores_afterwards():
    found = place(1)
    assert (found.trials, found.evals_beside, found.evals_alone) == (1, 0, 1)


def test_two_workers_on_two_cores_leave_no_room_for_an_eval_beside_them():
    found = place(2, workers=2)
    assert (found.trials, found.evals_beside) == (1, 0)


def test_a_trial_that_never_fits_is_refused_with_what_it_asks_for_and_what_exists():
    with pytest.raises(ValueError, match=r"needs 3\.62 CPUs, and there are 2 CPUs, no GPU"):
        place(2, workers=4)


def test_an_eval_that_never_fits_is_refused_too():
    with pytest.raises(ValueError, match="one eval needs 4 CPUs"):
        slots(Capacity(2, 0), Need(1, 0), Need(4, 0), waiting=1, max_trials=None, max_evals=None)


def test_each_trial_gets_a_gpu_where_there_are_gpus():
    found = place(16, gpus=4)
    assert (found.trials, found.evals_beside) == (3, 1)


def test_no_more_trials_run_at_once_than_asked_for():
    assert place(16, max_trials=2).trials == 2


def test_nothing_to_train_leaves_everything_to_the_evals():
    found = place(4, waiting=0)
    assert (found.trials, found.evals_alone) == (0, 4)


@given(
    cpus=st.integers(1, 64),
    gpus=st.integers(0, 16),
    workers=st.integers(1, 4),
    waiting=st.integers(1, 20),
)
def test_trials_and_evals_together_never_exceed_the_cluster(cpus, gpus, workers, waiting):
    capacity = Capacity(cpus, gpus)
    worker = worker_need(capacity, None, None)
    trial = trial_need(worker, workers)
    try:
        found = slots(capacity, trial, worker, waiting=waiting, max_trials=None, max_evals=None)
    except ValueError:
        assert trial.times(capacity) < 1
        return
    assert found.trials >= 1
    assert found.trials * trial.cpus + found.evals_beside * worker.cpus <= cpus + 1e-6
    assert found.trials * trial.gpus + found.evals_beside * worker.gpus <= gpus + 1e-6


def test_a_worker_larger_than_any_machine_of_a_cluster_is_refused():
    two_small = Capacity(4, 0, ((2, 0), (2, 0)))
    two_small.check_one("worker", Need(2, 0))
    with pytest.raises(ValueError, match="one eval needs 3 CPUs, and the largest machine has 2 CPUs, no GPU"):
        two_small.check_one("eval", Need(3, 0))
