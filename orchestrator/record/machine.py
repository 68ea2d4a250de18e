"""What this machine has, asked without importing torch, which takes seconds."""

import os
from importlib.util import find_spec
from pathlib import Path

from orchestrator.decide.capabilities import Machine


def this_machine() -> Machine:
    """Where trials of this command would run."""
    return Machine(
        gpu=gpu_here(), flash_attention=find_spec("flash_attn") is not None, cluster=bool(os.environ.get("RAY_ADDRESS"))
    )


def gpu_here() -> bool:
    """Whether this machine has an NVIDIA device."""
    return Path("/dev/nvidia0").exists() or Path("/proc/driver/nvidia/gpus").exists()
