"""A sweep as a job on a standing Ray cluster, and what is left of it for a run without one."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.integration.test_failures import lines, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

FILE = """
    name: tiny
    method: sft
    model: builtin:mini
    data: {path: "builtin:chat", max_rows: 40, max_length: 256}
    train: {learning_rate: 1e-3, epochs: 1, global_batch: 8, max_steps: 3}
    evals:
      ifeval: {data: "builtin:ifeval", max_new_tokens: 8, limit: 4}
"""
RAY = str(Path(sys.executable).with_name("ray"))


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """A head node with a token, started from this environment; gives the variables that reach it by jobs."""
    port, dashboard, client = free_port(), free_port(), free_port()
    token = tmp_path_factory.mktemp("token") / "auth_token"
    token.write_text("0123456789abcdef" * 4)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
    environment = {**os.environ, **variables, "PATH": path}
    # Ray's sockets lie under it, and their paths have to be short.
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as temporary:
        command = [
            RAY, "start", "--head", "--block", "--num-cpus", "2", "--port", str(port), "--temp-dir", temporary,
            "--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard),
            "--ray-client-server-port", str(client),
        ]  # fmt: skip
        with open(Path(temporary) / "head.log", "w") as log:
            head = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_for(lambda: _answers(dashboard) or head.poll() is not None, 180)
            assert head.poll() is None, (Path(temporary) / "head.log").read_text()
            yield {**environment, "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}", "RAY_ADDRESS": ""}
        finally:
            head.send_signal(signal.SIGTERM)
            head.wait(90)


def _answers(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def submit(environment, *arguments):
    """Run a job to its end; its exit code and its log."""
    command = [RAY, "job", "submit", "--working-dir", ".", "--", "python", "-m", "orchestrator.sweep", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_a_job_trains_scores_and_prints_and_a_run_without_the_cluster_has_nothing_left_to_do(jobs, tmp_path):
    file, output = tmp_path / "tiny.yaml", tmp_path / "outputs"
    file.write_text(textwrap.dedent(FILE))
    code, log = submit(jobs, str(file), "--output", str(output))
    assert code == 0, log
    assert "2/2 sft: done" in log
    assert f"report   {output / 'sweeps' / 'tiny' / 'report.html'}" in log
    assert (tmp_path / "mlflow.db").is_file()
    results = json.loads((output / "sweeps" / "tiny" / "results.json").read_text())
    assert [row["state"] for row in results["rows"]] == ["done", "done"]
    journal = lines(output / "journal.jsonl")
    assert sorted(line["kind"] for line in journal) == ["eval", "eval", "fit"]

    command = [sys.executable, "-m", "orchestrator.sweep", str(file), "--output", str(output)]
    alone = {**os.environ, "PYTHONPATH": str(ROOT)}
    again = subprocess.run(command, cwd=tmp_path, env=alone, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "everything is known already" in again.stdout
    assert lines(output / "journal.jsonl") == journal


def test_a_job_fails_where_its_command_does(jobs):
    code, log = submit(jobs, "sweeps/nowhere.yaml")
    assert code != 0
    assert "sweeps/nowhere.yaml: the sweep file cannot be read" in log
