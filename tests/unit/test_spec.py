import pickle

import pytest
import yaml

from orchestrator.decide.spec import load, schema
from orchestrator.errors import SweepFileError
from orchestrator.registry import installed
from tests.unit.sweep_stand_ins import REGISTRY, Catalogue, mistakes, read


def test_a_string_as_model_or_data_is_its_path():
    sweep = read("", head="name: a\nmodel: some/model\ndata: rows.jsonl\n")
    assert (sweep.model.path, sweep.data.path) == ("some/model", "rows.jsonl")


def test_shorthand_in_a_layer_keeps_the_other_keys_of_the_block():
    head = "name: a\nmodel: {path: some/model, dtype: bfloat16}\ndata: rows.jsonl\n"
    text = "profiles: {demo: {model: other/model}}"
    sweep = read(text, head, sets=["data=more.jsonl", "data.max_rows=5"])
    assert (sweep.model.path, sweep.model.dtype) == ("other/model", "bfloat16")
    assert (sweep.data.path, sweep.data.max_rows) == ("more.jsonl", 5)


@pytest.mark.parametrize("written", ["1e-5", "1E-5", "0.00001", "1.0e-5", ".1e-4", "+1e-5"])
def test_every_way_to_write_a_small_number_is_a_number(written):
    assert read(f"train: {{learning_rate: {written}}}").train.learning_rate == 1e-5
    assert read("", sets=[f"train.learning_rate={written}"]).train.learning_rate == 1e-5


def test_whole_numbers_in_fields_of_floats_become_floats():
    sweep = read("train: {epochs: 2}\nsearch: {kind: grid, axes: {train.epochs: [1, 2]}}")
    assert isinstance(sweep.train.epochs, float)
    assert isinstance(read("").train.epochs, float)


def test_demo_is_the_default_profile_where_there_is_one():
    text = "profiles: {demo: {train: {epochs: 1}}, full: {train: {epochs: 9}}}"
    assert (read(text).profile, read(text).train.epochs) == ("demo", 1)
    assert read(text, profile="full").train.epochs == 9
    assert read("profiles: {full: {train: {epochs: 9}}}").profile == ""


def test_a_profile_merges_keys_replaces_lists_and_axes_and_null_removes():
    text = """
train: {learning_rate: 1e-3, max_steps: 7, epochs: 2}
seeds: [0, 1]
evals: {quiz: {limit: 3}, perplexity: {}}
search: {kind: grid, axes: {train.epochs: [1, 2], train.learning_rate: [1e-3]}}
profiles:
  demo:
    train: {max_steps: null, epochs: 5}
    seeds: [4]
    evals: {perplexity: null}
    search: {axes: {train.global_batch: [8]}}
"""
    sweep = read(text)
    assert (sweep.train.learning_rate, sweep.train.max_steps, sweep.train.epochs) == (1e-3, None, 5)
    assert sweep.seeds == (4,)
    assert list(sweep.evals) == ["quiz"]
    assert sweep.evals["quiz"].limit == 3
    assert sweep.search.axes == {"train.global_batch": [8]}
    assert sweep.search.kind == "grid"


def test_set_comes_last_and_reaches_axes_and_evals():
    text = """
evals: {quiz: {}}
search: {kind: grid, axes: {train.epochs: [1, 2], train.learning_rate: [1e-3]}}
profiles: {demo: {train: {epochs: 5}}}
"""
    sweep = read(text, sets=["train.epochs=7", "evals.quiz.limit=2", "search.axes.train.epochs=[3]", "seeds=[1,2]"])
    assert sweep.train.epochs == 7
    assert sweep.evals["quiz"].limit == 2
    assert list(sweep.search.axes.items()) == [("train.epochs", [3]), ("train.learning_rate", [1e-3])]
    assert sweep.seeds == (1, 2)


def test_set_gives_fields_of_text_the_text_as_it_was_typed():
    sweep = read("", sets=["model.revision=1234567", "name=2024"])
    assert (sweep.model.revision, sweep.name) == ("1234567", "2024")
    assert sweep.base["model"]["revision"] == "1234567"


def test_the_name_is_the_files_own_where_it_says_none():
    assert read("", head="model: a/b\ndata: rows.jsonl\n", source="sweeps/my sweep.yaml").name == "my-sweep"


