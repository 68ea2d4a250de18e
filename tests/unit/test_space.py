import subprocess
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.decide.plan import make_plan
from orchestrator.decide.space import Axis, Distribution, canonical, grid, one_at_a_time, sample
from orchestrator.decide.trials import expand
from tests.unit.sweep_stand_ins import REGISTRY, Catalogue, NoSettings, mistakes, read, registry
from trainables._settings import Settings

KEYS = ["train.learning_rate", "train.epochs", "train.warmup_ratio", "train.weight_decay"]
values = st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True)
spaces = st.dictionaries(st.sampled_from(KEYS), values, min_size=1, max_size=4)


def axes_of(space):
    return [Axis(key, tuple({key: value} for value in steps)) for key, steps in space.items()]


def trials_of(text, **arguments):
    sweep = read(text, **arguments)
    return expand(sweep.base, sweep.search, sweep.seeds, REGISTRY).trials


@given(spaces)
def test_a_grid_loses_nothing_and_repeats_nothing(space):
    points = [canonical(point.overrides) for point in grid(axes_of(space))]
    expected = 1
    for steps in space.values():
        expected *= len(steps)
    assert len(points) == len(set(points)) == expected
    for key, steps in space.items():
        assert {point.overrides[key] for point in grid(axes_of(space))} == set(steps)


@given(spaces)
def test_a_grid_varies_its_last_axis_fastest(space):
    rows = [tuple(steps.index(point.overrides[key]) for key, steps in space.items()) for point in grid(axes_of(space))]
    assert rows == sorted(rows)


@given(spaces, st.data())
def test_one_at_a_time_is_the_baseline_and_every_other_value_once(space, data):
    baseline = {key: data.draw(st.integers(0, 9)) for key in space}
    points = one_at_a_time(axes_of(space), baseline.__getitem__)
    assert points[0].overrides == {}
    expected = [{key: value} for key, steps in space.items() for value in steps if value != baseline[key]]
    assert [point.overrides for point in points[1:]] == expected


@given(spaces, st.integers(0, 3), st.data())
def test_a_sample_holds_different_points_of_the_space_and_grows_at_its_end(space, seed, data):
    size = len(grid(axes_of(space)))
    count = data.draw(st.integers(1, min(size, 20)))
    points = [point.overrides for point in sample(axes_of(space), count, seed)]
    assert len({canonical(point) for point in points}) == count
    for point in points:
        assert all(point[key] in steps for key, steps in space.items())
    more = sample(axes_of(space), min(size, count + 3), seed)
    assert [point.overrides for point in more][:count] == points
    turned = sample(axes_of(space)[::-1], count, seed)
    assert [point.overrides for point in turned] == points


@given(
    st.sampled_from(["uniform", "loguniform", "randint", "quniform"]),
    st.integers(1, 50),
    st.integers(1, 50),
    st.integers(0, 10),
)
def test_draws_stay_within_their_bounds(kind, low, width, seed):
    bounds = (low, low + width, 3) if kind == "quniform" else (low, low + width)
    distribution = Distribution(kind, bounds)
    if distribution.size == 0:
        return
    drawn = [point.overrides["a"] for point in sample([Axis("a", distribution=distribution)], 1, seed)]
    assert low <= drawn[0] <= low + width
    if kind == "quniform":
        assert drawn[0] % 3 == 0


def test_every_value_of_a_finite_distribution_can_be_drawn():
    drawn = sample([Axis("a", distribution=Distribution("randint", (2, 5)))], 4, 0)
    assert sorted(point.overrides["a"] for point in drawn) == [2, 3, 4, 5]
    drawn = sample([Axis("a", distribution=Distribution("quniform", (0.1, 0.5, 0.1)))], 5, 0)
    assert sorted(point.overrides["a"] for point in drawn) == [0.1, 0.2, 0.3, 0.4, 0.5]


def test_loguniform_draws_each_decade_alike():
    points = sample([Axis("a", distribution=Distribution("loguniform", (1e-6, 1e-2)))], 400, 1)
    drawn = [point.overrides["a"] for point in points]
    for low in (1e-6, 1e-5, 1e-4, 1e-3):
        assert 70 <= sum(low <= value < 10 * low for value in drawn) <= 130


