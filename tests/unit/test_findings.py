"""The judgements of a report: what the records support, and what they do not."""

import math
from typing import Any

import pytest
from results_fixture import (
    STRICT,
    TYPES,
    curves,
    ifeval_samples,
    masking_results,
    record_of,
    row,
    settings,
    trial,
    tuning_results,
)

from orchestrator.record.records import MetricRecord, Objective, Results, Row, State
from orchestrator.show.answers import changed_prompts, choose, count_gains, next_turns, type_gains
from orchestrator.show.comparisons import counts_table, types_table
from orchestrator.show.effects import axis_values, effect, effects, is_grid
from orchestrator.show.evidence import against_base
from orchestrator.show.findings import find, improvements
from orchestrator.show.fit import fits
from orchestrator.show.metrics import bounds, epoch_losses, target
from orchestrator.show.ranking import base_of, best, entries, ranked


def _results(rows: list[Row], **changes: Any) -> Results:
    values: dict[str, Any] = {
        "name": "x",
        "question": "",
        "profile": "demo",
        "objective": Objective(metric=STRICT, direction="max"),
        "rows": rows,
    }
    return Results(**{**values, **changes})


def _changed(results: Results, id_: str, **fields: Any) -> Results:
    rows = [row.model_copy(update=fields) if row.id == id_ else row for row in results.rows]
    return results.model_copy(update={"rows": rows})


# -- best, base, seeds -------------------------------------------------------------------------------------------------


def test_the_best_trial_follows_the_direction_of_the_objective() -> None:
    results = tuning_results(n=40)
    assert best(results).row.id == "t3"  # type: ignore[union-attr]
    down = results.model_copy(update={"objective": Objective(metric=STRICT, direction="min")})
    assert best(down).row.id == "t1"  # type: ignore[union-attr]
    assert [entry.row.id for entry in ranked(results)][-1] == "t5"


def test_a_value_that_is_not_a_number_is_never_the_best() -> None:
    results = tuning_results(n=40)
    record = results.rows[1].evals["ifeval"]
    spoilt = {**record.metrics, STRICT: MetricRecord(value=math.nan, direction="max", n=40)}
    results = _changed(results, "t0", evals={"ifeval": record.model_copy(update={"metrics": spoilt})})
    for direction in ("max", "min"):
        turned = results.model_copy(update={"objective": Objective(metric=STRICT, direction=direction)})
        assert best(turned).row.id != "t0"  # type: ignore[union-attr]


def test_each_trial_is_compared_with_the_base_row_it_names() -> None:
    bases = [row("b0", "base", 0.2, is_base=True), row("b1", "base (4 bit)", 0.6, is_base=True)]
    rows = [*bases, trial("t", "t", 0.6, {"x": 1}, curves(1.0), base_id="b1")]
    results = _results(rows)
    assert base_of(results, results.rows[2]).id == "b1"  # type: ignore[union-attr]
    assert find(results).base_value == rows[1].metric(STRICT).value  # type: ignore[union-attr]
    assert base_of(results, rows[2].model_copy(update={"base_id": "gone"})) is None
    assert base_of(results, rows[2].model_copy(update={"base_id": None})) is None


def test_seeds_of_one_configuration_are_one_entry_ranked_by_their_mean() -> None:
    def seeded(id_: str, label: str, skill: float, seed: int, value: int) -> Row:
        samples = ifeval_samples(skill, 60, seed=seed)
        return trial(
            id_, f"{label}, seed={seed}", 0.5, {"train.epochs": value, "seed": seed}, curves(1.0), seed=seed
        ).model_copy(update={"evals": {"ifeval": record_of("ifeval", id_, samples)}, "samples": {"ifeval": samples}})

    rows = [row("base0", "base", 0.2, n=60, is_base=True)]
    rows += [seeded("a0", "epochs=3", 0.95, 0, 3), seeded("a1", "epochs=3", 0.35, 1, 3)]
    rows += [seeded("b0", "epochs=4", 0.85, 0, 4), seeded("b1", "epochs=4", 0.85, 1, 4)]
    found = find(_results(rows))
    assert [entry.label for entry in found.ranking] == ["epochs=4", "epochs=3"]
    one, other = (row.metric(STRICT).value for row in found.ranking[1].rows)  # type: ignore[union-attr]
    assert found.ranking[1].value == pytest.approx((one + other) / 2)
    assert found.ranking[1].deviation == pytest.approx(abs(one - other) / math.sqrt(2))
    assert found.versus_base is not None
    assert found.versus_base.n == 59
    assert any("mean of 2 seeds" in sentence for sentence in found.verdict)


