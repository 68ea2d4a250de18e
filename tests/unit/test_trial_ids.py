import json

import pytest

from orchestrator.decide.plan import make_plan
from orchestrator.registry import installed
from tests.conftest import ROOT
from tests.unit.sweep_stand_ins import Catalogue, read

GOLDEN = ROOT / "tests" / "golden" / "trial_ids.json"
FILE = """
seeds: [0, 1]
search: {kind: one_at_a_time, axes: {train.learning_rate: [1e-5], data.train_on: [user], data.bos: [always]}}
"""


def test_the_ids_of_an_unchanged_file_stay_as_they_are():
    """A field, a default or a version that moves an id makes every user train again: raise VERSION of the method or of
    trainables/core where results move, and write the new ids into the golden file."""
    plan = make_plan(read(FILE, registry=installed()), Catalogue())
    found = {trial.label: trial.id for trial in (*plan.bases, *plan.trials)}
    if not GOLDEN.exists():
        pytest.fail(f"{GOLDEN} is absent; it should hold:\n{json.dumps(found, indent=1)}")
    assert found == json.loads(GOLDEN.read_text())