def test_all_mistakes_of_a_file_are_told_at_once():
    found = mistakes(
        """
traim: {epochs: 1}
train: {learning_rte: 1e-3, epochs: -1, global_batch: 3.0, learning_rate: "1e-3"}
evals: {quizz: {}, perplexity: {roles: [usr]}}
objective: {metric: quiz/acuracy}
search: {kind: grid, axes: {train.epoch: [1], train.warmup_ratio: []}}
seeds: [0, 0]
"""
    )
    assert set(found) == {
        "traim", "train.learning_rte", "train.epochs", "train.global_batch", "train.learning_rate", "evals.quizz",
        "evals.perplexity.roles[0]", "objective.metric", "search.axes.train.epoch", "search.axes.train.warmup_ratio",
        "seeds",
    }  # fmt: skip


@pytest.mark.parametrize(
    "text, key, says",
    [
        ("learning_rate: 1e-3", "learning_rate", "train.learning_rate"),
        ("train.learning_rate: 1e-3", "train.learning_rate", "inside its block"),
        ("train: {learning-rate: 1e-3}", "train.learning-rate", "Did you mean learning_rate?"),
        ("train: {max_length: 5}", "train.max_length", "Did you mean data.max_length?"),
        ("train: {global_batch: 3.0}", "train.global_batch", "Write 3."),
        ('train: {global_batch: "8"}', "train.global_batch", "Write 8 without quotes."),
        ('train: {learning_rate: "1e-3"}', "train.learning_rate", "Write 1e-3 without quotes."),
        ("train: {global_batch: true}", "train.global_batch", "must be a whole number (got true)"),
        ("train: {epochs: 0}", "train.epochs", "must be greater than 0 (got 0)"),
        ("train: {warmup_ratio: 1.5}", "train.warmup_ratio", "must be at most 1 (got 1.5)"),
        ("train: {learning_rate: .nan}", "train.learning_rate", "must be a finite number"),
        ("train: {learning_rate: null}", "train.learning_rate", "not null"),
        ("train: {save_every: often}", "train.save_every", "must be a whole number or one of epoch, end"),
        ("train: {lr_schedule: cosin}", "train.lr_schedule", "Did you mean cosine?"),
        ("train: 5", "train", "must be a block of keys (got 5)"),
        ("question: 7", "question", 'Put it in quotes: "7".'),
        ("name: ../up", "name", "letters, digits"),
        ("method: stf", "method", "Did you mean sft?"),
        ("method: [sft]", "method", "no such method"),
        ("adapter: some/adapter", "adapter", "method: none"),
        ("seeds: 0", "seeds", "Write [0]."),
        ("seeds: []", "seeds", "must not be empty"),
        ("seeds: [-1]", "seeds[0]", "must be at least 0"),
        ("evals: [quizz]", "evals.quizz", "Did you mean quiz?"),
        ("evals: {quiz: {limt: 2}}", "evals.quiz.limt", "Did you mean limit?"),
        ("evals: {quiz: 5}", "evals.quiz", "must be a block of keys"),
        ("evals: [{quiz: {}}]", "evals", "must be a block of evals"),
        ("objective: {metric: quiz/accuracy}", "objective.metric", "Add `quiz: {}` under evals."),
        ("evals: [quiz]\nobjective: {metric: quiz/acuracy}", "objective.metric", "Did you mean quiz/accuracy?"),
        ("evals: [quiz]\nobjective: {direction: max}", "objective.metric", "is missing"),
        ("evals: [quiz]\nobjective: {metric: quiz/accuracy, direction: up}", "objective.direction", "one of max, min"),
        ("lora: {rnk: 8}", "lora.rnk", "Did you mean rank?"),
        ("lora: {targets: 3}", "lora.targets", "must be a list or one of all"),
        ("resources: {wrokers: 2}", "resources.wrokers", "Did you mean workers?"),
        ("tracking: {enabled: 'yes'}", "tracking.enabled", "Write true without quotes."),
        ("train: {global_batch: 12, micro_batch: 5, accumulation: 2}", "train.global_batch", "micro_batch x accum"),
        ("search: {kind: gird, axes: {train.epochs: [1]}}", "search.kind", "Did you mean grid?"),
        ("profiles: [demo]", "profiles", "must be a block"),
        ("profiles: {demo: 3}", "profiles.demo", "must be a block"),
        ("profiles: {demo: {profiles: {}}}", "profiles", "unknown key"),
    ],
)  # fmt: skip
def test_a_mistake_names_its_key_and_the_way_out(text, key, says):
    found = mistakes(text)
    assert list(found) == [key]
    assert says in found[key]


