"""Fixtures that every test folder shares."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("FINESWEEP_SHARED_DATA", ROOT.parent / "shared" / "data"))

# Before torch is imported anywhere: two processes with two threads each on two cores stall each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def shared_file():
    """A function that gives the path of a file of real test data, or skips naming what is missing."""

    def find(name: str) -> Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"real test data is absent: {name} (set FINESWEEP_SHARED_DATA to its folder)")
        return path

    return find
