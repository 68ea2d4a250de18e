"""Which layers an adapter goes on: names and sizes in, names and counts out."""

import pytest

from orchestrator.decide.plan import make_plan
from orchestrator.errors import SweepFileError
from orchestrator.record.shapes import shapes
from orchestrator.registry import installed
from tests.unit.sweep_stand_ins import SIZES as SIZES_OF_ALL
from tests.unit.sweep_stand_ins import Catalogue, read
from trainables import lora, qlora
from trainables.core.adapters import lora_parameters, resolve, targets_of
from trainables.core.footprint import Linear

LLAMA = {
    f"model.layers.{layer}.{group}.{name}": shape
    for layer in range(3)
    for group, name, shape in [
        ("self_attn", "q_proj", (8, 8)),
        ("self_attn", "k_proj", (4, 8)),
        ("self_attn", "v_proj", (4, 8)),
        ("self_attn", "o_proj", (8, 8)),
        ("mlp", "gate_proj", (16, 8)),
        ("mlp", "up_proj", (16, 8)),
        ("mlp", "down_proj", (8, 16)),
    ]
}
TABLES = {"model.embed_tokens": (32, 8), "lm_head": (32, 8)}
PHI3 = {
    f"model.layers.{layer}.{name}": (8, 8)
    for layer in range(2)
    for name in ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
}
GPT2 = {
    f"transformer.h.{layer}.{name}": (8, 8)
    for layer in range(2)
    for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
}
OPT = {
    f"model.decoder.layers.0.{name}": (8, 8)
    for name in ("self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj", "fc1", "fc2")
}
FALCON = {
    f"transformer.h.0.{name}": (8, 8)
    for name in ("self_attention.query_key_value", "self_attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
}
GUIDE = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.mark.parametrize(
    "linear, attention, mlp",
    [
        (LLAMA, ("k_proj", "o_proj", "q_proj", "v_proj"), ("down_proj", "gate_proj", "up_proj")),
        (PHI3, ("o_proj", "qkv_proj"), ("down_proj", "gate_up_proj")),
        (GPT2, ("attn.c_attn", "attn.c_proj"), ("mlp.c_fc", "mlp.c_proj")),
        (OPT, ("k_proj", "out_proj", "q_proj", "v_proj"), ("fc1", "fc2")),
        (FALCON, ("dense", "query_key_value"), ("dense_4h_to_h", "dense_h_to_4h")),
    ],
    ids=["llama", "phi-3", "gpt-2", "opt", "falcon"],
)
def test_attention_and_mlp_are_what_the_architecture_calls_so(linear, attention, mlp):
    assert resolve("attention", linear, TABLES).names == attention
    assert resolve("mlp", linear, TABLES).names == mlp
    both = {*resolve("attention", linear, TABLES).modules, *resolve("mlp", linear, TABLES).modules}
    assert both == set(resolve("all-linear", linear, TABLES).modules) == set(linear)


def test_names_that_match_nothing_are_refused_with_the_linear_modules_there_are():
    with pytest.raises(ValueError) as error:
        resolve(GUIDE, PHI3, TABLES, key="qlora")
    text = str(error.value)
    assert text.startswith("qlora.targets: no module is called q_proj, k_proj, v_proj, gate_proj, up_proj (got ")
    assert "The linear modules are qkv_proj, o_proj, gate_up_proj, down_proj." in text


@pytest.mark.parametrize(
    "wanted, message",
    [
        ("q_proj", "no full name of a module matches it"),
        ("mlpp", "no full name of a module matches it"),
        ("(", "is no regular expression"),
        ([], "must name a module"),
        (["*_norm"], "no module is called \\*_norm"),
        (["proj"], "no module is called proj"),
    ],
)
def test_what_means_nothing_is_refused(wanted, message):
    with pytest.raises(ValueError, match=message):
        resolve(wanted, LLAMA, TABLES)


def test_names_wildcards_and_patterns_choose_modules():
    assert resolve(["q_proj", "mlp.up_proj"], LLAMA).names == ("q_proj", "up_proj")
    assert resolve(["*_proj"], LLAMA).modules == tuple(LLAMA)
    assert resolve(["?_proj"], LLAMA).names == ("k_proj", "o_proj", "q_proj", "v_proj")
    assert resolve(r".*\.(q|v)_proj", LLAMA).names == ("q_proj", "v_proj")
    assert resolve(["c_proj"], GPT2).names == ("c_proj",)
    assert resolve(["lm_head"], LLAMA, TABLES).modules == ("lm_head",)
    assert resolve(r".*\.1\..*q_proj", LLAMA).names == ("model.layers.1.self_attn.q_proj",)


def test_layers_keep_an_adapter_to_some_of_the_layers():
    some = resolve("attention", LLAMA, TABLES, [0, 2])
    assert some.layers == (0, 2)
    assert some.names == ("k_proj", "o_proj", "q_proj", "v_proj")
    assert {name.split(".")[2] for name in some.modules} == {"0", "2"}
    assert resolve("attention", LLAMA, TABLES, [0, 1, 2]).layers is None
    with pytest.raises(ValueError, match=r"lora\.layers: the model has no such layer \(got \[3\]\)\. Its .* 0 to 2"):
        resolve("attention", LLAMA, TABLES, [0, 3])


def test_parameters_of_a_lora_follow_from_shapes():
    assert lora_parameters(resolve(["k_proj"], LLAMA), LLAMA, rank=2) == 3 * 2 * (4 + 8)
    assert lora_parameters(resolve(["k_proj"], LLAMA), LLAMA, rank=2, dora=True) == 3 * (2 * (4 + 8) + 4)


def test_a_model_of_unknown_modules_is_not_judged():
    assert targets_of(None, {"parameters": 7}, "lora") is None


SIZES = {
    **SIZES_OF_ALL,
    "parameters": 3 * (8 * 8 * 2 + 4 * 8 * 2 + 3 * 16 * 8) + 32 * 8,
    "linear_paths": {name: list(shape) for name, shape in LLAMA.items()},
    "table_paths": {name: list(shape) for name, shape in TABLES.items()},
}


def test_what_trains_and_what_the_base_weighs_follow_from_shapes():
    config = lora.Config(rank=2, targets=["q_proj"], modules_to_save=["lm_head"])
    found = lora.footprint(config, SIZES, "bfloat16")
    assert found.trainable == found.added == 3 * 2 * 16 + 32 * 8
    assert found.weight_bytes == 2 * SIZES["parameters"]
    assert (found.rank, found.adapted, found.quantized) == (2, (Linear("q_proj", 8, 8, 3),), False)
    with pytest.raises(ValueError, match=r"^qlora\.targets: no module is called qkv"):
        qlora.footprint(qlora.Config(targets=["qkv"]), SIZES, "float32")


def test_what_would_change_a_tied_table_is_refused_before_anything_is_loaded():
    config = lora.Config(rank=2, targets=["q_proj", "lm_head"], init="pissa")
    with pytest.raises(ValueError, match=r"^lora\.init: pissa changes the weights of its targets, and lm_head shares"):
        lora.footprint(config, {**SIZES, "tied": True}, "float32")
    assert lora.footprint(config, {**SIZES, "tied": False}, "float32").adapted


def test_the_type_that_bits_are_kept_in_moves_no_row():
    plans = [
        make_plan(read(f"method: qlora\nqlora: {{{block}}}\n", registry=installed()), Catalogue())
        for block in ("storage_dtype: bfloat16", "rank: 16", "quant_type: fp4")
    ]
    ids = [[row.id for row in (*plan.bases, *plan.trials)] for plan in plans]
    assert len(ids[0]) == 3
    assert ids[0] == ids[1]
    assert ids[0][0] == ids[2][0]
    assert not set(ids[0][1:]) & set(ids[2][1:])
    assert plans[0].bases[1].settings.blocks["quantization"]["bits"] == 4


def test_a_plan_refuses_names_that_match_nothing_and_tells_what_there_is():
    class Phi3(Catalogue):
        def shapes(self, settings):
            return {**SIZES_OF_ALL, "linear_paths": {name: list(shape) for name, shape in PHI3.items()}}

    text = f"method: list\nsearch: {{kind: list, trials: [{{method: qlora, qlora: {{targets: {GUIDE}}}}}]}}"
    sweep = read(text.replace("method: list", "method: lora"), registry=installed())
    with pytest.raises(SweepFileError) as error:
        make_plan(sweep, Phi3())
    assert [mistake.key for mistake in error.value.mistakes] == ["qlora.targets"]
    assert "The linear modules are qkv_proj, o_proj, gate_up_proj, down_proj" in str(error.value)
    allowed = read("method: lora\nlora: {targets: attention}", registry=installed())
    assert make_plan(allowed, Phi3()).trials[0].estimate.footprint.trainable == 2 * 2 * 16 * 16


def test_the_plan_counts_what_trains_exactly_for_phi_3(shared_file, tmp_path):
    """Rank 32 on all linear layers is 50.3 million parameters, not the few megabytes that are often said."""
    sizes = shapes(shared_file("phi-3-mini-tokenizer"), tmp_path)
    found = lora.footprint(lora.Config(rank=32, alpha=64), sizes, "bfloat16")
    per_layer = (3072 + 9216) + (3072 + 3072) + (3072 + 16384) + (8192 + 3072)
    assert found.trainable == 32 * 32 * per_layer == 50_331_648
    with pytest.raises(ValueError, match=r"no module is called q_proj, k_proj, v_proj, gate_proj, up_proj \(got"):
        lora.footprint(lora.Config(targets=GUIDE), sizes, "bfloat16")
