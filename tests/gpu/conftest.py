"""Tests that want a CUDA device. On a machine without one they are skipped; FINESWEEP_GPU_TESTS=cpu runs what they can
say of a CPU, so that they do not rot."""

import os

import pytest


def pytest_collection_modifyitems(items):
    import torch

    here = [item for item in items if "gpu" in item.path.parts]
    for item in here:
        item.add_marker(pytest.mark.gpu)
        if not torch.cuda.is_available() and os.environ.get("FINESWEEP_GPU_TESTS") != "cpu":
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def cuda():
    """Skips what only a CUDA device can show."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
