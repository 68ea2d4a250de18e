"""Norms of gradients by position: which position a token is at, what is averaged, and that nothing else changes."""

import pytest
import torch

from tests.unit.tiny_models import tiny_llama
from trainables._adapters import attach
from trainables._bos_zero import BosZero
from trainables._packing import Pack, collate_packs
from trainables._position_gradients import KEPT, MOST_STEPS, PositionGradients, looked_at, with_targets
from trainables._scaling import Scaling
from trainables.core.loss import IGNORED, causal_loss
from trainables.core.masking import Marked
from trainables.lora import Config

LONG = 20


def batch(lengths=(LONG, 6, 3)):
    """Rows padded on the right; the first token of each has no label."""
    torch.manual_seed(1)
    ids = torch.randint(3, 90, (len(lengths), max(lengths)))
    mask = torch.stack([(torch.arange(max(lengths)) < length).long() for length in lengths])
    labels = ids.masked_fill(mask == 0, IGNORED)
    labels[:, 0] = IGNORED
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def one_step(model, parts, num_items, watch=None, scale=1.0):
    """Forward and backward of micro batches, as the Trainer does it."""
    model.train()
    for part in parts:
        labels = part["labels"]
        loss = causal_loss(model(**{k: v for k, v in part.items() if k != "labels"}).logits, labels, num_items)
        if watch is not None:
            watch.watch(loss, labels)
        (loss * scale).backward()


def measured(model, parts, num_items, scale=1.0):
    watch = PositionGradients(model)
    watch.is_on = True
    one_step(model, parts, num_items, watch, scale)
    watch.remove()
    return watch.take(), watch.rows


def by_hand(model, given, num_items, factor=None):
    """Norms at the embeddings, [rows, tokens], from a forward on hand-made inputs_embeds."""
    raw = model.get_input_embeddings()(given["input_ids"]).detach().requires_grad_(True)
    scaled = raw if factor is None else torch.cat([raw[:, :1] * factor, raw[:, 1:]], dim=1)
    scaled.retain_grad()
    output = model(inputs_embeds=scaled, attention_mask=given["attention_mask"], output_hidden_states=True)
    hidden = output.hidden_states[1]
    hidden.retain_grad()
    causal_loss(output.logits, given["labels"], num_items).backward()
    return [part.grad.norm(dim=-1) for part in (raw, scaled, hidden)]


def averages(norms, mask):
    """The mean over rows at each kept position, then over all tokens behind."""
    kept = [float(norms[mask[:, at] > 0, at].mean()) for at in range(KEPT)]
    return [*kept, float(norms[:, KEPT:][mask[:, KEPT:] > 0].mean())]


def scale_first(model, factor):
    def hook(module, args, output):
        return torch.cat([output[:, :1] * factor, output[:, 1:]], dim=1)

    return model.get_input_embeddings().register_forward_hook(hook)


@pytest.mark.parametrize("factor", [None, 0.0, 0.5])
def test_norms_are_those_of_a_forward_on_hand_made_embeddings(factor):
    given, model = batch(), tiny_llama()
    if factor is not None:
        handle = scale_first(model, factor)
    norms, rows = measured(model, [given], 25)
    if factor is not None:
        handle.remove()
    expected = by_hand(model, given, 25, factor)
    assert rows == ["embedding", "embedding as the layers get it", "layer 0", "layer 1"]
    for row, values in enumerate(expected):
        assert norms[row] == pytest.approx(averages(values, given["attention_mask"]), rel=1e-4)


def at_position_0(model, given, num_items, row):
    """[rows] norms of the gradient at position 0 of one measured row, where the first embedding is taken away and
    nothing goes back by way of position 0 of the layers further up."""
    kept = []

    def hook(place):
        def passed(module, args, output):
            if place < row:
                return output
            if place == row:
                kept.append(output.detach().requires_grad_(True))
                return kept[0]
            return torch.cat([output[:, :1].detach(), output[:, 1:]], dim=1)

        return passed

    handles = [layer.register_forward_hook(hook(2 + place)) for place, layer in enumerate(model.model.layers)]
    given_to_layers = model.get_input_embeddings()(given["input_ids"]).detach()
    given_to_layers[:, 0] = 0
    if row == 1:
        kept.append(given_to_layers.requires_grad_(True))
    output = model(inputs_embeds=given_to_layers, attention_mask=given["attention_mask"])
    causal_loss(output.logits, given["labels"], num_items).backward()
    for handle in handles:
        handle.remove()
    return kept[0].grad[:, 0].norm(dim=-1)