@pytest.mark.parametrize(
    "sets, key, says",
    [
        (["train.epochs"], "--set", "KEY=VALUE"),
        (["=3"], "--set", "KEY=VALUE"),
        (["train..epochs=3"], "--set", "KEY=VALUE"),
        (["train.epoch=3"], "train.epoch", "Did you mean epochs?"),
        (["train.epochs=[1"], "--set train.epochs", "not valid YAML"),
        (["train.epochs=many"], "train.epochs", "must be a number (got 'many')"),
        (["profiles.demo.train.epochs=3"], "--set", "--profile"),
    ],
)
def test_a_wrong_set_is_a_mistake_too(sets, key, says):
    found = mistakes("", sets=sets)
    assert list(found) == [key]
    assert says in found[key]


def test_a_profile_that_is_not_there_is_named_with_the_nearest():
    found = mistakes("profiles: {demo: {}, full: {}}", profile="ful")
    assert "Did you mean full?" in found["--profile"]
    assert "has none" in mistakes("", profile="demo")["--profile"]


def test_mistakes_in_a_profile_that_is_not_used_are_told_with_its_name():
    found = mistakes("profiles: {demo: {}, full: {train: {epoch: 1}}}")
    assert list(found) == ["profiles.full.train.epoch"]


def test_a_mistake_in_the_file_is_told_once_and_not_for_each_profile():
    assert list(mistakes("train: {epoch: 1}\nprofiles: {demo: {}, full: {}}")) == ["train.epoch"]


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "the file is empty"),
        ("# nothing\n", "the file is empty"),
        ("- a\n- b\n", "a sweep file is a mapping"),
        ("just words", "a sweep file is a mapping"),
        ("name: a\n\tmodel: b\n", "line 2, column 1"),
        ("name: [a\nmodel: b\n", "line 2"),
        ("name: a\n---\nname: b\n", "not valid YAML"),
        ("name: a\nmodel: a/b\nname: c\n", "line 3: this key stands twice in one block"),
        ("train:\n  epochs: 1\n  epochs: 2\n", "line 3: this key stands twice in one block"),
        ("a: &x [*x]\n", "contains itself"),
        ("name: a\x00b\n", "line 1: the text holds a character"),
        ("? [a, b]\n: 1\n", "not valid YAML"),
        ("a: !!python/object:os.system {}\n", "line 1, column 4"),
        ("a: *nowhere\n", "line 1, column 4"),
    ],
)
def test_text_that_is_no_sweep_file_says_where(text, says):
    with pytest.raises(SweepFileError) as caught:
        load(text, source="x.yaml", registry=REGISTRY)
    assert says in str(caught.value)
    assert str(caught.value).startswith("x.yaml: ")


def test_yaml_that_surprises_people_reads_as_they_wrote_it():
    sweep = read("question: 2026-01-01\nmodel: {path: some/model, revision: 12:30}", head="data: a.jsonl\n")
    assert (sweep.question, sweep.model.revision) == ("2026-01-01", "12:30")


def test_merge_keys_and_anchors_work():
    text = "x: 1\n"
    assert "x" in mistakes(text)
    sweep = read("train: &t {epochs: 2}\nprofiles: {demo: {train: {<<: *t, learning_rate: 1e-3}}}")
    assert (sweep.train.epochs, sweep.train.learning_rate) == (2, 1e-3)


def test_the_direction_and_the_whole_objective_have_defaults():
    assert read("evals: [quiz]").objective.metric == "quiz/accuracy"
    assert read("evals: {perplexity: {roles: [user]}}\nobjective: perplexity/user").objective.direction == "min"
    assert read("evals: [quiz]\nobjective: {metric: quiz/accuracy, target: 0.2}").objective.target == 0.2
    assert (read("").objective.metric, read("").objective.direction) == ("train/heldout_loss", "min")


