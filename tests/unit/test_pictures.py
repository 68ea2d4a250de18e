"""The charts of one trial: what they are drawn from, whether their colours are honest, and their two forms."""

import io
import math

import pytest

from orchestrator.record.records import Row
from orchestrator.show.bars import drop_bars, drop_names
from orchestrator.show.heatmaps import attention_maps, layers_and_kinds, moved_maps, sink_maps
from orchestrator.show.pictures import eval_pictures, training_pictures
from orchestrator.show.profiles import gradient_profile, likeness_profiles, mean_gradients, norm_profiles
from tests.unit.analysis_fixture import (
    analysed,
    analysis_record,
    attention_tables,
    position_gradients,
    weights_moved,
)

BASE = attention_tables(0.7, seed=1)
TRIAL = attention_tables(0.2, seed=2, norm=0.4, base=BASE)


def images(figure):
    return [image for axes in figure.canvas.axes for image in axes.images]


def test_base_and_trial_share_one_scale_from_zero_and_the_difference_is_white_at_zero():
    base, trial, difference = images(sink_maps(TRIAL, "BOS-zero", "sink"))
    assert base.get_clim() == trial.get_clim()
    assert base.get_clim()[0] == 0.0
    assert base.get_clim()[1] == max(value for line in BASE["alpha"] for value in line)
    low, high = difference.get_clim()
    assert low == -high < 0
    assert difference.get_array()[3, 0] == pytest.approx(TRIAL["alpha"][3][0] - BASE["alpha"][3][0])
    assert max(difference.cmap(difference.norm(0.0))) == pytest.approx(1.0, abs=0.01)


def test_without_a_base_the_trial_stands_alone():
    alone = {key: value for key, value in TRIAL.items() if key != "base"}
    assert len(images(sink_maps(alone, "t", "sink"))) == 1
    assert len(images(attention_maps(alone, "t", "maps"))) == 2
    assert norm_profiles(alone, "t", "norms") is not None
    other = {**TRIAL, "base": attention_tables(layers=2)}
    assert len(images(sink_maps(other, "t", "sink"))) == 1, "a base of another shape is no base to compare with"


def test_layers_may_differ_in_their_heads():
    uneven = {"alpha": [[0.1, 0.2, 0.3], [0.4]], "texts": 2}
    values = images(sink_maps(uneven, "t", "sink"))[0].get_array()
    assert values.shape == (2, 3)
    assert values[1, 0] == 0.4
    assert math.isnan(values.filled(math.nan)[1, 2])


def test_a_key_that_a_query_cannot_see_is_blank_and_not_a_weight_of_zero():
    first = images(attention_maps(TRIAL, "t", "maps"))[0].get_array()
    assert math.isnan(first.filled(math.nan)[0, 1])
    assert first[5, 0] == pytest.approx(BASE["maps"]["0.0"][5][0])


def test_weights_that_moved_are_put_together_by_layer_and_kind():
    moved = [
        {"module": "a", "layer": 1, "kind": "up", "relative": 0.3},
        {"module": "b", "layer": 1, "kind": "up", "relative": 0.4},
        {"module": "c", "layer": 0, "kind": "q", "relative": 0.1},
        {"module": "n", "layer": 0, "kind": "norm", "relative": 0.0},
        {"module": "x", "layer": 1, "kind": "k", "relative": math.nan},
        {"module": "y", "layer": 1, "kind": "v", "relative": None},
        {"module": "e", "layer": None, "kind": "embed", "relative": 0.9},
    ]
    layers, kinds, values = layers_and_kinds(moved)
    assert (layers, kinds) == ([0, 1], ["q", "up"])
    assert values[0] == [0.1, None]
    assert values[1][1] == pytest.approx(math.sqrt((0.09 + 0.16) / 2))
    assert layers_and_kinds([]) == ([], [], [])
    assert moved_maps([("t", [])], "moved") is None


def test_maps_of_several_trials_share_one_scale():
    found = images(moved_maps([("a", weights_moved(1)), ("b", weights_moved(2, 0.1))], "moved"))
    assert len({image.get_clim() for image in found}) == 1
    assert "q of layer 2 moved furthest" in moved_maps([("b", weights_moved(2))], "moved").alt


def test_a_gradient_that_does_not_arrive_is_told_from_a_small_one():
    figure = gradient_profile(position_gradients(0.0), "BOS-zero", "gradients")
    assert "embedding: exactly 0 at position 0" in figure.alt
    assert "exactly 0 at position 0" not in gradient_profile(position_gradients(1e-9), "t", "gradients").alt
    assert gradient_profile({}, "t", "gradients") is None
    entries = [{"step": 1, "norms": [[1.0, None]]}, {"step": 2, "norms": [[3.0, None]]}]
    assert mean_gradients(entries) == [[2.0, None]]


def test_likeness_is_drawn_where_it_was_measured():
    figure = likeness_profiles(
        {"cosine": {"position 0": [0.2, 0.5]}, "CKA": {"elsewhere": [], "position 0": [None, None]}}, "t", "likeness"
    )
    assert "cosine at position 0 falls to 0.200" in figure.alt
    assert "CKA" not in figure.alt, "what has no value anywhere has no panel"
    assert likeness_profiles({}, "t", "likeness") is None


def test_pictures_are_png_and_an_eval_without_charts_has_none():
    from PIL import Image

    row = Row(id="t1", label="a [strange] label_$x$", train=position_gradients())
    found = eval_pictures(row, analysis_record("attention", "t1", [], TRIAL))
    assert set(found) == {"sink.png", "maps.png", "norms.png"}
    for content in [*found.values(), *training_pictures(row).values()]:
        picture = Image.open(io.BytesIO(content))
        assert picture.format == "PNG"
        assert picture.convert("RGB").getpixel((1, 1)) == (255, 255, 255)
    assert eval_pictures(row, analysis_record("ifeval", "t1", [], {"by_type": {}})) == {}
    assert training_pictures(Row(id="t1", label="a")) == {}


def test_what_a_changed_input_costs_is_drawn_with_its_interval():
    row = analysed("t1", "plain", 0.5, {"drop_first": 0.3, "shift_1": -0.01}, 2.0)
    assert set(eval_pictures(row, row.evals["robustness"])) == {"drops.png"}
    figure = drop_bars([row], "drops")
    assert "plain under a dropped first token 0." in figure.alt
    heights = [patch.get_height() for patch in figure.canvas.axes[0].patches]
    assert heights == pytest.approx([row.metric(name).value for name in drop_names(row.evals["robustness"].metrics)])
    assert drop_bars([Row(id="t2", label="b")], "drops") is None
    assert drop_names(["robustness/perplexity_all_bits_per_byte_drop_first_drop", "robustness/x_none"]) == []


def test_drawing_twice_gives_the_same_bytes_and_one_name_in_a_report():
    one, two = (sink_maps(TRIAL, "t", "sink-t1") for _ in range(2))
    assert one.svg == two.svg
    assert one.name == "sink-t1"