# -- evidence ----------------------------------------------------------------------------------------------------------


def test_the_verdict_against_the_base_is_paired_and_adjusted_for_the_number_of_trials() -> None:
    evidence = against_base(tuning_results())
    assert evidence["t3"].verdict == "better"
    assert evidence["t1"].verdict == "not separable"
    assert evidence["t3"].n == 119
    assert {found.tests for found in evidence.values()} == {5}
    assert "t5" not in evidence


def test_a_difference_that_is_clear_alone_is_not_separable_among_many() -> None:
    base = row("base0", "base", None, is_base=True)
    old = ifeval_samples(0.0, 60)
    new = [dict(sample, scores={STRICT: {"sum": int(i < 7), "count": 1}}) for i, sample in enumerate(old)]
    base = base.model_copy(update={"evals": {"ifeval": record_of("ifeval", "base0", old)}, "samples": {"ifeval": old}})
    given = {"evals": {"ifeval": record_of("ifeval", "t", new)}, "samples": {"ifeval": new}}
    alone = trial("t", "t", None, {"x": 0}, curves(1.0), **given)
    assert against_base(_results([base, alone]))["t"].verdict == "better"
    same = {"evals": {"ifeval": record_of("ifeval", "s", old)}, "samples": {"ifeval": old}}
    others = [trial(f"s{i}", f"s{i}", None, {"x": i + 1}, curves(1.0), **same) for i in range(9)]
    crowded = against_base(_results([base, alone, *others]))["t"]
    assert crowded.verdict == "not separable"
    assert crowded.tests == 10
    assert "after Holm over 10" in find(_results([base, alone, *others])).verdict[0]


def test_worse_is_said_in_the_direction_of_the_objective() -> None:
    down = _changed(tuning_results(), "base0", **_score(0.9, "base0"))
    assert against_base(down)["t1"].verdict == "worse"
    assert against_base(masking_results())["m1"].verdict == "better"
    flipped = masking_results().model_copy(update={"objective": Objective(metric="perplexity/user", direction="max")})
    assert against_base(flipped)["m1"].verdict == "worse"


def _score(skill: float, id_: str, n: int = 120) -> dict[str, Any]:
    samples = ifeval_samples(skill, n)
    return {"evals": {"ifeval": record_of("ifeval", id_, samples)}, "samples": {"ifeval": samples}}


def test_without_samples_the_difference_is_given_and_called_not_comparable() -> None:
    results = _changed(tuning_results(n=40), "base0", samples={})
    found = find(results)
    assert found.versus_base is not None
    assert found.versus_base.verdict == "not comparable"
    assert found.versus_base.low is None
    assert found.versus_base.difference == pytest.approx(found.best.value - found.base_value)  # type: ignore
    assert "how sure that is cannot be said" in found.verdict[0]


def test_the_lead_over_the_runner_up_is_called_not_separable_where_it_is() -> None:
    rows = [
        row("base0", "base", 0.2, is_base=True),
        trial("a", "a", 0.800, {"x": 1}, curves(1.0)),
        trial("b", "b", 0.805, {"x": 2}, curves(1.0)),
    ]
    found = find(_results(rows))
    assert found.versus_runner_up is not None
    assert found.versus_runner_up.verdict == "not separable"
    assert any("not separable from zero" in sentence for sentence in found.verdict)


def test_an_objective_from_training_needs_no_eval() -> None:
    results = tuning_results(n=40, objective=Objective(metric="train/loss", direction="min"))
    found = find(results)
    assert found.best is not None
    assert found.best.row.id == "t4"
    assert "there is no base value" in found.verdict[0]


def test_a_sweep_without_a_finished_trial_says_so() -> None:
    rows = [r.model_copy(update={"evals": {}, "samples": {}, "state": State.FAILED}) for r in tuning_results().rows]
    found = find(_results(rows))
    assert found.best is None
    assert "There is no answer yet" in found.verdict[0]
    assert "6 trials failed" in found.verdict[0]
    assert find(_results([])).best is None


# -- target ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "goal, direction, verdict",
    [
        (0.22, "max", "met"),
        (22, "max", "met"),
        (0.99, "max", "missed"),
        (0.80, "max", "missed, not surely"),
        (0.72, "max", "met, not surely"),
        (0.01, "min", "missed"),
        (0.9, "min", "met"),
    ],
)
def test_the_target_is_met_surely_only_where_the_interval_leaves_it(goal: float, direction: Any, verdict: str) -> None:
    results = tuning_results(objective=Objective(metric=STRICT, direction=direction, target=goal))
    found = find(results)
    assert found.target is not None
    assert found.target.verdict == verdict


