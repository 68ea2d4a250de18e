import json
from dataclasses import replace
from itertools import pairwise

import pytest

from trainables.core.memory import CARDS_GB, RESERVED_BYTES, Memory, full_fine_tuning, shape_of

LLAMA = {
    "hidden_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "intermediate_size": 1376,
    "vocab_size": 8192,
}
SHAPE = shape_of(LLAMA, 27_367_936)


@pytest.mark.parametrize(
    "rows, tokens, checkpointing, measured",
    [(4, 64, False, 530.9e6), (4, 256, False, 812.4e6), (4, 256, True, 557.6e6)],
)
def test_the_estimate_is_near_the_measured_peak(rows, tokens, checkpointing, measured):
    # Measured by bench/memory.py: bytes alive at once, two steps of two micro batches, AdamW, float32, on a CPU.
    total = full_fine_tuning(SHAPE, rows=rows, tokens=tokens, gradient_checkpointing=checkpointing).total
    assert total == pytest.approx(measured, rel=0.15)


def test_phi_3_takes_15_gb_of_weights_and_61_gb_with_adam(shared_file):
    config = json.loads((shared_file("phi-3-mini-tokenizer") / "config.json").read_text())
    found = full_fine_tuning(shape_of(config, 3_821_079_552), rows=1, tokens=1)
    assert found.weights / 1e9 == pytest.approx(15.3, rel=0.01)
    assert (found.weights + found.gradients + found.optimizer) / 1e9 == pytest.approx(61, rel=0.01)


def test_activations_and_logits_grow_with_tokens_and_the_states_do_not():
    one, two = (full_fine_tuning(SHAPE, rows=rows, tokens=64) for rows in (4, 8))
    assert (two.activations, two.logits) == (2 * one.activations, 2 * one.logits)
    assert (two.weights, two.gradients, two.optimizer) == (one.weights, one.gradients, one.optimizer)


def test_checkpointing_and_half_precision_save_memory_and_eager_attention_costs_some():
    plain = full_fine_tuning(SHAPE, rows=8, tokens=512).total
    assert full_fine_tuning(SHAPE, rows=8, tokens=512, gradient_checkpointing=True).total < plain
    assert full_fine_tuning(SHAPE, rows=8, tokens=512, compute_dtype="bfloat16").total < plain
    assert full_fine_tuning(SHAPE, rows=8, tokens=512, attention="eager").total > plain


def test_the_room_of_a_layer_computed_again_counts_only_where_it_is_more_than_the_logits():
    for vocab in (8, 8192, 200_000):
        found = full_fine_tuning(replace(SHAPE, vocab=vocab), rows=4, tokens=64, gradient_checkpointing=True)
        kept = 4 * 64 * 6 * 512 * 4
        assert found.activations >= kept
        assert (found.activations == kept) == (vocab > 8)


def test_the_smallest_card_that_holds_it_is_named():
    def card(total):
        return Memory(total, 0, 0, 0, 0).card_gb

    for smaller, larger in pairwise(CARDS_GB):
        limit = (smaller << 30) - RESERVED_BYTES
        assert (card(limit), card(limit + 1)) == (smaller, larger)
    assert card(80 << 30) is None


def test_a_config_without_the_sizes_gives_no_shape():
    assert shape_of({"hidden_size": 4}, 10) is None
