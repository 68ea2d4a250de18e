"""What a sweep names on the hub is read at the commit that its ids hold; a hub on this machine stands in for it."""

import json
import os
import subprocess
import sys

import pytest

from tests.fake_hub import FakeHub

SET = "datasets/google/IFEval"
ANSWER = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
from orchestrator.record.contents import Contents
from orchestrator.record.sources import Sources
from trainables._rows import read_rows
from trainables._settings import DataSettings

root = Path(sys.argv[1])
contents = Contents(root / "cache")
sources = Sources(contents, SimpleNamespace(cache=root / "cache"), SimpleNamespace())

def rows():
    path, hashed = sources._eval_data(None, SimpleNamespace(name="ifeval", data="google/IFEval"))
    data = sources._local(DataSettings(path="google/IFEval"))
    return {"eval": path.read_text(), "hash": hashed, "train": list(read_rows(data))}

def at(commit):
    return list(read_rows(DataSettings(path="google/IFEval", revision=commit)))

def adapter():
    return (sources._adapter("some/adapter", contents.adapter("some/adapter")) / "adapter_config.json").read_text()

print(json.dumps([eval(question) for question in sys.argv[2:]]))
"""


def rows(*keys):
    return {"data.jsonl": "".join(f"{json.dumps({'key': key})}\n" for key in keys).encode()}


@pytest.fixture(scope="module")
def hub():
    found = FakeHub()
    with found.serving():
        yield found


@pytest.fixture(scope="module")
def ask(hub, tmp_path_factory):
    """A function that answers questions in a process of its own: the client reads its settings when it is imported."""
    home = tmp_path_factory.mktemp("home")

    def answers(*questions, offline=False):
        settings = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": str(int(offline))}
        command = [sys.executable, "-c", ANSWER, str(home / "outputs"), *questions]
        done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return answers


@pytest.fixture(scope="module")
def moved(hub, ask):
    """A data set whose branch moves after its commit was asked for and before its rows are read."""
    first, second = hub.publish(SET, rows(1)), []
    next_one = hub.next_commit(SET, rows(2))
    hub.publish("models/some/adapter", {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights"})

    def move(path):
        if path.endswith("api/datasets/google/IFEval") and not second:
            second.append(hub.publish(SET, rows(2)))

    hub.on_ask = move
    told = ask("rows()", f"at({next_one!r})", "adapter()")
    return first, second[0], told


def test_rows_are_read_at_the_commit_that_was_hashed_though_the_branch_has_moved(moved):
    first, _, (told, second_rows, _) = moved
    assert told == {"eval": '{"key": 1}\n', "hash": f"hub:google/IFEval@{first}::train", "train": [{"key": 1}]}
    assert second_rows == [{"key": 2}]


def test_without_a_network_the_commit_that_is_asked_for_is_read_and_not_the_last_one(moved, ask):
    first, second, _ = moved
    assert ask(f"at({first!r})", f"at({second!r})", offline=True) == [[{"key": 1}], [{"key": 2}]]


def test_an_adapter_is_downloaded_before_it_is_hashed(moved):
    assert moved[2][2] == "{}"