def test_a_draw_is_the_same_in_every_process():
    code = (
        "from orchestrator.decide.space import *; import json;"
        "axes = [Axis('a', distribution=Distribution('loguniform', (1e-6, 1e-2))), Axis('b', ({'b': 1}, {'b': 2}))];"
        "print(json.dumps([p.overrides for p in sample(axes, 3, 7)]))"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert runs == {'[{"a": 0.000297035, "b": 2}, {"a": 0.00486057, "b": 1}, {"a": 1.92517e-05, "b": 2}]\n'}


def test_fewer_combinations_than_samples_are_refused():
    found = mistakes("search: {kind: random, samples: 5, axes: {train.epochs: [1, 2]}}")
    assert "only 2 combinations (got 5)" in found["search.samples"]


def test_values_of_axes_are_typed_by_the_schema():
    trials = trials_of("search: {kind: grid, axes: {train.epochs: [1, 2.0], train.global_batch: [8]}}")
    for trial in trials:
        assert isinstance(trial.overrides["train.epochs"], float)
        assert isinstance(trial.overrides["train.global_batch"], int)
        assert trial.settings.train.epochs == trial.overrides["train.epochs"]


def test_keys_that_move_together_are_one_axis():
    text = """
method: lora
search: {kind: grid, axes: {"lora.rank, lora.alpha": [[8, 16], [16, 32]], train.epochs: [1]}}
"""
    trials = trials_of(text)
    assert [trial.settings.blocks["lora"]["rank"] for trial in trials] == [8, 16]
    assert [trial.overrides["lora.alpha"] for trial in trials] == [16.0, 32.0]
    assert [trial.label for trial in trials] == ["rank=8, alpha=16, epochs=1", "rank=16, alpha=32, epochs=1"]


@pytest.mark.parametrize("kind, count", [("one_at_a_time", 3), ("grid", 2), ("random, samples: 2", 2)])
def test_trials_written_out_stand_beside_those_of_the_axes(kind, count):
    text = f"""
lora: {{rank: 4}}
search:
  {{kind: {kind}, axes: {{train.epochs: [1, 2]}}, trials: [{{name: adapter, method: lora, lora.alpha: 8}}]}}
"""
    *of_axes, beside = trials_of(text)
    assert [trial.overrides.keys() for trial in of_axes[-2:]] == [{"train.epochs"}] * 2
    assert len(of_axes) == count
    assert (beside.label, beside.settings.method, beside.settings.train.epochs) == ("adapter", "lora", 3)
    assert (beside.settings.blocks["lora"]["rank"], beside.settings.blocks["lora"]["alpha"]) == (4, 8.0)


def test_a_trial_beside_the_axes_gives_them_no_values_and_lengthens_no_label():
    text = """
method: lora
search:
  kind: one_at_a_time
  axes: {lora.rank: [2], model.dtype: [bfloat16]}
  trials: [{name: whole, method: sft, model.dtype: float16, shared.dtype: x}]
"""
    shared = type("Shared", (Settings,), {"__annotations__": {"dtype": str}, "dtype": "y"})
    methods = registry(sft=SimpleNamespace(VERSION=1, Config=NoSettings, BLOCKS={"shared": shared}))
    plan = make_plan(read(text, registry=methods), Catalogue(), methods)
    assert plan.axes == {"lora.rank": [8, 2], "model.dtype": ["auto", "bfloat16"]}
    assert [trial.label for trial in plan.trials] == ["baseline", "rank=2", "dtype=bfloat16", "whole"]


def test_a_trial_beside_the_axes_that_is_one_of_theirs_is_refused():
    text = "search: {kind: grid, axes: {train.epochs: [1, 2]}, trials: [{name: one, train.epochs: 1}]}"
    assert "'one' is the same trial as" in mistakes(text)["search.trials[0]"]


def test_a_block_can_be_an_axis():
    trials = trials_of("search: {kind: grid, axes: {model: [a/b, {path: c/d, dtype: bfloat16}]}}")
    assert [trial.overrides for trial in trials] == [
        {"model.path": "a/b"},
        {"model.path": "c/d", "model.dtype": "bfloat16"},
    ]
    assert trials[1].settings.model.dtype == "bfloat16"


def test_null_is_a_value_on_an_axis():
    trials = trials_of("train: {max_steps: 9}\nsearch: {kind: grid, axes: {train.max_steps: [null, 5]}}")
    assert [trial.settings.train.max_steps for trial in trials] == [None, 5]


def test_a_baseline_value_on_an_axis_is_not_a_second_trial():
    text = "train: {epochs: 3}\nsearch: {kind: one_at_a_time, axes: {train.epochs: [2, 3, 4], train.max_steps: [5]}}"
    assert [trial.label for trial in trials_of(text)] == ["baseline", "epochs=2", "epochs=4", "max_steps=5"]


def test_defaults_are_baseline_values_too():
    text = "search: {kind: one_at_a_time, axes: {train.lr_schedule: [cosine, linear]}}"
    assert [trial.label for trial in trials_of(text)] == ["baseline", "lr_schedule=linear"]


def test_seeds_multiply_every_trial():
    trials = trials_of("seeds: [0, 3]\nsearch: {kind: grid, axes: {train.epochs: [1, 2]}}")
    assert [(trial.label, trial.settings.seed) for trial in trials] == [
        ("epochs=1, seed=0", 0),
        ("epochs=1, seed=3", 3),
        ("epochs=2, seed=0", 0),
        ("epochs=2, seed=3", 3),
    ]


def test_trials_of_a_list_take_nested_and_dotted_overrides_and_shorthand():
    text = """
search:
  trials:
    - {name: plain}
    - {name: more, train: {epochs: 2, learning_rate: 1e-3}, data.max_length: 64}
    - {name: other, method: lora, lora: {rank: 4}, data: other.jsonl}
    - {train.epochs: 5}
"""
    trials = trials_of(text)
    assert [trial.label for trial in trials] == ["plain", "more", "other", "epochs=5"]
    assert trials[1].overrides == {"train.epochs": 2.0, "train.learning_rate": 1e-3, "data.max_length": 64}
    assert (trials[2].settings.blocks["lora"]["rank"], trials[2].settings.data.path) == (4, "other.jsonl")
    assert trials[0].settings.blocks == {}


def test_a_file_without_a_search_is_one_trial():
    assert [trial.label for trial in trials_of("")] == ["sft"]


def test_labels_use_whole_keys_where_their_ends_are_alike():
    trials = trials_of("search: {kind: grid, axes: {model.path: [a/b], data.path: [x.jsonl], train.epochs: [1]}}")
    assert trials[0].label == "model=a/b, data=x.jsonl, epochs=1"
    trials = trials_of("search: {kind: grid, axes: {model.revision: [v1], data.revision: [v2]}}")
    assert trials[0].label == "model.revision=v1, data.revision=v2"


@pytest.mark.parametrize(
    "search, key, says",
    [
        ("{kind: grid}", "search.axes", "needs axes"),
        ("{axes: {train.epochs: [1]}}", "search.axes", "kind: grid, one_at_a_time or random"),
        ("{kind: one_at_a_time, axes: {train.epochs: [1]}, trials: [{}]}", "search.trials[0]", "the same trial"),
        ("{kind: grid, samples: 3, axes: {train.epochs: [1]}}", "search.samples", "no meaning for kind grid"),
        ("{kind: random, axes: {train.epochs: [1]}}", "search.samples", "is missing"),
        ("{kind: grid, axes: {train.epochs: 3}}", "search.axes.train.epochs", "Write [3]."),
        ("{kind: grid, axes: {train.epochs: []}}", "search.axes.train.epochs", "must not be empty"),
        ("{kind: grid, axes: {train.epochs: }}", "search.axes.train.epochs", "must be a list"),
        ("{kind: grid, axes: {train.epochs: [1, 1.0]}}", "search.axes.train.epochs", "twice in the axis (got 1.0)"),
        ("{kind: grid, axes: {train.epochs: [one]}}", "search.axes.train.epochs", "must be a number (got 'one')"),
        ("{kind: grid, axes: {train.epochs: [.inf]}}", "search.axes.train.epochs[0]", "finite"),
        ("{kind: grid, axes: {train.global_batch: [0]}}", "search.axes.train.global_batch", "at least 1 (got 0)"),
        ("{kind: grid, axes: {train: {epochs: [1]}}}", "search.axes.train", "Write train.epochs: [...]."),
        ("{kind: grid, axes: {train.epoch: [1]}}", "search.axes.train.epoch", "Did you mean train.epochs?"),
        ("{kind: grid, axes: {epochs: [1]}}", "search.axes.epochs", "Did you mean train.epochs?"),
        ("{kind: grid, axes: {evals.quiz.limit: [1]}}", "search.axes.evals.quiz.limit", "cannot differ"),
        ("{kind: grid, axes: {name: [a]}}", "search.axes.name", "cannot differ"),
        ("{kind: grid, axes: {seed: [1]}}", "search.axes.seed", "seeds: [0, 1]"),
        ("{kind: grid, axes: {resources.max_concurrent: [1]}}", "search.axes.resources.max_concurrent",
         "cannot differ"),
        ("{kind: grid, axes: {method: [sft, stf]}}", "search.axes.method", "Did you mean sft?"),
        ('{kind: grid, axes: {"train.epochs, train.max_steps": [[1]]}}', "search.axes.train.epochs, train.max_steps",
         "a list of 2"),
        ('{kind: grid, axes: {"train.epochs, train.max_steps": [[1, 2]], train.epochs: [1]}}',
         "search.axes.train.epochs", "is set by the axis"),
        ("{kind: grid, axes: {train.epochs: {uniform: [1, 2]}}}", "search.axes.train.epochs", "kind: random"),
        ("{kind: random, samples: 2, axes: {train.epochs: {unifrm: [1, 2]}}}", "search.axes.train.epochs",
         "Did you mean uniform?"),
        ("{kind: random, samples: 2, axes: {train.epochs: {uniform: [2, 1]}}}", "search.axes.train.epochs", "below"),
        ("{kind: random, samples: 2, axes: {train.epochs: {uniform: [2]}}}", "search.axes.train.epochs", "[low, high]"),
        ("{kind: random, samples: 2, axes: {train.learning_rate: {loguniform: [0, 1]}}}",
         "search.axes.train.learning_rate", "above 0"),
        ("{kind: random, samples: 2, axes: {train.warmup_ratio: {uniform: [0, 2]}}}", "search.axes.train.warmup_ratio",
         "must be at most 1"),
        ("{kind: random, samples: 2, axes: {train.global_batch: {uniform: [1, 9]}}}", "search.axes.train.global_batch",
         "randint"),
        ("{trials: [{name: a}, {name: a, train.epochs: 1}]}", "search.trials[1].name", "has this name too"),
        ("{trials: [{name: a}, {name: b}]}", "search.trials[1]", "the same trial as search.trials[0]"),
        ("{trials: [{name: a}, {name: b, train.epochs: 3}]}", "search.trials[1]", "the same trial"),
        ("{trials: [{train: {epoch: 3}}]}", "search.trials[0].train.epoch", "Did you mean train.epochs?"),
        ("{trials: [{train: {epochs: x}}]}", "search.trials[0].train.epochs", "must be a number"),
        ("{trials: [{train.epochs: 1, train: {epochs: 2}}]}", "search.trials[0].train.epochs", "set twice"),
        ("{trials: [{seed: 1}]}", "search.trials[0].seed", "seeds"),
        ("{trials: [{lora.rank: 4}]}", "search.trials[0]", "method sft does not read lora.rank"),
        ("{trials: [{adapter: x/y}]}", "search.trials[0].adapter", "base model alone"),
        ("{trials: [{train.global_batch: 9, train.micro_batch: 2, train.accumulation: 2}]}",
         "search.trials[0].train.global_batch", "micro_batch x accumulation"),
        ("{trials: 3}", "search.trials", "must be a list"),
        ("{trials: [3]}", "search.trials[0]", "must be a block"),
    ],
)  # fmt: skip
def test_a_wrong_search_names_its_key_and_the_way_out(search, key, says):
    found = mistakes(f"search: {search}")
    assert list(found) == [key]
    assert says in found[key]


def test_a_file_is_checked_whole_even_where_its_own_values_are_wrong():
    found = mistakes("train: {epoch: 1}\nsearch: {kind: grid, axes: {train.epochs: []}}")
    assert set(found) == {"train.epoch", "search.axes.train.epochs"}


def test_a_range_too_narrow_for_its_samples_is_refused_rather_than_drawn_from_for_ever():
    narrow = Axis("train.learning_rate", distribution=Distribution("uniform", (1.0, 1.00002)))
    with pytest.raises(ValueError, match="only 3 different"):
        sample([narrow], 20, 0)
    wrong = mistakes("search: {kind: random, samples: 2, axes: {train.learning_rate: {uniform: [1.0, 1.000001]}}}")
    assert "only 1 different" in str(wrong["search.samples"])