def test_where_the_factor_is_zero_what_comes_to_position_0_is_told_before_it_is_stopped():
    model, given = tiny_llama(layers=3), batch()
    scaling = Scaling.of(BosZero(), model).install(model)
    norms, rows = measured(model, [given], 25)
    scaling.remove()
    assert norms[0][0] == 0.0
    assert all(value > 0 for value in norms[0][1:])
    assert len(rows) == 5
    for row in range(1, 5):
        expected = float(at_position_0(model, given, 25, row).mean())
        assert expected > 0
        assert norms[row][0] == pytest.approx(expected, rel=1e-4)


def test_under_an_adapter_too_nothing_reaches_the_first_embedding_and_something_each_layer():
    model = attach(tiny_llama(), Config(rank=2), "lora")
    Scaling.of(BosZero(), model).install(model)
    norms, _ = measured(model, [batch()], 25)
    assert norms[0][0] == 0.0
    assert all(norms[row][0] > 0 for row in (1, 2, 3))


def test_an_adapter_on_a_frozen_base_trains_to_the_same_bits_while_it_is_watched():
    gradients = []
    for watched in (False, True):
        model = attach(tiny_llama(), Config(rank=2, init="gaussian"), "lora")
        torch.manual_seed(3)
        for name, weight in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(weight)
        measured(model, [batch()], 25) if watched else one_step(model, [batch()], 25)
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad})
    assert gradients[0]
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])
    assert set(gradients[0]) == set(gradients[1])


def test_neither_micro_batches_nor_filler_rows_nor_the_scale_of_the_loss_change_a_norm():
    given, model = batch(), tiny_llama()
    whole, _ = measured(model, [given], 25)
    split = [{name: value[row : row + 1] for name, value in given.items()} for row in range(3)]
    filler = {
        "input_ids": torch.zeros(1, 2, dtype=torch.long), "attention_mask": torch.tensor([[1, 0]]),
        "labels": torch.full((1, 2), IGNORED),
    }  # fmt: skip
    parts, _ = measured(model, [*split, filler], 25, scale=1024.0)
    for one, other in zip(whole, parts, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_recomputed_activations_are_counted_once():
    given, model = batch(), tiny_llama()
    whole, _ = measured(model, [given], 25)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    again, _ = measured(model, [given], 25)
    for one, other in zip(whole, again, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def marked(ids):
    import numpy as np

    return Marked(np.array(ids, np.int32), np.ones(len(ids), bool), np.zeros(len(ids), np.uint8))


def test_in_a_packed_line_every_row_begins_at_position_0_and_padding_counts_for_nothing():
    given, model = batch((7, 5)), tiny_llama()
    model.config.use_cache = False
    alone, _ = measured(model, [given], 10)
    rows = [marked(given["input_ids"][row, :length].tolist()) for row, length in ((0, 7), (1, 5))]
    packed = collate_packs([Pack(tuple(rows)), None], 0, width=18)
    found, _ = measured(model, [packed], 10)
    for one, other in zip(alone, found, strict=True):
        assert one[:7] == pytest.approx(other[:7], rel=1e-3)
        assert one[7:] == other[7:] == [None] * (KEPT - 6), "no row is longer than 7"


def test_neither_pads_nor_sequences_without_a_target_count():
    positions = torch.tensor([[-1, -1, 0, 1, 2], [0, 1, 2, 3, 4]])
    labels = torch.tensor([[-100, -100, -100, 4, 5], [-100] * 5])
    assert with_targets(positions, labels).tolist() == [[False, False, True, True, True], [False] * 5]


def test_padding_on_the_left_moves_no_position():
    right = batch((LONG, 6))
    left = {name: value.clone() for name, value in right.items()}
    for value in left.values():
        value[1] = value[1].roll(LONG - 6)
    left["position_ids"] = (left["attention_mask"].cumsum(1) - 1).clamp(min=0)
    one, _ = measured(tiny_llama(), [right], 25)
    other, _ = measured(tiny_llama(), [left], 25)
    for first, second in zip(one, other, strict=True):
        assert first == pytest.approx(second, rel=1e-4)


@pytest.mark.parametrize("total", [1, 2, 63, 64, 65, 127, 128, 17_550])
def test_a_bounded_number_of_steps_is_looked_at_the_first_and_last_among_them(total):
    steps = [step for step in range(1, total + 1) if looked_at(step, total)]
    assert steps[0] == 1
    assert steps[-1] == total
    assert min(total, MOST_STEPS / 2) <= len(steps) <= MOST_STEPS


def test_a_step_that_is_not_looked_at_leaves_nothing():
    model = tiny_llama()
    watch = PositionGradients(model)
    one_step(model, [batch()], 25, watch)
    assert watch.take() is None


def test_a_model_without_embeddings_is_refused():
    model = tiny_llama()
    model.get_input_embeddings = lambda: None
    with pytest.raises(ValueError, match=r"train\.log_position_gradients: this model has no input embeddings"):
        PositionGradients(model)