def test_a_share_of_independent_items_has_an_interval_at_its_borders_too() -> None:
    low, high = bounds(STRICT, MetricRecord(value=1.0, direction="max", n=50, stderr=0.0))  # type: ignore[misc]
    assert high == 1.0
    assert low == pytest.approx(0.9287, abs=1e-3)
    assert bounds(STRICT, MetricRecord(value=0.5, direction="max", n=50)) is None
    assert target(Objective(metric="perplexity/user", direction="min", target=22)) == 22


# -- curves ------------------------------------------------------------------------------------------------------------


def test_curves_are_judged_by_the_stated_rule() -> None:
    found = {id_: fit.kind for id_, fit in fits(tuning_results(n=20)).items()}
    assert found == {
        "t0": "underfitting",
        "t1": "underfitting",
        "t2": "balanced",
        "t3": "balanced",
        "t4": "overfitting",
    }


def test_a_held_out_rise_with_rising_training_loss_is_divergence_not_overfitting() -> None:
    train = curves(0.5, [1.0, 0.8, 1.5])
    for point in train["steps"]:
        point["loss"] = 1.0 + point["epoch"]
    results = _results([trial("t", "t", None, {}, train)])
    assert fits(results)["t"].kind == "diverged"


def test_a_loss_that_is_no_number_is_divergence_and_no_held_out_loss_is_no_verdict() -> None:
    for spoilt in (math.nan, None):
        train = curves(0.5)
        train["steps"][7]["loss"] = spoilt
        assert fits(_results([trial("t", "t", None, {}, train)]))["t"].kind == "diverged"
    assert fits(_results([trial("t", "t", None, {}, curves(0.5, []))]))["t"].kind == "unknown"


def test_losses_over_other_tokens_are_not_compared() -> None:
    slow, fast = curves(1.5, [1.9, 1.7, 1.69]), curves(0.4, [0.9, 0.6, 0.6])
    same = _results([trial("a", "a", None, {}, slow), trial("b", "b", None, {"x": 1}, fast)])
    assert fits(same)["a"].kind == "underfitting"
    other = settings()
    other["data"] = {**other["data"], "train_on": "user"}
    apart = _changed(same, "b", settings=other, overrides={"data.train_on": "user"})
    assert fits(apart)["a"].kind == "balanced"


def test_an_epochs_training_loss_weighs_steps_by_their_targets() -> None:
    steps = [
        {"step": 1, "epoch": 0.5, "loss": 2.0, "targets": 30},
        {"step": 2, "epoch": 1.0, "loss": 1.0, "targets": 10},
        {"step": 3, "epoch": 1.5, "loss": 0.5, "targets": 10},
    ]
    results = trial("t", "t", None, {}, {"steps": steps})
    assert epoch_losses(results) == [(1.0, pytest.approx(1.75)), (1.5, pytest.approx(0.5))]


# -- axes --------------------------------------------------------------------------------------------------------------


def test_one_at_a_time_compares_each_value_with_the_baseline() -> None:
    results = tuning_results()
    found = {item.axis: item for item in effects(results)}
    rate = found["train.learning_rate"]
    assert rate.reference == 2e-5
    assert [(point.value, point.evidence.verdict) for point in rate.points] == [(2.5e-6, "worse"), (5e-5, "better")]
    assert rate.points[1].pairs == 1
    assert found["train.global_batch"].points == ()
    assert "no two finished trials" in found["train.global_batch"].reason


def _grid() -> Results:
    rows = [row("base0", "base", 0.2, is_base=True)]
    skill = {(1, "x"): 0.5, (1, "y"): 0.7, (2, "x"): 0.6, (2, "y"): 0.9}
    for (a, b), value in skill.items():
        rows.append(trial(f"{a}{b}", f"a={a}, b={b}", value, {"lora.a": a, "lora.b": b}, curves(1.0)))
    return _results(rows, axes={"lora.a": [1, 2], "lora.b": ["x", "y"]})


def test_a_grid_gives_the_marginal_effect_over_matched_pairs() -> None:
    results = _grid()
    found = effect(results, "lora.b")
    assert len(found.points) == 1
    point = found.points[0]
    assert point.pairs == 2
    values = {row.id: row.metric(STRICT).value for row in results.rows}  # type: ignore[union-attr]
    assert point.score == pytest.approx((values["1y"] + values["2y"]) / 2)
    assert point.reference_score == pytest.approx((values["1x"] + values["2x"]) / 2)
    assert point.evidence.n == 119
    assert point.evidence.verdict == "better"


