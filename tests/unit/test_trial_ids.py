import json

import pytest

from orchestrator.decide.plan import make_plan
from orchestrator.registry import installed
from tests.conftest import ROOT
from tests.unit.sweep_stand_ins import Catalogue, read
from trainables._settings import DataSettings, ModelSettings, TrainSettings

DEFAULTS = ROOT / "tests" / "golden" / "defaults.json"
GOLDEN = ROOT / "tests" / "golden" / "trial_ids.json"
FILE = """
seeds: [0, 1]
search:
  kind: one_at_a_time
  axes: {train.learning_rate: [1e-5], data.train_on: [user], data.bos: [always]}
  trials: [{name: lora, method: lora}, {name: qlora, method: qlora, qlora.rank: 8}]
"""


def test_the_ids_of_an_unchanged_file_stay_as_they_are():
    """A field, a default or a version that moves an id makes every user train again: raise VERSION of the method or of
    trainables/core where results move, and write the new ids into the golden file."""
    plan = make_plan(read(FILE, registry=installed()), Catalogue())
    found = {trial.label: trial.id for trial in (*plan.bases, *plan.trials)}
    if not GOLDEN.exists():
        pytest.fail(f"{GOLDEN} is absent; it should hold:\n{json.dumps(found, indent=1)}")
    assert found == json.loads(GOLDEN.read_text())


def test_the_defaults_that_ids_leave_out_stay_as_they_are():
    """Ids leave out what is at its default. Whoever changes a default raises VERSION, and writes it down here."""
    registry = installed()
    blocks = {"model": ModelSettings, "data": DataSettings, "train": TrainSettings, **registry.all_blocks()}
    blocks |= {f"evals.{name}": registry.eval(name).Config for name in registry.evals}
    found = {
        f"{block}.{name}": json.loads(json.dumps(field.get_default(call_default_factory=True), default=as_block))
        for block, model in blocks.items()
        for name, field in model.model_fields.items()
        if not field.is_required() and not is_execution(field)
    }
    known = json.loads(DEFAULTS.read_text())
    assert {key: found.get(key) for key in known} == known
    assert set(found) == set(known), "write the new field's default into the golden file"


def as_block(value):
    """A default that is a block of its own."""
    return value.model_dump(mode="json")


def is_execution(field):
    return (field.json_schema_extra or {}).get("role") == "execution"


def test_a_field_that_says_its_default_changes_no_id():
    plain, said = "", "train: {warmup_ratio: 0.1, epochs: 3}\n"
    ids = [make_plan(read(text, registry=installed()), Catalogue()).trials[0].id for text in (plain, said)]
    assert ids[0] == ids[1]
