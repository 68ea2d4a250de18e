"""Where a relative output folder and the MLflow store lie."""

from pathlib import Path

import pytest

from orchestrator.record.place import JOB_SIGN, output_folder, store_folder


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A folder as Ray unpacks it for a job."""
    copy = tmp_path / "session" / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv(JOB_SIGN, "{}")
    return tmp_path


def test_both_lie_where_the_command_was_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(JOB_SIGN, "{}")
    assert output_folder(Path("outputs")) == tmp_path / "outputs"
    assert store_folder(Path("/elsewhere/outputs")) == tmp_path


def test_nothing_is_left_in_the_copy_that_goes_with_its_job(job):
    output = output_folder(Path("outputs"))
    assert output == job / "home" / "finesweep" / "outputs"
    assert store_folder(output) == job / "home" / "finesweep"


def test_a_job_that_names_an_absolute_folder_finds_the_store_beside_it(job):
    output = output_folder(Path("/project/outputs"))
    assert (output, store_folder(output)) == (Path("/project/outputs"), Path("/project"))
