"""What every method keeps to: each public module of trainables/ is held to it."""

import json

import pytest
import torch

from orchestrator.registry import NO_METHOD, installed
from tests.local_reporter import LocalReporter, job
from trainables._export import load
from trainables._fit import fit
from trainables._model import load_model, place
from trainables._settings import ModelSettings, Settings
from trainables.builtin.sources import write

METHODS = [name for name in installed().methods if name != NO_METHOD]
MINI = ModelSettings(path="builtin:mini")


def module_of(name):
    return installed().method(name)


def built(name):
    module = module_of(name)
    config = module.Config()
    quantization = module.quantization(config) if hasattr(module, "quantization") else None
    torch.manual_seed(0)
    return module.build(load_model(MINI, place(MINI), quantization), config)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_what_it_is_and_which_version(name):
    module = module_of(name)
    assert isinstance(module.VERSION, int)
    assert module.SUMMARY
    assert "\n" not in module.SUMMARY
    assert getattr(module, "EXPORT", "full") in ("full", "adapter", "soft_prompt")
    assert all(issubclass(block, Settings) for block in getattr(module, "BLOCKS", {}).values())


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_has_a_default_and_a_help_text(name):
    config = module_of(name).Config()
    for field, info in type(config).model_fields.items():
        assert info.description, field
    assert type(config).model_validate_json(config.model_dump_json(), strict=True) == config


@pytest.mark.parametrize("name", METHODS)
def test_a_quantization_is_plain_values(name):
    module = module_of(name)
    if hasattr(module, "quantization"):
        said = module.quantization(module.Config())
        assert json.loads(json.dumps(said)) == said


@pytest.mark.parametrize("name", METHODS)
def test_a_built_model_trains_what_is_planned(name):
    module, model = module_of(name), built(name)
    trains = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trains > 0
    said = module.footprint(module.Config(), sizes(), "float32") if hasattr(module, "footprint") else None
    assert said is None or said.trainable == trains


@pytest.mark.parametrize("name", METHODS)
def test_an_export_gives_back_the_model_that_was_trained(name, tmp_path):
    rows = getattr(module_of(name), "ROWS", "conversations")
    data = {"path": str(write("questions", tmp_path))} if rows == "questions" else {}
    data |= {"max_rows": 8, "heldout": 0}
    task = job(tmp_path, method=name, data=data, train={"max_steps": 1, "warmup_ratio": 0})
    content = fit(task, LocalReporter())
    assert content["method"] == name
    description = json.loads((task.folder / "export" / "export.json").read_text())
    assert description["kind"] == getattr(module_of(name), "EXPORT", "full")
    assert description["version"] == module_of(name).VERSION
    loaded, again = load(task.folder / "export"), load(task.folder / "export")
    ids = torch.tensor([loaded.tokenize(loaded.prompt([{"role": "user", "content": "Tell me about the town."}]))])
    with torch.no_grad():
        one, other = loaded.model(ids).logits, again.model(ids).logits
        base = load_model(MINI, place(MINI)).eval()(ids).logits
    assert torch.equal(one, other)
    assert not torch.equal(one, base)


def sizes():
    from orchestrator.record.shapes import shapes
    from trainables.builtin.sources import mini_path

    return shapes(mini_path(), mini_path())
