"""DeepSpeed on two Ray Train workers: the losses of one process, and the same bits after one of them is killed."""

import json
import os
import signal
import textwrap
import threading

import pytest

from orchestrator.sweep import main
from tests.integration.test_failures import checkpoints, lines, losses, wait_for
from tests.local_reporter import LocalReporter, job
from trainables._fit import fit
from trainables.builtin import sources

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

STEPS = 30
FILE = f"""
    name: divided
    model: builtin:mini
    data: {{path: rows.jsonl, max_length: 256}}
    train: {{learning_rate: 1e-3, epochs: 40, global_batch: 8, max_steps: {STEPS}, save_every: 4, micro_batch: 4}}
    resources: {{workers: 2}}
    deepspeed: {{}}
    objective: train/loss
"""


def swept(folder, *arguments):
    """Run the sweep in a folder of its own; returns its exit code."""
    rows = sources.content("chat").decode().splitlines()[:48]
    (folder / "rows.jsonl").write_text("\n".join(rows) + "\n")
    (folder / "divided.yaml").write_text(textwrap.dedent(FILE))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return main(["divided.yaml", *arguments])


@pytest.fixture(scope="module")
def undisturbed(cluster, tmp_path_factory):
    """Folder of the trial by stage, from one sweep over stages 2 and 3."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert swept(folder, "--set", "search={kind: grid, axes: {deepspeed.stage: [2, 3]}}") == 0
    found = [path.parent for path in folder.glob("outputs/trials/*/train.json")]
    return {json.loads((path / "settings.json").read_text())["blocks"]["deepspeed"]["stage"]: path for path in found}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The same training in one process without Ray and without DeepSpeed."""
    folder = tmp_path_factory.mktemp("alone")
    rows = sources.content("chat").decode().splitlines()[:48]
    (folder / "rows.jsonl").write_text("\n".join(rows) + "\n")
    train = {"epochs": 40, "max_steps": STEPS, "micro_batch": 8}
    return fit(job(folder, data={"path": folder / "rows.jsonl"}, train=train), LocalReporter())


@pytest.mark.parametrize("stage", [2, 3])
def test_two_ray_workers_under_deepspeed_make_the_updates_of_one_process_without(undisturbed, alone, stage):
    content = json.loads((undisturbed[stage] / "train.json").read_text())
    facts = content["summary"]["parallel"]
    assert (facts["engine"], facts["stage"], content["summary"]["workers"]) == ("DeepSpeedEngine", stage, 2)
    assert facts["partitioned"] is (stage == 3)
    assert facts["optimizer_bytes"] <= 0.55 * alone["summary"]["parallel"]["optimizer_bytes"]
    expected = [point["loss"] for point in alone["steps"]]
    assert losses(undisturbed[stage] / "train.json") == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("stage", [2, 3])
def test_a_checkpoint_holds_the_part_of_every_worker(undisturbed, stage):
    (kept,) = undisturbed[stage].glob("checkpoints/*/checkpoint_*/points.json")
    names = [path.name for path in kept.parent.rglob("*") if path.is_file()]
    for rank in (0, 1):
        assert f"rng_state_{rank}.pth" in names
        assert [name for name in names if f"zero_pp_rank_{rank}_" in name and "optim_states" in name]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("stage", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_a_killed_worker_of_two_is_replaced_and_they_go_on_to_the_same_bits(undisturbed, tmp_path, stage):
    def kill():
        # The second one to appear: the first is committed by then.
        first = wait_for(lambda: checkpoints(tmp_path), 300)[0]
        wait_for(lambda: [path for path in checkpoints(tmp_path) if path != first])
        os.kill(lines(tmp_path / "outputs" / "journal.jsonl")[-1]["pid"], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    code = swept(tmp_path, "--set", f"deepspeed.stage={stage}")
    killer.join()
    assert code == 0
    fits = [line for line in lines(tmp_path / "outputs" / "journal.jsonl") if line["kind"] == "fit"]
    assert len(fits) == 2
    (train,) = tmp_path.glob("outputs/trials/*/train.json")
    assert json.loads(train.read_text())["resumed_at_step"] >= 4
    assert losses(train) == losses(undisturbed[stage] / "train.json")
    weights = "export/model.safetensors"
    assert (train.parent / weights).read_bytes() == (undisturbed[stage] / weights).read_bytes()