def test_a_trial_may_bring_the_model_that_the_file_leaves_out():
    head = "name: a\ndata: rows.jsonl\nmodel: {dtype: bfloat16}\n"
    text = "search: {trials: [{model: a/b}, {model.path: c/d}]}"
    assert read(text, head).model is None
    assert "model.path" in mistakes("search: {trials: [{model: a/b}, {name: x}]}", head)
    assert "model.path" in mistakes("", "name: a\ndata: rows.jsonl\n")
    assert "data" in mistakes("", "name: a\nmodel: a/b\n")


def test_a_sweep_is_frozen_and_crosses_processes():
    sweep = read("lora: {rank: 4}\nevals: [quiz]\nsearch: {kind: grid, axes: {train.epochs: [1, 2]}}")
    assert pickle.loads(pickle.dumps(sweep)) == sweep
    with pytest.raises(ValueError):
        sweep.name = "other"


def test_errors_cross_processes():
    with pytest.raises(SweepFileError) as caught:
        read("train: {epoch: 1}")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_the_schema_knows_blocks_axes_roles_and_help():
    found = schema(REGISTRY)
    lora = found["properties"]["lora"]["properties"]
    assert lora["rank"]["role"] == "result"
    assert lora["log_gradients"]["role"] == "execution"
    assert "train.learning_rate" in found["properties"]["search"]["properties"]["axes"]["properties"]
    assert "resources.max_concurrent" not in found["properties"]["search"]["properties"]["axes"]["properties"]
    train = found["properties"]["train"]["properties"]
    assert train["learning_rate"]["description"] == "Peak learning rate."
    assert train["micro_batch"]["role"] == "execution"
    assert "required" not in str(found["properties"]["model"])


def test_the_schema_accepts_what_load_accepts_in_the_shipped_files():
    import jsonschema

    from tests.conftest import ROOT

    for path in sorted((ROOT / "sweeps").glob("*.yaml")):
        document = _numbers(yaml.safe_load(path.read_text()))
        assert list(jsonschema.Draft202012Validator(schema()).iter_errors(document)) == []


def _numbers(value):
    """YAML 1.1 reads 1e-3 as text; editors and `load` read a number."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def test_an_unknown_key_is_shown_with_its_value():
    found = mistakes("train: {epohcs: 2}\ntrian: {epochs: 3}")
    assert found["train.epohcs"].startswith("train.epohcs: unknown key (got 2). Did you mean epochs?")
    assert 'unknown key (got {"epochs": 3})' in found["trian"]


MISSING = Catalogue(missing=["some/model", "rows.jsonl", "an/adapter", "quiz.jsonl"])


def test_what_is_missing_is_told_together_with_what_is_misspelt():
    text = "train: {epohcs: 2}\nadapter: an/adapter\nevals: {quiz: {limt: 3}, perplexity: {}}"
    keys = {"model.path", "data.path", "adapter", "evals.quiz.data"}
    assert set(mistakes(text, contents=MISSING)) == {"train.epohcs", "evals.quiz.limt", *keys}
    assert set(mistakes(text)) == {"train.epohcs", "evals.quiz.limt"}
    assert mistakes("", contents=MISSING) == {}


def test_a_misspelt_key_beside_a_path_does_not_hide_that_the_path_is_missing():
    head = "name: test\nmodel: {path: some/model, dtpye: float32}\ndata: {path: rows.jsonl, max_rows: 0}\n"
    found = mistakes("", head, contents=MISSING)
    assert set(found) == {"model.dtpye", "model.path", "data.max_rows", "data.path"}


def test_fields_of_an_eval_that_contradict_each_other_are_told():
    found = mistakes("evals: {attention: {position: 80}}", registry=installed(), contents=Catalogue())
    assert list(found) == ["evals.attention"]
    assert "position must be below max_length, which is 64" in found["evals.attention"]


def test_what_only_the_trials_name_or_nothing_reads_is_not_asked_for():
    found = mistakes("train: {epohcs: 2}\nsearch: {kind: grid, axes: {model.path: [a, b]}}", contents=MISSING)
    assert set(found) == {"train.epohcs", "data.path"}
    assert set(mistakes("method: none\ntrain: {epohcs: 2}", contents=MISSING)) == {"train.epohcs", "model.path"}
