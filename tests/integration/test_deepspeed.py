"""DeepSpeed changes how a trial is spread over workers, and nothing else: run in processes without a compiler."""

import shutil

import pytest
import torch

from tests.local_reporter import fit_in_ranks, job
from trainables.builtin import sources

STAGES = (0, 1, 2, 3)
WORLDS = (1, 2)
COMPILERS = ("c++", "g++", "gcc", "cc", "clang", "ninja", "nvcc")


@pytest.fixture(scope="module", autouse=True)
def no_compiler(tmp_path_factory):
    """A PATH without the compilers and ninja that DeepSpeed looks for; the processes of all fits inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(tmp_path_factory.mktemp("bin")))
        assert [name for name in COMPILERS if shutil.which(name)] == []
        yield


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return sources.write("chat", tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def run(tmp_path_factory, rows):
    """A function that trains named jobs in processes that are started once, and gives their content and folder."""

    def fits(world, **named):
        folder, todo = tmp_path_factory.mktemp("fits"), []
        for name, settings in named.items():
            rest = dict(settings)
            train = {"micro_batch": 2, "weight_decay": 0.1, **rest.pop("train", {})}
            reporting = {key: rest.pop(key) for key in ("keep", "resume", "stop_after") if key in rest}
            todo.append((job(folder / name, data={"path": rows}, train=train, **rest), reporting))
        contents = fit_in_ranks(world, todo)
        return {
            name: {**content, "export": task.folder / "export"}
            for name, content, (task, _) in zip(named, contents, todo, strict=True)
        }

    return fits


@pytest.fixture(scope="module")
def stages(run):
    """Content by (workers, stage); stage None is training without DeepSpeed."""
    found = {}
    for world in WORLDS:
        blocks = {f"stage{stage}": {"blocks": {"deepspeed": {"stage": stage}}} for stage in STAGES}
        for name, content in run(world, plain={}, **blocks).items():
            found[world, None if name == "plain" else int(name[-1])] = content
    return found


def curve(content, key="loss"):
    return [point[key] for point in content["steps"]]


def weights(content, name="model.safetensors"):
    from safetensors.torch import load_file

    return load_file(content["export"] / name)


def parallel(content):
    return content["summary"]["parallel"]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_gives_the_losses_and_gradient_norms_of_training_without_deepspeed(stages, world, stage):
    content, plain = stages[world, stage], stages[1, None]
    assert len(curve(plain)) == 6
    assert curve(content) == pytest.approx(curve(plain), abs=1e-4)
    assert curve(content, "grad_norm") == pytest.approx(curve(plain, "grad_norm"), rel=1e-3)
    assert curve(content, "learning_rate") == curve(plain, "learning_rate")
    assert content["heldout"][-1]["loss"] == pytest.approx(plain["heldout"][-1]["loss"], abs=1e-4)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("stage", STAGES)
def test_it_is_deepspeed_at_that_stage_that_trained(stages, world, stage):
    facts = parallel(stages[world, stage])
    assert (facts["engine"], facts["stage"]) == ("DeepSpeedEngine", stage)
    assert parallel(stages[world, None])["stage"] is None


@pytest.mark.parametrize("stage", STAGES)
def test_each_of_two_workers_holds_its_share_of_the_optimizer_states_and_at_stage_3_of_the_weights(stages, stage):
    facts, whole = parallel(stages[2, stage]), parallel(stages[2, 0])["optimizer_bytes"]
    assert whole >= 8 * stages[2, 0]["summary"]["trainable_parameters"]
    assert facts["optimizer_bytes"] <= (0.55 if stage else 1) * whole
    assert facts["partitioned"] is (stage == 3)


def test_all_parameters_are_counted_where_each_worker_holds_a_part(stages):
    for name in ("trainable_parameters", "total_parameters"):
        assert stages[2, 3]["summary"][name] == stages[1, None]["summary"][name]


def test_an_export_of_divided_weights_is_whole(stages):
    from transformers import AutoModelForCausalLM

    divided, whole = weights(stages[2, 3]), weights(stages[2, 0])
    assert set(divided) == set(whole)
    for name, tensor in whole.items():
        torch.testing.assert_close(divided[name], tensor, atol=1e-5, rtol=0)
    loaded, info = AutoModelForCausalLM.from_pretrained(stages[2, 3]["export"], output_loading_info=True)
    assert not info["missing_keys"]
    assert loaded(torch.tensor([[1, 2, 3]])).logits.isfinite().all()
