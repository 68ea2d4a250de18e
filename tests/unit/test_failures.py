import pytest

from orchestrator.decide.failures import MOST_ATTEMPTS, Action, decide
from trainables.core.batches import DEFAULT_MICRO_BATCH


def test_out_of_memory_halves_the_micro_batch_down_to_one_and_then_gives_up():
    seen, size = [], 12
    for attempt in range(1, 10):
        decision = decide("oom", "CUDA out of memory", attempt, size)
        if decision.action is Action.GIVE_UP:
            break
        assert decision.action is Action.RETRY_SMALLER
        size = decision.micro_batch
        seen.append(size)
    assert seen == [6, 3, 1]
    assert decision.micro_batch is None


def test_out_of_memory_without_a_micro_batch_starts_below_the_default():
    assert decide("oom", "", 1, None).micro_batch == DEFAULT_MICRO_BATCH // 2


def test_what_does_not_fit_here_is_tried_again_by_the_same_command():
    assert not decide("oom", "", 1, 1).deterministic


@pytest.mark.parametrize(
    "kind, message",
    [
        ("RuntimeError", "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
        ("RuntimeError", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
        ("AcceleratorError", "CUDA error: out of memory"),
        ("MemoryError", ""),
    ],
)
def test_memory_that_ran_out_is_known_by_its_words(kind, message):
    assert decide(kind, message, 1, 8).micro_batch == 4


@pytest.mark.parametrize(
    "kind, message",
    [
        ("worker_died", "the actor is dead"),
        ("NodeDiedError", "the node was drained"),
        ("PreemptionError", "spot"),
        ("ControllerError", "the worker group could not start"),
        ("WorkerGroupStartupTimeoutError", "60 s"),
        ("TimeoutError", ""),
        ("ConnectionResetError", "[Errno 104]"),
        ("DistBackendError", "NCCL error in: ProcessGroupNCCL.cpp"),
        ("RuntimeError", "[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4711"),
    ],
)
def test_a_lost_worker_is_replaced_until_the_attempts_are_used_up(kind, message):
    decisions = [decide(kind, message, attempt, 8) for attempt in range(1, MOST_ATTEMPTS + 1)]
    assert [decision.action for decision in decisions] == [Action.RETRY_ELSEWHERE] * 2 + [Action.GIVE_UP]
    assert not decisions[-1].deterministic
    assert all(decision.micro_batch is None for decision in decisions)


@pytest.mark.parametrize(
    "kind, message",
    [
        ("ValueError", "train.learning_rate: the loss became nan at step 3"),
        ("KeyError", "'conversations'"),
        ("DataError", "rows.jsonl, line 3: the text 'connection timed out, out of memory' is not JSON"),
        ("RuntimeError", "mat1 and mat2 shapes cannot be multiplied (4x8 and 9x4)"),
        ("FloatingPointError", "nan"),
        ("AssertionError", "gloo"),
    ],
)
def test_a_fault_of_settings_data_or_code_is_not_tried_again(kind, message):
    decision = decide(kind, message, 1, 8)
    assert (decision.action, decision.deterministic) == (Action.GIVE_UP, True)


@pytest.mark.parametrize(
    "kind, message",
    [
        ("Unavailable", "punkt_tab is not here"),
        (
            "DataError",
            "data.path: cannot read the hub data set 'a/b': ... HF_HUB_OFFLINE and, for a gated one, HF_TOKEN.",
        ),
        ("OSError", "[Errno 28] No space left on device"),
        ("RuntimeError", "PytorchStreamWriter failed writing file: No space left on device"),
    ],
)
def test_what_may_be_there_later_is_given_up_for_now(kind, message):
    decision = decide(kind, message, 1, 8)
    assert (decision.action, decision.deterministic) == (Action.GIVE_UP, False)


def test_every_decision_says_why():
    for kind in ("oom", "worker_died", "ValueError", "Unavailable"):
        for size in (1, 8, None):
            assert decide(kind, "", 1, size).reason.strip()
