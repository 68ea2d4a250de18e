"""What the models wrote: prompts whose verdict changed, instruction types by gain, generated turns beside real ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.record.records import Row

STILL_FAILING = 0.5
"""An instruction type that the best trial follows less often than this is still failing."""
FEW = 5
"""Instructions of a type below which its share says little."""


@dataclass(frozen=True)
class Flip:
    """One instruction whose strict verdict differs between base and trial."""

    instruction: str
    now_followed: bool


@dataclass(frozen=True)
class Changed:
    """One prompt whose strict verdict differs between base and trial."""

    key: str
    prompt: str
    base_answer: str
    answer: str
    gained: bool
    """True: the base failed it and the trial passes it."""
    flips: tuple[Flip, ...]
    instructions: tuple[str, ...]
    problem: str = ""
    """What was wrong with the answer that failed, where the eval says it."""


@dataclass(frozen=True)
class TypeGain:
    """One instruction type: how many of its instructions base and trial follow, strictly and loosely."""

    type: str
    n: int
    base: int
    best: int
    base_loose: int
    best_loose: int

    @property
    def gain(self) -> float:
        """Difference of the strict shares."""
        return (self.best - self.base) / self.n

    @property
    def still_failing(self) -> bool:
        """Whether the trial strictly follows it less often than STILL_FAILING."""
        return self.best / self.n < STILL_FAILING


@dataclass(frozen=True)
class CountGain:
    """Prompts with one number of instructions: how many base and trial pass, strictly and loosely."""

    instructions: int
    n: int
    base: int
    best: int
    base_loose: int
    best_loose: int


@dataclass(frozen=True)
class Turn:
    """A real turn, where the data has it, beside the generated ones of several models (label, text)."""

    key: str
    prompt: str
    reference: str | None
    answers: tuple[tuple[str, str], ...]


def verdict_samples(row: Row) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Samples with a strict verdict and an answer, by eval and key; those whose verdict cannot repeat are left out."""
    return {
        (name, str(sample["key"])): sample
        for name, samples in row.samples.items()
        for sample in samples
        if isinstance(sample.get("strict"), bool) and "answer" in sample and sample.get("paired", True)
    }


def changed_prompts(base: Row, trial: Row) -> list[Changed]:
    """All prompts whose strict verdict differs, in the order of the data."""
    before, after = verdict_samples(base), verdict_samples(trial)
    found = []
    for key, old in before.items():
        new = after.get(key)
        if new is not None and old["strict"] != new["strict"]:
            pairs = list(zip(old.get("instructions", []), new.get("instructions", []), strict=False))
            flips = tuple(Flip(str(b["id"]), bool(b["strict"])) for a, b in pairs if a["strict"] != b["strict"])
            found.append(
                Changed(
                    key=key[1],
                    prompt=str(old.get("prompt", "")),
                    base_answer=str(old["answer"]),
                    answer=str(new["answer"]),
                    gained=bool(new["strict"]),
                    flips=flips,
                    instructions=tuple(str(item["id"]) for item in new.get("instructions", [])),
                    problem=str((old if new["strict"] else new).get("problem") or ""),
                )
            )
    return found


def choose(changed: list[Changed], many: int = 3) -> list[Changed]:
    """Which of them to show: the first in the order of the data, both directions where there are both, and each time
    rather one whose flipped instruction types were not shown yet. Chosen by this rule, not by how well they read."""
    gained = [item for item in changed if item.gained]
    lost = [item for item in changed if not item.gained]
    room = min(many, len(changed))
    losses = min(len(lost), max(1 if lost else 0, room - len(gained)))
    picked: list[Changed] = []
    for pool, wanted in ((gained, room - losses), (lost, losses)):
        left = list(pool)
        for _ in range(wanted):
            seen = {flip.instruction for item in picked for flip in item.flips}
            fresh = [item for item in left if any(flip.instruction not in seen for flip in item.flips)]
            choice = (fresh or left)[0]
            left.remove(choice)
            picked.append(choice)
    return picked


def type_gains(base: Row, trial: Row) -> list[TypeGain]:
    """Instruction types over the prompts that both answered, largest gain first, then by name."""
    before, after = verdict_samples(base), verdict_samples(trial)
    counts: dict[str, list[int]] = {}
    for key, old in before.items():
        new = after.get(key)
        if new is None:
            continue
        for a, b in zip(old.get("instructions", []), new.get("instructions", []), strict=False):
            _count(counts.setdefault(str(a["id"]), [0] * 5), a, b)
    found = [TypeGain(name, *total) for name, total in counts.items()]
    return sorted(found, key=lambda item: (-item.gain, item.type))


def _count(total: list[int], base: Mapping[str, Any], trial: Mapping[str, Any]) -> None:
    verdicts = (base["strict"], trial["strict"], base["loose"], trial["loose"])
    total[0] += 1
    for place, verdict in enumerate(verdicts, start=1):
        total[place] += bool(verdict)


def count_gains(base: Row, trial: Row) -> list[CountGain]:
    """By number of instructions in a prompt, over the prompts that both answered."""
    before, after = verdict_samples(base), verdict_samples(trial)
    counts: dict[int, list[int]] = {}
    for key, old in before.items():
        if key in after and old.get("instructions"):
            _count(counts.setdefault(len(old["instructions"]), [0] * 5), old, after[key])
    return [CountGain(number, *total) for number, total in sorted(counts.items())]


def next_turns(rows: list[Row], many: int = 3) -> list[Turn]:
    """Turns that were generated beside the real text, or where that may be missing, the first in the data's order."""
    found: dict[tuple[str, str], Turn] = {}
    for row in rows:
        for name, sample in ((name, sample) for name, samples in row.samples.items() for sample in samples):
            if "reference" in sample and isinstance(sample.get("answer"), str):
                key, real = str(sample["key"]), sample["reference"]
                known = found.get((name, key)) or Turn(key, str(sample.get("prompt", "")), real, ())
                answers = (*known.answers, (row.label, sample["answer"]))
                found[name, key] = Turn(key, known.prompt, known.reference, answers)
    complete = sorted(found.values(), key=lambda turn: -len(turn.answers))
    return complete[:many]