def test_a_trial_without_its_partner_stays_out_of_the_marginal_effect() -> None:
    results = _grid()
    results = results.model_copy(update={"rows": [row for row in results.rows if row.id != "2x"]})
    assert effect(results, "lora.b").points[0].pairs == 1


def test_a_random_search_gives_a_rank_correlation_where_no_trials_match() -> None:
    rows = [
        trial(str(i), str(i), 0.2 + i / 10, {"lora.a": i * i + 1, "lora.b": -i}, curves(1.0), n=60) for i in range(7)
    ]
    results = _results(rows, axes={"lora.a": [], "lora.b": []})
    assert "over 7 trials its rank correlation with the score is +1.00 (p < 0.001)" in effect(results, "lora.a").reason
    assert "−1.00" in effect(results, "lora.b").reason
    few = results.model_copy(update={"rows": rows[:4]})
    assert effect(few, "lora.a").reason == "no two finished trials differ in it alone"


def test_only_trials_that_differ_in_several_axes_make_a_grid() -> None:
    assert not is_grid(tuning_results(n=20))
    assert is_grid(_grid())
    assert is_grid(_grid().model_copy(update={"baseline_id": "1x"}))


def test_a_trial_of_another_method_beside_the_axes_tells_nothing_of_them() -> None:
    rows = [
        row("base0", "base", 0.2, is_base=True),
        trial("a", "baseline", 0.5, {}, curves(1.0)),
        trial("b", "rank=2", 0.6, {"qlora.rank": 2}, curves(1.0)),
        trial("c", "LoRA", 0.9, {"method": "lora"}, curves(1.0)),
    ]
    results = _results(rows, axes={"qlora.rank": [8, 2], "qlora.bits": [4]}).model_copy(update={"baseline_id": "a"})
    for place, rank in ((1, 8), (2, 2)):
        results.rows[place].settings["blocks"] = {"qlora": {"rank": rank, "bits": 4}}
    assert not is_grid(results)
    assert axis_values(results, "qlora.rank") == [8, 2]
    assert [point.value for point in effect(results, "qlora.rank").points] == [2]


def test_trials_are_paired_seed_by_seed() -> None:
    rows = [
        trial(f"{value}{seed}", "x", 0.4 + value / 10 + seed / 5, {"lora.a": value}, curves(1.0), seed=seed)
        for value, seed in ((1, 0), (1, 1), (2, 1))
    ]
    for order in (rows, [rows[1], rows[0], rows[2]]):
        point = effect(_results(order, axes={"lora.a": [1, 2]}), "lora.a").points[0]
        assert point.pairs == 1
        assert point.reference_score == rows[1].metric(STRICT).value  # type: ignore[union-attr]


def test_values_that_move_together_are_one_axis() -> None:
    rows = [
        trial(f"r{rank}", f"rank={rank}", skill, {"lora.rank": rank, "lora.alpha": 2 * rank}, curves(1.0))
        for rank, skill in ((8, 0.4), (16, 0.8))
    ]
    results = _results(rows, axes={"lora.rank, lora.alpha": [[8, 16], [16, 32]]})
    found = effect(results, "lora.rank, lora.alpha")
    assert found.reference == [8, 16]
    assert [(point.value, point.pairs) for point in found.points] == [([16, 32], 1)]


def test_one_and_one_point_zero_are_one_value_and_true_is_another() -> None:
    rows = [trial(str(i), str(i), 0.5, {"lora.a": value}, curves(1.0)) for i, value in enumerate((1, 1.0, True))]
    assert axis_values(_results(rows, axes={"lora.a": [1]}), "lora.a") == [1, True]


def test_a_list_of_trials_has_no_axes_and_still_a_ranking() -> None:
    results = masking_results()
    assert effects(results) == []
    assert [entry.label for entry in entries(results)] == ["assistant", "user"]
    assert find(results).best.label == "user"  # type: ignore[union-attr]


# -- answers -----------------------------------------------------------------------------------------------------------


def _sample(key: str, strict: list[bool], names: list[str] | None = None, **fields: Any) -> dict[str, Any]:
    names = names or list(TYPES[: len(strict)])
    instructions = [{"id": n, "kwargs": {}, "strict": s, "loose": s} for n, s in zip(names, strict, strict=True)]
    base = {"key": key, "prompt": f"p{key}", "answer": f"a{key}", "paired": True, "strict": all(strict)}
    return {**base, "instructions": instructions, "scores": {}, **fields}


