"""What `--plan` says of trials that are spread over devices."""

import json

import pytest

from orchestrator.decide.plan import make_plan
from orchestrator.errors import SweepFileError
from orchestrator.record.contents import Contents
from orchestrator.record.ledger import Ledger
from orchestrator.record.sources import Sources
from orchestrator.registry import installed
from tests.unit.sweep_stand_ins import Catalogue, mistakes, read
from tests.unit.test_capabilities import LAPTOP


@pytest.fixture
def catalogue(tmp_path):
    """Made-up models and data beside files that are really read."""
    found = Catalogue()
    found.deepspeed = Contents(tmp_path / "cache").deepspeed
    return found


@pytest.fixture
def planned(catalogue):
    def plan(text):
        return make_plan(read(text, registry=installed()), catalogue)

    return plan


@pytest.fixture
def refused(planned):
    """Key -> message of everything that is wrong with a file whose text alone is right."""

    def wrong(text):
        with pytest.raises(SweepFileError) as error:
            planned(text)
        return {item.key: str(item) for item in error.value.mistakes}

    return wrong


def file(folder, content):
    path = folder / "mine.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_deepspeed_and_fsdp_together_are_refused():
    found = mistakes("deepspeed: {stage: 2}\nfsdp: {}", registry=installed())
    assert "cannot be used together with deepspeed" in found["fsdp"]
    assert mistakes("fsdp: {}", registry=installed()) == {}


@pytest.mark.parametrize("workers, refused", [(1, True), (2, False)])
def test_fsdp_of_one_worker_on_a_machine_without_a_gpu_is_unresolved(catalogue, workers, refused):
    text = read(f"fsdp: {{}}\nresources: {{workers: {workers}}}", registry=installed())
    lines = make_plan(text, catalogue, machine=LAPTOP).unresolved
    assert any(line.startswith("fsdp: cannot run here: one worker") for line in lines) is refused


def test_layers_spread_over_devices_and_weights_divided_among_workers_are_refused_together():
    head = "name: t\nmodel: {path: m, device_map: auto}\ndata: rows.jsonl\n"
    found = mistakes("deepspeed: {stage: 2}", head=head, registry=installed())
    assert "cannot be used together with deepspeed" in found["model.device_map"]


def test_a_trial_of_a_search_may_not_have_both_either():
    text = "deepspeed: {stage: 2}\nsearch: {kind: list, trials: [{name: a}, {name: b, fsdp: {offload: true}}]}"
    (found,) = mistakes(text, registry=installed()).values()
    assert "cannot be used together with deepspeed" in found


@pytest.mark.parametrize(
    "content, said",
    [
        (None, "no such file"),
        ("{", "is no JSON (Expecting property name"),
        ("[]", "must hold a JSON object, not a list"),
        ({"optimizer": {"params": {"lr": 1}}}, "says optimizer.params.lr 1, the trial says train.learning_rate 2e-05"),
        ({"gradient_clipping": 0.1}, "says gradient_clipping 0.1, the trial says train.max_grad_norm 1"),
        ({"data_efficiency": {"enabled": True}}, "sets data_efficiency, which changes what a trial learns"),
        ({"zero_optimization": {"stage": "auto", "x": "auto"}}, 'says zero_optimization.x "auto", which nothing'),
    ],
)
def test_a_deepspeed_file_that_cannot_be_used_is_a_mistake_of_the_sweep_file(refused, tmp_path, content, said):
    path = tmp_path / "mine.json" if content is None else file(tmp_path, content)
    assert said in refused(f"deepspeed: {{config: {path}}}")["deepspeed.config"]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_best_weights_are_refused_where_the_block_or_its_file_says_stage_3(planned, refused, tmp_path, stage):
    path = file(tmp_path, {"zero_optimization": {"stage": stage}})
    for block in (f"{{config: {path}}}", f"{{stage: {stage}}}"):
        text = f"deepspeed: {block}\ntrain: {{keep: best}}"
        if stage == 3:
            assert "can be put together at the end alone" in refused(text)["train.keep"]
        else:
            planned(text)


def test_a_missing_deepspeed_file_is_told_with_the_other_mistakes_of_a_file(catalogue):
    found = mistakes(
        "deepspeed: {config: ./nowhere.json}\ntrain: {epochs: many}", contents=catalogue, registry=installed()
    )
    assert set(found) == {"deepspeed.config", "train.epochs"}


def test_what_deepspeed_would_change_is_refused(refused):
    assert "adafactor" in refused("deepspeed: {stage: 2}\ntrain: {optimizer: adafactor}")["train.optimizer"]


@pytest.mark.parametrize(
    "text, rule",
    [
        ("deepspeed: {stage: 2, offload_parameters: true}", "offload_parameters needs stage 3 (got stage 2)"),
        ("deepspeed: {stage: 0, offload_optimizer: true}", "offload_optimizer needs stage 1, 2 or 3 (got stage 0)"),
        ("deepspeed: {stage: 4}", "must be one of 0, 1, 2, 3"),
        ("deepspeed: {stges: 2}", "Did you mean stage"),
    ],
)
def test_a_block_that_cannot_be_is_refused(text, rule):
    assert any(rule in message for message in mistakes(text, registry=installed()).values())


def test_how_a_trial_is_spread_changes_no_id_unless_it_is_swept(planned):
    plain, spread = planned(""), planned("deepspeed: {stage: 3, offload_optimizer: true}\nresources: {workers: 2}")
    assert [trial.id for trial in plain.trials] == [trial.id for trial in spread.trials]
    swept = planned("deepspeed: {}\nsearch: {kind: grid, axes: {deepspeed.stage: [0, 1, 2, 3]}}")
    assert len({trial.id for trial in swept.trials}) == 4


def test_a_worker_gets_the_file_under_a_path_that_holds_in_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file(tmp_path, {"zero_optimization": {"stage": 1}})
    contents = Contents(tmp_path / "cache")
    head = "name: t\nmodel: builtin:mini\ndata: builtin:chat\n"
    sweep = read("deepspeed: {config: mine.json}", head=head, registry=installed())
    plan = make_plan(sweep, contents)
    job = Sources(contents, Ledger(tmp_path / "out")).job(plan.trials[0])
    assert job.blocks["deepspeed"]["config"] == str(tmp_path / "mine.json")
