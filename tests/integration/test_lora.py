"""LoRA through the whole fit: on the built-in miniature, with the library that others load the adapter with."""

import json

import pytest
import torch

from tests.local_reporter import LocalReporter, job
from trainables._export import load
from trainables._fit import fit
from trainables._model import load_model, place
from trainables._settings import ModelSettings

TRAIN = {"epochs": 1, "micro_batch": 8, "learning_rate": 3e-3, "lr_schedule": "constant"}


def losses(content):
    return [point["loss"] for point in content["steps"]]


def base_model():
    settings = ModelSettings(path="builtin:mini")
    return load_model(settings, place(settings)).eval()


IDS = torch.tensor([[5, 300, 17, 42, 9, 700, 3, 11]])


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def trained(folder, block=None, train=None, **rest):
    task = job(folder, method="lora", train={**TRAIN, **(train or {})}, blocks={"lora": block or {}}, **rest)
    return task, fit(task, LocalReporter())


def test_an_adapter_trains_and_stock_peft_loads_what_evals_load(tmp_path):
    from peft import PeftModel

    task, content = trained(tmp_path, {"rank": 4, "dropout": 0.1})
    export = task.folder / "export"
    assert losses(content)[-1] < losses(content)[0]
    assert sorted(path.name for path in export.iterdir() if "token" not in path.name and path.suffix != ".jinja") == [
        "adapter_config.json", "adapter_model.safetensors", "export.json",
    ]  # fmt: skip
    description = json.loads((export / "export.json").read_text())
    assert (description["kind"], description["quantization"]) == ("adapter", None)
    ours = load(export)
    stock = PeftModel.from_pretrained(base_model(), export).eval()
    assert torch.equal(logits(ours.model), logits(stock))
    assert not torch.allclose(logits(stock), logits(base_model()), atol=1e-2)


def test_the_summary_counts_what_trains(tmp_path):
    _, content = trained(tmp_path, {"rank": 4, "targets": ["q_proj"]}, {"max_steps": 1})
    assert content["summary"]["trainable_parameters"] == 4 * 4 * (128 + 128)


def test_a_stopped_fit_goes_on_to_the_same_bits(tmp_path):
    block, train = {"rank": 4, "dropout": 0.1}, {"save_every": 3}
    _, whole = trained(tmp_path / "whole", block, train)
    arguments = {"method": "lora", "train": {**TRAIN, **train}, "blocks": {"lora": block}}
    task = job(tmp_path / "cut", **arguments)
    with pytest.raises(KeyboardInterrupt):
        fit(task, LocalReporter(keep=tmp_path / "kept", stop_after=3))
    resumed = fit(task, LocalReporter(resume=tmp_path / "kept" / "checkpoint-3"))
    assert resumed["resumed_at_step"] == 3
    assert losses(resumed) == losses(whole)
    name = "trial/export/adapter_model.safetensors"
    assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
