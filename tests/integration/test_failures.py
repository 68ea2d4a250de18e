"""What a sweep does when its parts are killed or cannot work."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from orchestrator.sweep import main
from tests.local_reporter import LocalReporter, job
from trainables._fit import fit
from trainables.builtin import sources

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

FILE = """
    name: killed
    model: builtin:mini
    data: {path: rows.jsonl, max_length: 256}
    train: {learning_rate: 1e-3, epochs: 40, global_batch: 8, max_steps: 60, save_every: 4, micro_batch: 8}
    evals:
      ifeval: {data: "builtin:ifeval", max_new_tokens: 8, limit: 4}
"""


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(what, seconds=120):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = what()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError("it did not happen in time")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = sources.content("chat").decode().splitlines()[:48]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows) + "\n")
    (tmp_path / "killed.yaml").write_text(textwrap.dedent(FILE))
    return tmp_path


def losses(path):
    return [point["loss"] for point in json.loads(path.read_text())["steps"]]


def checkpoints(folder):
    return list(folder.glob("outputs/trials/*/checkpoints/*/checkpoint_*/points.json"))


def test_a_killed_worker_is_replaced_and_goes_on_from_its_checkpoint_to_the_same_result(cluster, folder):
    def kill():
        # The second one to appear: the first is committed by then.
        first = wait_for(lambda: checkpoints(folder))[0]
        wait_for(lambda: [path for path in checkpoints(folder) if path != first])
        os.kill(lines(folder / "outputs" / "journal.jsonl")[-1]["pid"], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    code = main(["killed.yaml", "--set", "evals=null", "--set", "objective=train/loss"])
    killer.join()
    assert code == 0
    fits = [line for line in lines(folder / "outputs" / "journal.jsonl") if line["kind"] == "fit"]
    assert len(fits) == 2
    (train,) = folder.glob("outputs/trials/*/train.json")
    content = json.loads(train.read_text())
    assert content["resumed_at_step"] >= 4
    train_settings = {"epochs": 40, "max_steps": 60, "micro_batch": 8}
    task = job(folder / "alone", data={"path": folder / "rows.jsonl"}, train=train_settings)
    undisturbed = fit(task, LocalReporter())
    assert losses(train) == pytest.approx([point["loss"] for point in undisturbed["steps"]], abs=1e-6)


def test_a_failed_trial_stops_no_other_and_is_only_reprinted_by_a_second_run(cluster, folder, capsys):
    axes = "search={kind: one_at_a_time, axes: {train.learning_rate: [1e30]}}"
    calm = "train.max_grad_norm=0"
    short = ["--set", "train.max_steps=6", "--set", "train.warmup_ratio=0"]
    arguments = ["killed.yaml", "--set", axes, "--set", calm, *short]
    assert main(arguments) == 1
    printed = capsys.readouterr().out
    assert "train.learning_rate: the loss became" in printed
    (results,) = folder.glob("outputs/sweeps/killed/results.json")
    states = {row["label"]: row["state"] for row in json.loads(results.read_text())["rows"]}
    assert states == {"base": "done", "baseline": "done", "learning_rate=1e+30": "failed"}
    before = lines(folder / "outputs" / "journal.jsonl")
    assert main(arguments) == 1
    assert lines(folder / "outputs" / "journal.jsonl") == before
    assert "--retry-failed" in capsys.readouterr().out


def test_what_can_never_be_placed_is_refused_with_what_it_needs(cluster, folder, capsys):
    assert main(["killed.yaml", "--set", "resources.workers=999"]) == 2
    assert "one trial needs 899.12 CPUs, and there are" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_command_is_mended_by_running_it_again(folder):
    """kill -9 of the command itself, with a cluster of its own; no fixture of this session is used."""
    axes = "search={kind: one_at_a_time, axes: {train.learning_rate: [2e-3]}}"
    command = [sys.executable, "-m", "orchestrator.sweep", "killed.yaml", "--set", axes]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    records = lambda: list(folder.glob("outputs/trials/*/train.json"))  # noqa: E731
    wait_for(records, 200)
    done = records()[0].parent.name
    wait_for(lambda: [path for path in checkpoints(folder) if done not in str(path)], 200)
    first.kill()
    first.wait()
    time.sleep(15)
    second = subprocess.run(command, capture_output=True, text=True)
    assert second.returncode == 0, second.stdout + second.stderr
    fits = [line["id"] for line in lines(folder / "outputs" / "journal.jsonl") if line["kind"] == "fit"]
    assert fits.count(done) == 1
    assert len(fits) == 3
    (resumed,) = {path for path in records() if path.parent.name != done}
    assert json.loads(resumed.read_text())["resumed_at_step"] >= 4


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_finished(folder):
    command = [sys.executable, "-m", "orchestrator.sweep", "killed.yaml"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    wait_for(lambda: checkpoints(folder), 200)
    running.send_signal(signal.SIGINT)
    printed, _ = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "interrupted: what is finished is kept" in printed
    assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0
    (train,) = folder.glob("outputs/trials/*/train.json")
    assert json.loads(train.read_text())["resumed_at_step"] >= 4
