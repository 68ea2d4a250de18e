"""A JSON schema that an eval names: looked up at the plan, known by its content, handed over as a path."""

import json
from pathlib import Path

import pytest

from orchestrator.decide.plan import make_plan
from orchestrator.decide.spec import load
from orchestrator.errors import SweepFileError
from orchestrator.record.contents import Contents
from orchestrator.record.ledger import Ledger
from orchestrator.record.sources import Sources
from orchestrator.run.scoring import score

FILE = """
name: forms
model: builtin:mini
data: builtin:chat
evals:
  format: {{data: builtin:avro_heldout, schema: {schema}, max_new_tokens: 2, limit: 2}}
"""


def plan_of(schema, folder):
    contents = Contents(folder / "cache")
    return make_plan(load(FILE.format(schema=schema), profile=None, source="forms.yaml", contents=contents), contents)


def task_of(schema, folder):
    """The one eval of the one base row, as it is handed to a worker."""
    contents, ledger = Contents(folder / "cache"), Ledger(folder)
    sources, (base,) = Sources(contents, ledger), plan_of(schema, folder).bases
    ledger.put_reference(base.id, {}, sources.reference(base))
    (task,) = sources.tasks(base, ledger.trial(base.id))
    return task


def test_an_eval_is_known_by_the_content_of_its_schema_not_by_its_name(tmp_path):
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    one.write_text('{"type": "object"}')
    other.write_text('{"type": "object"}')
    known = task_of(one, tmp_path)
    assert task_of(other, tmp_path).id == known.id
    one.write_text('{"type": "array"}')
    assert task_of(one, tmp_path).id != known.id
    other.unlink()
    assert task_of("builtin:avro", tmp_path).id != known.id


def test_a_worker_is_given_the_path_and_the_record_keeps_the_name(tmp_path):
    task = task_of("builtin:avro", tmp_path)
    assert task.config["schema"] == "builtin:avro"
    assert json.loads(Path(task.schemas["schema"]).read_text())["title"].startswith("An AVRO record")
    record = score(task)
    assert record.config == task.config
    assert record.metrics["format/schema_valid"].n == 2


@pytest.mark.parametrize(
    "schema, said",
    [
        ("builtin:avrro", r"Did you mean builtin:avro\?"),
        ("absent.json", "no such file"),
        ("broken.json", "not valid JSON"),
        ("wrong.json", "is no JSON schema"),
    ],
)
def test_a_schema_that_cannot_be_used_is_a_mistake_of_the_file(schema, said, tmp_path):
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "wrong.json").write_text('{"type": "objekt"}')
    named = schema if schema.startswith("builtin") else tmp_path / schema
    with pytest.raises(SweepFileError, match=rf"evals.format.schema: .*{said}"):
        plan_of(named, tmp_path)
