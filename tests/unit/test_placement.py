import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.decide.placement import DRIVER_CPUS, Capacity, Crew, Need, slots, worker_need

# A busy machine says nothing about the code.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def place(cpus, gpus=0.0, workers=1, waiting=5, **limits):
    capacity = Capacity(cpus, gpus)
    worker = worker_need(capacity, None, None)
    limits = {"max_trials": None, "max_evals": None, **limits}
    return slots(capacity, [Crew(worker, workers)], worker, waiting=waiting, **limits)


def place_on(nodes, *crews, evaluation=None, waiting=5, **limits):
    """Slots of a cluster of several machines, each (CPUs, GPUs)."""
    evaluation = evaluation or Need(0.9, 0)
    capacity = Capacity(sum(cpus for cpus, _ in nodes), sum(gpus for _, gpus in nodes), tuple(nodes))
    return slots(capacity, crews, evaluation, waiting=waiting, **{"max_trials": None, "max_evals": None, **limits})


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
        slots(Capacity(2, 0), [Crew(Need(1, 0), 1)], Need(4, 0), waiting=1, max_trials=None, max_evals=None)


def test_each_trial_gets_a_gpu_where_there_are_gpus():
    found = place(16, gpus=4)
    assert (found.trials, found.evals_beside) == (3, 1)


def test_no_more_trials_run_at_once_than_asked_for():
    assert place(16, max_trials=2).trials == 2


def test_nothing_to_train_leaves_everything_to_the_evals():
    found = place(4, waiting=0)
    assert (found.trials, found.evals_alone) == (0, 4)


@patient
@given(
    cpus=st.integers(1, 64),
    gpus=st.integers(0, 16),
    workers=st.integers(1, 4),
    waiting=st.integers(1, 20),
)
def test_trials_and_evals_together_never_exceed_the_cluster(cpus, gpus, workers, waiting):
    capacity = Capacity(cpus, gpus)
    worker = worker_need(capacity, None, None)
    crew = Crew(worker, workers)
    trial = crew.total
    try:
        found = slots(capacity, [crew], worker, waiting=waiting, max_trials=None, max_evals=None)
    except ValueError:
        assert trial.cpus > cpus or trial.gpus > gpus
        return
    assert found.trials >= 1
    assert found.trials * trial.cpus + found.evals_beside * worker.cpus <= cpus + 1e-6
    assert found.trials * trial.gpus + found.evals_beside * worker.gpus <= gpus + 1e-6


def test_a_worker_larger_than_any_machine_of_a_cluster_is_refused():
    two = [(2, 0), (2, 0)]
    with pytest.raises(ValueError, match="one worker needs 3 CPUs, and the largest machine has 2 CPUs, no GPU"):
        place_on(two, Crew(Need(3, 0), 1))
    with pytest.raises(ValueError, match="one eval needs 3 CPUs, and the largest machine has 2 CPUs, no GPU"):
        place_on(two, Crew(Need(1, 0), 1), evaluation=Need(3, 0))


def test_what_is_left_on_each_of_several_machines_is_not_room_for_another_worker():
    # 6 CPUs in all, but each machine holds one worker of 1.9 and has 1.1 left.
    found = place_on([(3, 0), (3, 0)], Crew(Need(1.9, 0), 1))
    assert (found.trials, found.evals_beside) == (2, 2)
    assert place_on([(6, 0)], Crew(Need(1.9, 0), 1)).trials == 2


def test_the_workers_of_one_trial_may_stand_on_several_machines():
    found = place_on([(4, 1), (4, 1), (4, 1)], Crew(Need(1, 1), 2), evaluation=Need(1, 1))
    assert (found.trials, found.evals_beside) == (1, 1)


def test_workers_that_fit_one_by_one_but_not_together_are_refused_with_how_many_fit():
    with pytest.raises(ValueError, match=r"needs 3 workers of 1\.6 CPUs each, and the 2 machines have room for 2 of"):
        place_on([(3, 0), (3, 0)], Crew(Need(1.6, 0), 3))


def test_work_without_gpus_is_counted_on_machines_without_gpus_first():
    found = place_on([(4, 4), (4, 0)], Crew(Need(1, 0), 3), evaluation=Need(1, 1), waiting=1)
    assert (found.trials, found.evals_beside) == (1, 3)


def test_trials_of_several_sizes_are_counted_by_the_largest():
    small, large = Crew(Need(1, 0), 1), Crew(Need(1, 0), 4)
    assert place_on([(12, 0)], small, large, evaluation=Need(1, 0)).trials == 2
    assert place_on([(12, 0)], small, evaluation=Need(1, 0), waiting=20).trials == 10


@patient
@given(
    nodes=st.lists(st.tuples(st.integers(1, 8), st.integers(0, 4)), min_size=1, max_size=4),
    worker=st.builds(Need, st.sampled_from([0.9, 1.0, 2.5]), st.sampled_from([0.0, 1.0])),
    workers=st.integers(1, 4),
)
def test_what_is_promised_can_be_packed_machine_by_machine(nodes, worker, workers):
    evaluation = Need(1.0, 0.0)
    try:
        found = place_on(nodes, Crew(worker, workers), evaluation=evaluation)
    except ValueError:
        return
    free = [[cpus - found.trials * DRIVER_CPUS, gpus] for cpus, gpus in nodes]
    for need in [worker] * (found.trials * workers) + [evaluation] * found.evals_beside:
        fitting = [one for one in free if one[0] >= need.cpus - 1e-6 and one[1] >= need.gpus]
        assert fitting, (found, free)
        best = min(fitting, key=lambda one: (one[1], one[0]))
        best[0] -= need.cpus
        best[1] -= need.gpus
