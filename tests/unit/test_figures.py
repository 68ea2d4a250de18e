"""The charts: what they draw, that they follow the records, and that they stay small and harmless."""

import re
import xml.etree.ElementTree as ElementTree

import pytest
from results_fixture import STRICT, curves, masking_results, trial, tuning_results

from orchestrator.show import curves as training
from orchestrator.show import figures
from orchestrator.show.answers import type_gains
from orchestrator.show.findings import find
from orchestrator.show.svg import Figure, smoothed, thinned


def _all() -> list[Figure]:
    results = tuning_results(n=40)
    found = find(results)
    made = [
        training.loss_curves(results, found),
        training.lr_curves(results),
        figures.base_and_best(results, found),
        figures.type_chart(type_gains(results.rows[0], found.best.row)),  # type: ignore[union-attr]
        *(figures.axis_scores(results, axis) for axis in results.axes),
    ]
    return [figure for figure in made if figure is not None]


@pytest.fixture(scope="module")
def charts() -> list[Figure]:
    return _all()


def test_every_chart_is_well_formed_svg_with_words_for_it(charts: list[Figure]) -> None:
    assert [figure.name for figure in charts] == [
        "loss",
        "lr",
        "base-best",
        "types",
        "axis-learning-rate",
        "axis-epochs",
        "axis-lr-schedule",
    ]
    for figure in charts:
        root = ElementTree.fromstring(figure.svg)
        assert root.attrib["aria-label"] == figure.alt
        assert len(figure.alt) > 40
        assert figure.caption.endswith(".")


def test_charts_fetch_nothing_and_share_no_id(charts: list[Figure]) -> None:
    ids: list[str] = []
    for figure in charts:
        links = re.findall(r'(?:href|src)="([^"]*)"|url\(([^)]*)\)', figure.svg)
        assert all((a or b).startswith("#") for a, b in links)
        ids += re.findall(r'\bid="([^"]*)"', figure.svg)
        assert all((a or b).removeprefix("#") in ids for a, b in links)
    assert len(ids) == len(set(ids))


def test_charts_follow_the_pages_colours_and_stand_alone_on_white(charts: list[Figure]) -> None:
    for figure in charts:
        assert "currentColor" in figure.svg
        assert "#010203" not in figure.svg
        assert "background: #ffffff" in figure.standalone()
        ElementTree.fromstring(figure.standalone())


def test_the_same_results_give_the_same_bytes(charts: list[Figure]) -> None:
    assert [figure.svg for figure in _all()] == [figure.svg for figure in charts]


def test_the_loss_chart_names_each_trial_with_its_verdict(charts: list[Figure]) -> None:
    for words in ("lr_schedule=linear", "overfitting", "epochs=4", "balanced"):
        assert f">{words}</text>" in charts[0].svg
    assert "epochs=4: training loss" in charts[0].alt
    assert "global_batch=256" not in charts[0].alt


def test_trials_with_the_same_learning_rate_curve_share_a_line(charts: list[Figure]) -> None:
    assert "baseline and 2 more" in charts[1].svg


def test_a_learning_rate_axis_is_logarithmic_and_ticked_at_its_values(charts: list[Figure]) -> None:
    for tick in ("2.5e-6", "2e-5", "5e-5"):
        assert f">{tick}</text>" in charts[4].svg


def test_an_axis_of_names_is_ticked_by_name(charts: list[Figure]) -> None:
    assert ">linear</text>" in charts[6].svg
    assert "cosine: 45.0 %" in charts[6].alt or "cosine: " in charts[6].alt


def test_an_axis_chart_of_one_at_a_time_draws_the_trials_that_differ_in_it_alone() -> None:
    chart = figures.axis_scores(tuning_results(n=40), "train.learning_rate")
    assert chart is not None
    scores = {row.id: row.metric(STRICT).value for row in tuning_results(n=40).rows if row.evals}  # type: ignore
    assert f"2e-5: {100 * scores['t0']:.1f} %" in chart.alt
    assert f"5e-5: {100 * scores['t2']:.1f} %" in chart.alt


def test_an_axis_with_one_scored_value_is_not_drawn() -> None:
    assert figures.axis_scores(tuning_results(n=20), "train.global_batch") is None


def test_labels_are_drawn_as_they_stand_even_where_they_look_like_formulas_or_tags() -> None:
    results = tuning_results(n=20)
    results.rows[4].label = "$x_1$</text><script>1</script>"
    svg = training.loss_curves(results, find(results)).svg  # type: ignore[union-attr]
    ElementTree.fromstring(svg)
    assert "<script>" not in svg
    assert ">$x_1$&lt;/text&gt;" in svg


def test_long_runs_of_many_trials_stay_small() -> None:
    results = tuning_results(n=20)
    results.rows += [trial(f"x{i}", f"x{i}", 0.5, {"x": i}, curves(0.5 + i / 100, steps=4000), n=20) for i in range(20)]
    found = find(results)
    loss, rate = training.loss_curves(results, found), training.lr_curves(results)
    assert loss is not None
    assert rate is not None
    assert len(loss.svg) < 500_000
    assert len(rate.svg) < 200_000
    assert "12 best of 25 trials" in loss.caption


def test_without_records_there_is_no_chart() -> None:
    results = masking_results()
    bare = results.model_copy(update={"rows": [row.model_copy(update={"train": {}}) for row in results.rows]})
    assert training.loss_curves(bare, find(bare)) is None
    assert training.lr_curves(bare) is None
    assert figures.type_chart([]) is None
    empty = results.model_copy(update={"rows": []})
    assert figures.base_and_best(empty, find(empty)) is None


def test_a_perplexity_is_drawn_in_its_own_unit() -> None:
    results = masking_results()
    figure = figures.base_and_best(results, find(results))
    assert figure is not None
    assert "per cent" not in figure.svg
    assert "perplexity of user turns: base 7.394, best 3.322" in figure.alt


def test_thinning_keeps_the_ends_and_the_mean() -> None:
    xs, ys = list(range(10_000)), [float(x) for x in range(10_000)]
    few_x, few_y = thinned(xs, ys, 100)
    assert len(few_x) == 100
    assert (few_x[-1], few_y[-1]) == (9999, 9999.0)
    assert few_x == pytest.approx(few_y)
    assert thinned([1, 2], [3, 4]) == ([1, 2], [3, 4])


def test_a_running_mean_is_shorter_at_the_ends() -> None:
    assert smoothed([0.0, 3.0, 6.0, 3.0], 3) == [1.5, 3.0, 4.0, 4.5]
    assert smoothed([1.0, 2.0], 1) == [1.0, 2.0]
