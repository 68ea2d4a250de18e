"""What is asked of the hub, with which token, and what is told of a model that it does not give."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.fake_hub import GOOD_TOKEN, FakeHub

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 256,
}

LOADED_BY_A_WORKER = """
import sys
from trainables._model import load_model, place
from trainables._settings import ModelSettings
model = ModelSettings(path=sys.argv[1])
try:
    load_model(model, place(model))
except ValueError as error:
    print(error)
"""


@pytest.fixture
def ask(tmp_path):
    """Runs Python with a hub of its own, where a login has left a token; returns (output, tokens that were sent)."""

    def run(arguments, token=None):
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        (home / "token").write_text("hf_left_by_a_login")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        hub = FakeHub()
        for name in ("open", "gated"):
            hub.publish(f"models/{name}/model", {"config.json": json.dumps(CONFIG).encode()})
        hub.gated.add("models/gated/model")
        with hub.serving() as address:
            environment |= {"HF_ENDPOINT": address, "HF_HOME": str(home), "PYTHONPATH": str(ROOT)}
            if token:
                environment["HF_TOKEN"] = token
            command = [sys.executable, *arguments]
            done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
            return done.stdout + done.stderr, hub.authorizations, address

    return run


def plan(tmp_path, model):
    file = tmp_path / "test.yaml"
    file.write_text(f"method: lora\nmodel: {model}\ndata: builtin:chat\n")
    return ["-m", "orchestrator.sweep", str(file), "--plan"]


def test_a_gated_model_without_a_token_is_one_message_that_names_it(ask, tmp_path):
    printed, sent, address = ask(plan(tmp_path, "gated/model"))
    lines = [line.strip() for line in printed.splitlines() if "gated" in line and "HF_TOKEN" in line]
    told = "model.path: gated/model: the model is gated, and HF_TOKEN is not set"
    assert lines == [f"{told}: accept its licence at {address}/gated/model and set HF_TOKEN"]
    assert sent == set(), "a token that a login has left must not be sent"


def test_a_token_without_access_is_told_apart_from_none(ask, tmp_path):
    printed, sent, _ = ask(plan(tmp_path, "gated/model"), token="hf_other")
    assert "gated/model: the model is gated, and the account of HF_TOKEN may not read it" in printed
    assert sent == {"Bearer hf_other"}


def test_a_token_with_access_gives_the_plan_and_its_table_without_weights(ask, tmp_path):
    printed, sent, _ = ask(plan(tmp_path, "gated/model"), token=GOOD_TOKEN)
    assert "memory of one device by method" in printed
    assert "not on this machine" not in printed
    assert sent == {f"Bearer {GOOD_TOKEN}"}


def test_an_open_model_is_planned_for_by_its_config_alone(ask, tmp_path):
    printed, sent, _ = ask(plan(tmp_path, "open/model"))
    assert "q_proj" in printed
    assert sent == set()


def test_a_worker_that_may_not_read_a_gated_model_says_the_same(ask):
    printed, sent, address = ask(["-c", LOADED_BY_A_WORKER, "gated/model"])
    told = "model.path: gated/model: the model is gated, and HF_TOKEN is not set"
    assert printed.strip().splitlines()[-1] == f"{told}: accept its licence at {address}/gated/model and set HF_TOKEN."
    assert sent == set()
