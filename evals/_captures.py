"""Matrices of a model on disk: safetensors files, what each tensor is, its statistics, and differences of two models.

Tensors of one layer, or of one text, are in memory at a time; what two models are compared by lies on disk.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from evals._modules import Part
from evals._types import Subject

Whose = Literal["trial", "base", "difference"]
What = Literal["weight", "activation"]


@dataclass(frozen=True)
class Statistics:
    """Of all the numbers of a tensor, or of several together."""

    count: int
    mean: float
    spread: float
    """Sum of squared deviations from the mean."""
    least: float
    most: float

    @property
    def l2(self) -> float:
        """Root of the sum of squares: the Frobenius norm of a matrix."""
        return math.sqrt(self.spread + self.count * self.mean**2)

    def shown(self) -> dict[str, float | None]:
        """As JSON can hold it; None for what is not finite. `std` divides by the count."""
        numbers = {
            "mean": self.mean,
            "std": math.sqrt(self.spread / self.count),
            "min": self.least,
            "max": self.most,
            "l2": self.l2,
        }
        return {name: value if math.isfinite(value) else None for name, value in numbers.items()}


def statistics_of(tensor: Any) -> Statistics:
    """In float64. Raises ValueError for a tensor without numbers."""
    values = tensor.double()
    if not values.numel():
        raise ValueError("a tensor without numbers has no statistics.")
    mean = values.mean()
    spread = ((values - mean) ** 2).sum()
    return Statistics(values.numel(), float(mean), float(spread), float(values.min()), float(values.max()))


def together(parts: Sequence[Statistics]) -> Statistics:
    """Statistics of several tensors as of one (Chan, Golub and LeVeque 1979)."""
    count = sum(part.count for part in parts)
    mean = math.fsum(part.count * part.mean for part in parts) / count
    spread = math.fsum(part.spread + part.count * (part.mean - mean) ** 2 for part in parts)
    return Statistics(count, mean, spread, min(part.least for part in parts), max(part.most for part in parts))


@dataclass
class Entry:
    """One tensor of a file."""

    whose: Whose
    what: What
    part: Part
    text: str | None
    """Key of the text that an activation belongs to."""
    file: str
    shape: list[int]
    dtype: str
    statistics: Statistics
    relative: float | None = None
    """Of a difference: its l2 over the base's; None where that is 0 and the difference is not."""
    kept: bool = True

    def shown(self) -> dict[str, Any]:
        """Its line in the index."""
        return {
            "of": self.whose,
            "what": self.what,
            "module": self.part.module,
            "layer": self.part.layer,
            "kind": self.part.kind,
            "text": self.text,
            "name": self.part.name,
            "file": self.file if self.kept else None,
            "shape": self.shape,
            "dtype": self.dtype,
            **self.statistics.shown(),
            **({"relative": self.relative} if self.whose == "difference" else {}),
        }


class Shelf:
    """The files of one eval and what they hold. At most `most_bytes` stay of each of trial, base and difference, of
    activations and of weights by themselves; the trial's others lie there until they have been compared."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.folder, self.entries = folder, list[Entry]()
        self._most_bytes = most_bytes
        self._left: dict[tuple[Whose, What], int] = {}
        self._passing: list[Path] = []

    def put(self, whose: Whose, what: What, group: str, tensors: Mapping[Part, Any], text: str | None = None) -> None:
        """Write the tensors of a layer or a text into a file of their own, and the base's differences from the trial's
        where the trial's are there. Nothing is written where there are no tensors."""
        if not tensors:
            return
        name = f"{what}s-{group}.safetensors"
        if whose == "base":
            self._differences(what, name, tensors, text)
        self._write(whose, what, name, tensors, text)

    def close(self) -> None:
        """Delete what was only there to be compared."""
        for path in self._passing:
            path.unlink(missing_ok=True)
        for whose, _ in self._left:
            own = self.folder / whose
            if own.is_dir() and not any(own.iterdir()):
                own.rmdir()

    def _write(self, whose: Whose, what: What, name: str, tensors: Mapping[Part, Any], text: str | None) -> list[Entry]:
        from safetensors.torch import save_file

        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        left = self._left.get((whose, what), self._most_bytes)
        stays = size <= left
        # Once a file finds no room, no later one does: what stays are the first layers and texts.
        self._left[whose, what] = left - size if stays else 0
        path = self.folder / whose / name
        if stays or whose == "trial":
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({part.name: tensor.contiguous() for part, tensor in tensors.items()}, path)
        if not stays:
            self._passing.append(path)
        found = []
        for part, tensor in tensors.items():
            kind = str(tensor.dtype).removeprefix("torch.")
            known = statistics_of(tensor)
            found.append(Entry(whose, what, part, text, f"{whose}/{name}", list(tensor.shape), kind, known, kept=stays))
        self.entries += found
        return found

    def _differences(self, what: What, name: str, base: Mapping[Part, Any], text: str | None) -> None:
        from safetensors import safe_open

        path = self.folder / "trial" / name
        if not path.is_file():
            return
        found = {}
        with safe_open(path, framework="pt") as own:
            there = set(own.keys())
            for part, untouched in base.items():
                tensor = own.get_tensor(part.name) if part.name in there else None
                # A vocabulary that has grown, or a prefix in front of the text, leaves nothing to lay side by side.
                if tensor is not None and tensor.shape == untouched.shape:
                    found[part] = tensor.float() - untouched.float()
        if path in self._passing:
            path.unlink()
        if found:
            for entry in self._write("difference", what, name, found, text):
                before, moved = statistics_of(base[entry.part]).l2, entry.statistics.l2
                entry.relative = moved / before if before else 0.0 if not moved else None


def activations(
    subject: Subject, ids: Sequence[int], parts: Iterable[Part], modules: Mapping[str, Any]
) -> dict[Part, Any]:
    """What the modules give on one text, each on the CPU as soon as it is there: [positions, outputs], of an attention
    module its output after the last matrix. Before a rotation by position, where a model has one; without what a soft
    prompt puts in front."""
    from evals._layers import read

    by_module: dict[str, list[Part]] = {}
    for part in parts:
        by_module.setdefault(part.module, []).append(part)
    found: dict[Part, Any] = {}

    def look(own: list[Part]) -> Any:
        def hook(module: Any, args: Any, output: Any) -> None:
            given = (output[0] if isinstance(output, tuple) else output).detach()[0][-len(ids) :]
            for part in own:
                found[part] = (given if part.rows is None else given[..., slice(*part.rows)]).to("cpu", copy=True)

        return hook

    handles = [modules[name].register_forward_hook(look(own)) for name, own in by_module.items()]
    try:
        read(subject, ids)
    finally:
        for handle in handles:
            handle.remove()
    return found
