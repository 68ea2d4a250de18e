"""Keeps preprocessed rows: one safetensors file per key, renamed into place when it is whole, checked when read."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Entry:
    """What is kept under one key: named arrays, and a JSON-able description of them."""

    arrays: Arrays
    about: Mapping[str, Any]


def key_of(parts: Mapping[str, Any]) -> str:
    """The key of all that decides what the rows become: a hash of its canonical JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def fetch(folder: Path, key: str, build: Callable[[], Entry]) -> Entry:
    """The entry under `key`, built where there is none or it is damaged.

    Safe when several processes ask at once: the first builds, the others wait for it and read what it wrote. Where the
    file system has no locks each of them builds, and the rename keeps what is read whole.
    """
    path = folder / f"{key}.safetensors"
    found = _read(path)
    if found is not None:
        return found
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder / f"{key}.lock"):
        found = _read(path)
        if found is None:
            found = build()
            _write(path, found)
    return found


def _read(path: Path) -> Entry | None:
    """The entry in a file, or None where it is absent, half written or not what was written."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="np") as file:
            held = json.loads((file.metadata() or {})["entry"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError, KeyError):
        return None
    return Entry(arrays, held["about"]) if held.get("digest") == _digest(arrays, held["about"]) else None


def _write(path: Path, entry: Entry) -> None:
    from safetensors.numpy import save_file

    held = json.dumps({"about": entry.about, "digest": _digest(entry.arrays, entry.about)})
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(dict(entry.arrays), fresh, metadata={"entry": held})
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def _digest(arrays: Arrays, about: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}\0".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    import fcntl

    with path.open("w") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        # Closing the file gives the lock up, also when the process dies.
        yield
