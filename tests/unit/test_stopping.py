"""When a training has stopped getting better."""

import math

import pytest

from trainables._gradients import MOST_PARTS, before_clipping, part_of, parts_of, recorded
from trainables.core.stopping import judge


@pytest.mark.parametrize("values, patience, threshold, best, since, stop", [
    ([], 1, 0.0, None, 0, False),
    ([3, 2, 1], 1, 0.0, 2, 0, False),
    ([3, 2, 2], 1, 0.0, 1, 1, True),
    ([3, 2, 2.5, 1.9], 2, 0.0, 3, 0, False),
    ([3, 2, 2.5, 2.1], 2, 0.0, 1, 2, True),
    ([3, 2, 9, 9, 9], None, 0.0, 1, 3, False),
    # Creeping by less than the threshold is no progress, though the last is the best.
    ([3, 2.95, 2.9, 2.85], 2, 0.2, 3, 3, True),
    ([3, 2.95, 2.7], 2, 0.2, 2, 0, False),
    ([math.nan, math.nan], 2, 0.0, None, 2, True),
    ([math.nan, 3, math.inf], 2, 0.0, 1, 1, False),
])  # fmt: skip
def test_patience_counts_measurements_that_are_not_better(values, patience, threshold, best, since, stop):
    found = judge(values, patience=patience, threshold=threshold)
    assert (found.best, found.since, found.stop) == (best, since, stop)
    assert bool(found.reason) == stop
    turned = judge([-value for value in values], direction="max", patience=patience, threshold=threshold)
    assert (turned.best, turned.since, turned.stop) == (best, since, stop)


def test_the_judgement_of_a_part_is_that_of_the_whole_then():
    values = [5, 4, 4.5, 4.2, 3, 3.1, 3.2, 3.3]
    stops = [judge(values[:count], patience=3).stop for count in range(len(values) + 1)]
    assert stops == [False] * 8 + [True]


@pytest.mark.parametrize("name, part, layer", [
    ("model.layers.3.self_attn.q_proj.weight", "layers.3.self_attn", "layers.3"),
    ("base_model.model.model.layers.11.mlp.up_proj.lora_A.default.weight", "layers.11.mlp", "layers.11"),
    ("module.model.layers.0.input_layernorm.weight", "layers.0.input_layernorm", "layers.0"),
    ("transformer.h.2.attn.c_attn.bias", "h.2.attn", "h.2"),
    ("base_model.model.lm_head.modules_to_save.default.weight", "lm_head", "lm_head"),
    ("model.embed_tokens.weight", "embed_tokens", "embed_tokens"),
    ("model.norm.weight", "norm", "norm"),
])  # fmt: skip
def test_a_weight_belongs_to_a_block_of_its_layer(name, part, layer):
    assert part_of(name) == part
    assert part_of(name, by_layer=True) == layer


def test_a_model_of_many_parts_is_told_by_layer():
    names = [f"model.layers.{n}.{block}.weight" for n in range(MOST_PARTS) for block in ("a.x", "b.y")]
    assert len(set(parts_of(names).values())) == MOST_PARTS
    assert len(set(parts_of(names[:40]).values())) == 40


def test_norms_are_scaled_back_to_what_they_were_before_clipping():
    assert before_clipping({"a": 0.3, "b": 0.4}, 5.0) == {"a": 3.0, "b": 4.0}
    assert before_clipping({"a": 0.3}, None) == {"a": 0.3}
    assert before_clipping({"a": 0.0}, 0.0) == {"a": 0.0}
    assert math.isinf(before_clipping({"a": math.inf, "b": 1.0}, math.inf)["a"])


def test_a_norm_that_is_not_finite_is_told_from_one_that_is_not_given():
    found = [recorded(norm) for norm in (1.5, None, float("inf"), float("nan"))]
    assert found == [1.5, None, "inf", "nan"]
