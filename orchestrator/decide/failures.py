"""What to do after an attempt at a trial failed: a judgement with its reason, which the trial's driver carries out."""

from dataclasses import dataclass
from enum import Enum

from trainables.core.batches import DEFAULT_MICRO_BATCH

MOST_ATTEMPTS = 3
"""Process lives that a trial gets when workers are lost under it."""

_OWN_FAULT = frozenset(
    {
        "ArithmeticError", "AssertionError", "AttributeError", "DataError", "ImportError", "IndexError",
        "JSONDecodeError", "KeyError", "MissingDataError", "ModuleNotFoundError", "NotImplementedError", "RowRefused",
        "SweepFileError", "SyntaxError", "TemplateRefused", "TypeError", "UnicodeDecodeError", "UserError",
        "ValidationError", "ValueError", "ZeroDivisionError",
    }
)  # fmt: skip
"""Errors that say what they mean: their text is no evidence of a lost machine, whatever words are in it."""

_LOST = frozenset(
    {
        "worker_died", "BrokenPipeError", "ControllerError", "DistBackendError", "DistNetworkError", "DistStoreError",
        "EOFError", "ObjectLostError", "OwnerDiedError", "RayActorError", "RaySystemError", "RpcError",
        "ActorUnavailableError", "WorkerCrashedError", "WorkerGroupError", "WorkerHealthCheckFailedError",
    }
)  # fmt: skip
_LOST_NAMES = ("Died", "Preempt", "Connection", "Timeout")
"""Parts of the names of errors that tell of a lost process, machine or connection."""

_LOST_WORDS = (
    "nccl",
    "gloo",
    "process group watchdog",
    "collective operation timeout",
    "connection reset",
    "connection closed",
    "connection refused",
    "broken pipe",
    "socket timeout",
    "timed out",
    "preempt",
    "worker died",
    "node died",
    "uncorrectable ecc",
    "unspecified launch failure",
    "device is lost",
)
_MEMORY_WORDS = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "cublas_status_alloc_failed",
)
_LATER_KINDS = frozenset(
    {
        "Unavailable", "ResourceError", "GatedRepoError", "LocalEntryNotFoundError", "OfflineModeIsEnabled",
        "RepositoryNotFoundError",
    }
)  # fmt: skip
_LATER_WORDS = ("hf_hub_offline", "hf_token", "no space left on device", "disk quota exceeded")
"""What names a thing that this machine lacks now and may have later: the hub, a token, disk."""


class Action(Enum):
    """What the driver does next."""

    RETRY_SMALLER = "retry smaller"
    """Start again with a smaller micro batch. More accumulation makes up for it, so the result does not change."""
    RETRY_ELSEWHERE = "retry elsewhere"
    """Start new workers, which go on from the last checkpoint."""
    GIVE_UP = "give up"
    """Record the failure; the other trials go on."""


@dataclass(frozen=True)
class Decision:
    """What to do and why. `micro_batch` is the one to go on with, None where it stays as it is."""

    action: Action
    reason: str
    micro_batch: int | None = None
    deterministic: bool = False
    """For `GIVE_UP`: the same command would fail again in the same way, so it only repeats the message."""


def decide(kind: str, message: str, attempt: int, micro_batch: int | None) -> Decision:
    """Judge the failure of one attempt.

    `kind`: class name of the error, or `oom`, `worker_died`; `attempt`: process lives so far, from 1; `micro_batch`:
    rows per forward pass of the attempt, None where it was left to be chosen.
    """
    lowered = message.lower()
    telling = kind not in _OWN_FAULT
    if kind in ("oom", "MemoryError", "OutOfMemoryError") or (telling and _says(lowered, _MEMORY_WORDS)):
        return _out_of_memory(micro_batch)
    if kind in _LATER_KINDS or _says(lowered, _LATER_WORDS):
        return Decision(Action.GIVE_UP, "what is missing here may be there later; the same command tries again")
    lost = kind in _LOST or any(name in kind for name in _LOST_NAMES)
    if lost or (telling and _says(lowered, _LOST_WORDS)):
        if attempt < MOST_ATTEMPTS:
            return Decision(
                Action.RETRY_ELSEWHERE, f"{kind}: a worker was lost, attempt {attempt + 1} of {MOST_ATTEMPTS} follows"
            )
        return Decision(Action.GIVE_UP, f"{kind}: workers were lost {attempt} times; the same command tries again")
    return Decision(Action.GIVE_UP, f"{kind} would come again with the same settings", deterministic=True)


def _out_of_memory(micro_batch: int | None) -> Decision:
    tried = micro_batch if micro_batch is not None else DEFAULT_MICRO_BATCH
    if tried > 1:
        smaller = tried // 2
        return Decision(Action.RETRY_SMALLER, f"out of memory with a micro batch of {tried}, now {smaller}", smaller)
    # What fits follows from the machine and from execution settings, none of which is part of the trial's id: once one
    # of them has changed, the same command has to try again.
    return Decision(
        Action.GIVE_UP,
        "out of memory with a micro batch of 1: set train.gradient_checkpointing, a shorter data.max_length, or use a "
        "larger device",
    )


def _says(lowered: str, words: tuple[str, ...]) -> bool:
    return any(word in lowered for word in words)
