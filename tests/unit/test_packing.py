"""Packed rows: what each of them gives is what it gives alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables._data import Rows, collate
from trainables._packing import Pack, PackedRows, check_borders, collate_packs
from trainables.core.loss import causal_loss, nll_sum
from trainables.core.masking import Marked
from trainables.core.packing import pack

BOS, PAD, VOCABULARY = 1, 0, 50


def model_of(attention="sdpa", kind="llama", **changes):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    sizes = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": PAD,
        "bos_token_id": BOS, "eos_token_id": 2, "initializer_range": 0.2, **changes,
    }  # fmt: skip
    config = AutoConfig.for_model(kind, **sizes)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).train()
    model.config.use_cache = False
    return model


def rows_of(*lengths, seed=0):
    """Rows that begin with BOS and whose later half counts."""
    draw = np.random.default_rng(seed)
    found = []
    for length in lengths:
        ids = np.concatenate([[BOS], draw.integers(3, VOCABULARY, length - 1)]).astype(np.int32)
        targets = np.arange(length) >= max(1, length // 2)
        found.append(Marked(ids, targets, np.zeros(length, np.uint8)))
    return found


# -- which rows go together ------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(lengths=st.lists(st.integers(1, 40), max_size=60))
def test_every_row_is_packed_once_and_no_pack_is_too_long(lengths):
    packs = pack(lengths, 40)
    assert sorted(row for members in packs for row in members) == list(range(len(lengths)))
    assert all(sum(lengths[row] for row in members) <= 40 for members in packs)
    assert packs == pack(lengths, 40)
    least = -(-sum(lengths) // 40)
    assert len(packs) <= 11 / 9 * max(least, sum(length > 20 for length in lengths)) + 6 / 9 or len(packs) <= least * 2


def test_rows_fill_the_fullest_pack_that_has_room():
    assert pack([4, 7, 5, 3, 1], 10) == [[0, 2, 4], [1, 3]]
    assert pack([10, 10], 10) == [[0], [1]]
    assert pack([], 10) == []
    with pytest.raises(ValueError, match="row 1 has 11 tokens and does not fit into 10"):
        pack([3, 11], 10)


def test_packs_know_their_tokens_and_targets():
    rows = rows_of(4, 7, 5, 3)
    arrays = {
        "x.ids": np.concatenate([row.ids for row in rows]),
        "x.targets": np.concatenate([row.targets for row in rows]),
        "x.roles": np.concatenate([row.roles for row in rows]),
        "x.lengths": np.array([4, 7, 5, 3]),
        "x.numbers": np.arange(4),
    }
    packed = PackedRows(Rows(arrays, "x"), 10)
    assert packed.packs == [[0, 2], [1, 3]]
    assert packed.lengths.tolist() == [9, 10] == [len(each) for each in packed]
    assert packed.target_counts.tolist() == [int(sum(row.targets.sum() for row in each.rows)) for each in packed]
    assert packed.note() == "packing: 4 rows in 2 packs of 10 tokens, 95% full"


# -- what the model sees ---------------------------------------------------------------------------------------------


def test_positions_begin_anew_and_the_first_token_of_a_row_is_no_target():
    rows = rows_of(3, 2, 1)
    for row in rows:
        row.targets[:] = True
    batch = collate_packs([Pack(tuple(rows)), None], PAD, width=8)
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0, 0, 1], [0, 0, 1, 2, 3, 4, 5, 6]]
    first, second = rows[0].ids.tolist(), rows[1].ids.tolist()
    assert batch["input_ids"].tolist()[0] == [*first, *second, BOS, PAD, PAD]
    assert batch["labels"].tolist()[0] == [-100, *first[1:], -100, second[1], -100, -100, -100]
    assert (batch["labels"][1] == -100).all()
    flat = collate_packs([Pack(tuple(rows)), None], PAD, width=8, is_flat=True)
    assert flat["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0, 0]]


@pytest.mark.parametrize("kind, changes", [
    ("llama", {}), ("qwen2", {}), ("phi3", {}), ("mistral", {"sliding_window": 4}), ("gemma", {"head_dim": 8}),
])  # fmt: skip
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_packed_row_gives_the_logits_and_gradients_that_it_gives_alone(attention, kind, changes):
    model = model_of(attention, kind, **changes)
    rows = rows_of(5, 9, 1, 7, 3, 8)
    batch = collate_packs([Pack(tuple(rows[:4])), Pack(tuple(rows[4:]))], PAD, width=24)
    labels = batch.pop("labels")
    logits = model(**batch).logits
    targets = sum(int(row.targets.sum()) for row in rows)
    causal_loss(logits, labels, targets).backward()
    packed = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    assert nll_sum(logits, labels)[1] == targets
    model.zero_grad()
    places = [(0, 0), (0, 5), (0, 14), (0, 15), (1, 0), (1, 3)]
    for row, (line, at) in zip(rows, places, strict=True):
        alone = collate([row], PAD)
        own = alone.pop("labels")
        found = model(**alone).logits
        assert torch.allclose(found[0], logits[line, at : at + len(row)], atol=1e-5)
        causal_loss(found, own, targets).backward()
    for name, weight in model.named_parameters():
        assert torch.allclose(weight.grad, packed[name], atol=1e-5), name


def test_a_model_that_attends_across_borders_is_found():
    for attention in ("sdpa", "eager"):
        check_borders(model_of(attention).eval(), VOCABULARY, "cpu", False)
        check_borders(model_of(attention).eval(), VOCABULARY, "cpu", True)
    model = model_of().eval()

    def careless(input_ids, position_ids):
        return model(input_ids=input_ids, position_ids=position_ids, attention_mask=torch.ones_like(input_ids))

    with pytest.raises(ValueError, match=r"data\.packing: the attention of this model crosses the borders"):
        check_borders(careless, VOCABULARY, "cpu", False)