def _with(id_: str, samples: list[dict[str, Any]]) -> Row:
    return row(id_, id_, None, samples={"ifeval": samples})


def test_changed_prompts_name_the_instructions_that_flipped() -> None:
    base = _with("b", [_sample("1", [True, False]), _sample("2", [True]), _sample("3", [True])])
    after = _with("t", [_sample("1", [True, True]), _sample("2", [False]), _sample("3", [True])])
    first, second = changed_prompts(base, after)
    assert (first.key, first.gained) == ("1", True)
    assert [(flip.instruction, flip.now_followed) for flip in first.flips] == [(TYPES[1], True)]
    assert (second.key, second.gained) == ("2", False)


def test_prompts_whose_verdict_cannot_repeat_are_not_shown() -> None:
    base, after = _with("b", [_sample("1", [False], paired=False)]), _with("t", [_sample("1", [True], paired=False)])
    assert changed_prompts(base, after) == []
    assert type_gains(base, after) == []


def test_both_directions_are_shown_where_there_are_both_and_types_vary() -> None:
    names = ["a", "a", "b", "c", "d"]
    before = [False, False, False, False, True]
    base = _with("b", [_sample(str(i), [v], [n]) for i, (n, v) in enumerate(zip(names, before, strict=True))])
    after = _with("t", [_sample(str(i), [not v], [n]) for i, (n, v) in enumerate(zip(names, before, strict=True))])
    assert [item.key for item in choose(changed_prompts(base, after))] == ["0", "2", "4"]
    assert [item.key for item in choose(changed_prompts(after, base))] == ["4", "0", "2"]
    only = changed_prompts(base, after)[:2]
    assert [item.key for item in choose(only)] == ["0", "1"]
    assert choose([]) == []


def test_instruction_types_are_ordered_by_gain() -> None:
    base = _with("b", [_sample("1", [False, True]), _sample("2", [False, True])])
    after = _with("t", [_sample("1", [True, False]), _sample("2", [True, True])])
    found = type_gains(base, after)
    assert [(item.type, item.n, item.base, item.best) for item in found] == [(TYPES[0], 2, 0, 2), (TYPES[1], 2, 2, 1)]
    assert [item.gain for item in found] == [1.0, -0.5]
    assert not found[0].still_failing


def test_type_and_count_tables_show_loose_beside_strict() -> None:
    old, new = _sample("1", [False, True]), _sample("1", [False, True])
    old |= {"strict": False, "loose": False}
    new |= {"strict": False, "loose": True}
    new["instructions"][0] |= {"loose": True}
    base, after = _with("b", [old]), _with("t", [new])
    types = types_table(type_gains(base, after))
    heads = [column.name for column in types.columns]
    assert heads[2:6] == ["base strict", "base loose", "best strict", "best loose"]
    shown = {str(line[0]): line[2:6] for line in types.rows}
    assert shown[TYPES[0]] == ("0 (0 %)", "0 (0 %)", "0 (0 %)", "1 (100 %)")
    counts = counts_table(count_gains(base, after))
    assert counts.rows == (("2", "1", "0 (0 %)", "0 (0 %)", "0 (0 %)", "1 (100 %)"),)


def test_next_turns_stand_beside_the_real_one() -> None:
    turn = next_turns(masking_results().rows)[0]
    assert turn.reference == "the real turn 0"
    assert [label for label, _ in turn.answers] == ["base", "assistant", "user"]


def test_the_base_stands_beside_the_trials_on_prompts_without_a_real_turn_and_evals_are_not_mixed() -> None:
    rows = masking_results().rows[:2]
    for model in rows:
        (name,) = [name for name, samples in model.samples.items() if any("reference" in sample for sample in samples)]
        for sample in model.samples[name]:
            sample["reference"] = None
        model.samples["other"] = [{**sample, "answer": f"other {model.label}"} for sample in model.samples[name]]
    turn, *rest = next_turns(rows, many=1000)
    assert turn.reference is None
    assert [label for label, _ in turn.answers] == ["base", "assistant"]
    assert all(len({text.startswith("other") for _, text in found.answers}) == 1 for found in (turn, *rest))


def test_every_metric_of_base_and_best_is_compared() -> None:
    results = tuning_results(n=40)
    lines = improvements(results, find(results))
    assert lines[0][0] == STRICT
    assert len(lines) == 4
    assert all(evidence is not None and evidence.n == 39 for *_, evidence in lines)
