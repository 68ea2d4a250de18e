"""FSDP2 changes how a trial is spread over workers, and nothing else: over gloo on CPUs, in two processes."""

import pytest
import torch
from safetensors.torch import load_file

from tests.local_reporter import fit_in_ranks, job
from trainables.builtin import sources

pytestmark = pytest.mark.timeout(900)

LORA = {"rank": 4, "alpha": 8, "merge": True}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A function that trains named jobs on two workers, and gives their content and folder."""
    rows = sources.write("chat", tmp_path_factory.mktemp("rows"))

    def fits(named):
        folder, todo = tmp_path_factory.mktemp("fits"), []
        for name, settings in named.items():
            rest = dict(settings)
            train = {"micro_batch": 2, "weight_decay": 0.1, "save_every": 3, **rest.pop("train", {})}
            reporting = {key: rest.pop(key) for key in ("keep", "resume", "stop_after") if key in rest}
            todo.append((job(folder / name, data={"path": rows}, train=train, **rest), reporting))
        contents = fit_in_ranks(2, todo)
        return {
            name: {**content, "folder": task.folder}
            for name, content, (task, _) in zip(named, contents, todo, strict=True)
        }

    return fits


def under(method="sft", train=None, **fsdp):
    blocks = {} if method == "sft" else {method: {**LORA, "merge": method == "lora"}}
    return {"method": method, "blocks": {**blocks, "fsdp": fsdp}, "train": train or {}}


@pytest.fixture(scope="module")
def trained(run, tmp_path_factory):
    """Full fine-tuning without and with FSDP, and one that is stopped and resumed, by name."""
    kept = tmp_path_factory.mktemp("kept")
    return run(
        {
            "plain": {},
            "fsdp": under(),
            "stopped": under() | {"keep": kept, "stop_after": 3},
            "resumed": under() | {"resume": kept / "checkpoint-3"},
        }
    )


@pytest.fixture(scope="module")
def variants(run):
    return run(
        {
            "wrapped": under(wrap=["LlamaMLP"], reshard_after_forward=False),
            "offloaded": under(offload=True),
            "checkpointed": under(train={"gradient_checkpointing": True}),
            "best": under(train={"keep": "best", "heldout_every": 2}),
            **{
                f"{method}{name}": under(method) if name else under(method) | {"blocks": {method: LORA}}
                for method in ("lora", "qlora")
                for name in ("", " fsdp")
            },
        }
    )


def curve(content, key="loss"):
    return [point[key] for point in content["steps"]]


def weights(content, name="export/model.safetensors"):
    return load_file(content["folder"] / name)


def assert_close(content, plain, name="export/model.safetensors"):
    found, whole = weights(content, name), weights(plain, name)
    assert set(found) == set(whole)
    for key, tensor in whole.items():
        torch.testing.assert_close(found[key], tensor, atol=1e-5, rtol=0)


def test_fsdp_gives_the_losses_gradient_norms_and_weights_of_training_without_it(trained):
    content, plain = trained["fsdp"], trained["plain"]
    assert len(curve(plain)) == 6
    assert curve(content) == pytest.approx(curve(plain), abs=1e-4)
    assert curve(content, "grad_norm") == pytest.approx(curve(plain, "grad_norm"), rel=1e-3)
    assert content["heldout"][-1]["loss"] == pytest.approx(plain["heldout"][-1]["loss"], abs=1e-4)
    assert_close(content, plain)


def test_it_is_fsdp_that_trained_and_each_worker_held_its_share(trained):
    facts, plain = (trained[name]["summary"]["parallel"] for name in ("fsdp", "plain"))
    assert facts["engine"].startswith("FSDP")
    assert facts["partitioned"] is True
    assert facts["optimizer_bytes"] <= 0.55 * plain["optimizer_bytes"]
    for name in ("trainable_parameters", "total_parameters"):
        assert trained["fsdp"]["summary"][name] == trained["plain"]["summary"][name]


def test_a_checkpoint_of_fsdp_is_resumed_to_the_same_bits(trained):
    resumed, undisturbed = trained["resumed"], trained["fsdp"]
    assert not (trained["stopped"]["folder"] / "export").exists()
    assert resumed["resumed_at_step"] == 3
    assert curve(resumed) == curve(undisturbed)
    whole = weights(undisturbed)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in weights(resumed).items())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wrapped", "offloaded", "checkpointed", "best"])
def test_settings_of_fsdp_change_no_loss_and_export_whole_weights(trained, variants, name):
    assert variants[name]["summary"]["parallel"]["partitioned"] is True
    assert curve(variants[name]) == pytest.approx(curve(trained["plain"]), abs=1e-4)
    assert_close(variants[name], trained["plain"])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_an_adapter_trains_under_fsdp_as_without_it(variants, method):
    content, plain = variants[f"{method} fsdp"], variants[method]
    assert content["summary"]["parallel"]["engine"].startswith("FSDP")
    assert curve(content) == pytest.approx(curve(plain), abs=1e-4)
    assert_close(content, plain, "export/adapter_model.safetensors")
    if method == "lora":
        assert_close(content, plain, "merged/model.safetensors")
