"""Where a relative output folder and the MLflow store lie: where the command was started, unless that is Ray's copy."""

import os
from pathlib import Path

JOB_FOLDER = "working_dir_files"
"""Part of the path at which Ray unpacks the working directory of a job; the folder is removed with the job."""
JOB_SIGN = "RAY_JOB_CONFIG_JSON_ENV_VAR"
KEPT = "finesweep"


def is_job_copy() -> bool:
    """Whether this process was started by `ray job submit` in a copy of the folder that it was submitted from."""
    return JOB_SIGN in os.environ and JOB_FOLDER in Path.cwd().parts


def output_folder(named: Path) -> Path:
    """The absolute output folder. In a job's copy, a relative one lies in ~/finesweep of the user that Ray runs as."""
    return ((Path.home() / KEPT if is_job_copy() else Path.cwd()) / named.expanduser()).absolute()


def store_folder(output: Path) -> Path:
    """Where MLflow's default store lies: the folder the command was started in; in a job's copy, beside the output."""
    return output.absolute().parent if is_job_copy() else Path.cwd().absolute()
