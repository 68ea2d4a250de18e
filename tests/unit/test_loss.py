"""The loss against torch's own, and the cases without targets."""

import pytest
import torch

from trainables.core.loss import IGNORED, causal_loss, nll_sum


def batch(seed: int = 0, rows: int = 3, tokens: int = 7, vocab: int = 11, masked: float = 0.4):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, tokens, vocab, generator=generator) * 5
    labels = torch.randint(0, vocab, (rows, tokens), generator=generator)
    labels[torch.rand(rows, tokens, generator=generator) < masked] = IGNORED
    return logits, labels


def torchs_own(logits, labels, num_items):
    flat = logits[:, :-1].reshape(-1, logits.shape[-1]).float()
    return torch.nn.functional.cross_entropy(flat, labels[:, 1:].reshape(-1), reduction="sum") / num_items


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_value_and_gradient_equal_torchs_cross_entropy(seed, dtype):
    logits, labels = batch(seed)
    ours = logits.to(dtype).requires_grad_()
    theirs = logits.to(dtype).requires_grad_()
    value, reference = causal_loss(ours, labels, 37), torchs_own(theirs, labels, 37)
    value.backward()
    reference.backward()
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, reference, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-6)


def test_the_first_label_never_counts_and_the_last_logits_predict_nothing():
    logits, labels = batch(masked=0.0)
    other, moved = labels.clone(), logits.clone()
    other[:, 0] = 0
    moved[:, -1] = 99.0
    assert causal_loss(logits, labels, 1) == causal_loss(moved, other, 1)


def test_all_masked_gives_exactly_0_and_a_zero_gradient():
    logits, labels = batch()
    logits[0, 0] = float("nan")
    logits.requires_grad_()
    loss = causal_loss(logits, torch.full_like(labels, IGNORED), torch.tensor(0))
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_what_is_masked_has_no_gradient_and_cannot_spoil_the_rest():
    logits, labels = batch()
    spoilt = logits.clone()
    spoilt[:, :-1][labels[:, 1:] == IGNORED] = float("inf")
    spoilt.requires_grad_()
    loss = causal_loss(spoilt, labels, 10)
    loss.backward()
    assert torch.equal(loss, causal_loss(logits, labels, 10))
    assert not spoilt.grad[:, :-1][labels[:, 1:] == IGNORED].any()


def test_huge_logits_give_no_overflow():
    logits, labels = batch()
    assert torch.isfinite(causal_loss(logits * 1e5, labels, 1))


@pytest.mark.parametrize("split", [[1, 2], [1, 1, 1], [2, 1]])
def test_micro_batches_add_up_to_one_batch(split):
    logits, labels = batch(rows=3)
    total = (labels[:, 1:] != IGNORED).sum()
    parts = [causal_loss(a, b, total) for a, b in zip(logits.split(split), labels.split(split), strict=True)]
    torch.testing.assert_close(sum(parts), causal_loss(logits, labels, total), rtol=0, atol=1e-6)


def test_without_a_number_the_targets_of_the_batch_divide():
    logits, labels = batch()
    total, count = nll_sum(logits, labels)
    assert count == int((labels[:, 1:] != IGNORED).sum())
    assert causal_loss(logits, labels) == total / count
