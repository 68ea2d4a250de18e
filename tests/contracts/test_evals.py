"""What every eval has to be: each public module found in evals/ goes through all of this, with no list to edit."""

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

import evals
from evals._types import Metric, Result, Settings
from tests.tiny_subject import tiny_subject

FOLDER = Path(evals.__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))
HEAVY = (
    "torch",
    "transformers",
    "datasets",
    "lm_eval",
    "ray",
    "mlflow",
    "nltk",
    "scipy",
    "numpy",
    "matplotlib",
    "peft",
)
ROW = {
    "key": "a",
    "prompt": "Say no commas.",
    "instruction_id_list": ["punctuation:no_comma"],
    "kwargs": [{}],
    "conversations": [
        {"role": "user", "content": "How is the sea?"},
        {"role": "assistant", "content": "The sea is calm."},
    ],
    "question": "How is the sea?",
    "choices": ["calm", "loud", "red", "dry"],
    "answer": 0,
    "subject": "geography",
}
"""A row that any of the evals can read: a prompt with instructions, a conversation, and a question with choices."""

SPLITS = {"a": "val", "b": "test", "c": "test"}
"""The rows' keys, and the split of each for evals that tell them apart."""


def module(name):
    return importlib.import_module(f"evals.{name}")


@pytest.fixture(scope="module")
def subject():
    return tiny_subject()


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({**ROW, "key": key, "split": split}) + "\n" for key, split in SPLITS.items()))
    return path


def config(name, **more):
    """The eval's default config, with short answers where it has such a field."""
    Config = module(name).Config
    small = {field: 4 for field in Config.model_fields if field == "max_new_tokens"}
    return Config(**small, **more)


def test_there_are_evals():
    assert {"ifeval", "perplexity", "samples"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_an_eval_has_the_parts_that_the_folder_promises(name):
    found = module(name)
    assert isinstance(found.VERSION, int)
    assert found.VERSION >= 1
    assert issubclass(found.Config, Settings)
    assert isinstance(found.harness(), str)
    assert found.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_an_eval_is_imported_and_asked_for_its_metrics_without_heavy_libraries(name):
    code = (
        f"import sys, evals.{name} as e\n"
        "e.metrics(e.Config()); e.harness(); e.Config.model_json_schema()\n"
        f"print(*[n for n in {HEAVY!r} if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=FOLDER.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


@pytest.mark.parametrize("name", NAMES)
def test_an_eval_yields_exactly_the_metrics_it_names(name, subject, data, tmp_path):
    found = module(name)
    result = found.run(subject, config(name), data, tmp_path)
    promised = found.metrics(config(name))
    assert isinstance(result, Result)
    found_here = {key: metric.direction for key, metric in result.metrics.items()}
    # Without a base, what compares with it is missing.
    assert found_here == {key: way for key, way in promised.items() if key in found_here}
    assert getattr(found, "WITH_BASE", False) or set(found_here) == set(promised)
    assert promised
    for key, metric in result.metrics.items():
        assert key.startswith(f"{name}/")
        assert metric.direction in ("max", "min")
        assert isinstance(metric, Metric)
        assert metric.n >= 1
        assert metric.value == metric.value, "NaN is no score"


@pytest.mark.parametrize("name", NAMES)
def test_only_an_eval_that_says_so_looks_at_the_base(name, subject, data, tmp_path):
    found = module(name)
    beside = replace(subject, untouched=tiny_subject(seed=1))
    result = found.run(beside, config(name), data, tmp_path)
    assert set(result.metrics) == set(found.metrics(config(name)))
    alone = found.run(subject, config(name), data, tmp_path)
    if getattr(found, "WITH_BASE", False):
        assert set(alone.metrics) <= set(result.metrics)
    else:
        assert alone.metrics == result.metrics


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_json_with_keys_that_every_model_shares(name, subject, data, tmp_path):
    found = module(name)
    result = found.run(subject, config(name), data, tmp_path)
    other = found.run(tiny_subject(seed=1), config(name), data, tmp_path)
    json.dumps([result.samples, result.tables], allow_nan=False)
    keys = [sample["key"] for sample in result.samples]
    assert keys == [sample["key"] for sample in other.samples]
    assert len(set(keys)) == len(keys) == 3
    assert all(isinstance(sample["paired"], bool) for sample in result.samples)


@pytest.mark.parametrize("name", NAMES)
def test_the_scores_of_the_samples_add_up_to_the_metrics(name, subject, data, tmp_path):
    import math

    result = module(name).run(subject, config(name), data, tmp_path)
    for key, metric in result.metrics.items():
        scores = [sample["scores"][key] for sample in result.samples]
        value = sum(score["sum"] for score in scores) / sum(score["count"] for score in scores)
        value = math.exp(value) if scores[0].get("scale") == "exp" else value
        assert metric.value == pytest.approx(value)


@pytest.mark.parametrize("name", [name for name in NAMES if "batch_size" in module(name).Config.model_fields])
def test_a_batch_size_is_an_execution_field_and_changes_no_number(name, subject, data, tmp_path):
    assert module(name).Config.model_fields["batch_size"].json_schema_extra == {"role": "execution"}
    one = module(name).run(subject, config(name, batch_size=1), data, tmp_path)
    many = module(name).run(subject, config(name, batch_size=3), data, tmp_path)
    for key, metric in one.metrics.items():
        assert metric.value == pytest.approx(many.metrics[key].value, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_config_refuses_unknown_keys_and_explains_every_field(name):
    with pytest.raises(ValidationError, match="no_such_key"):
        module(name).Config(no_such_key=1)
    properties = module(name).Config.model_json_schema()["properties"]
    assert not [key for key, schema in properties.items() if not schema.get("description")]
