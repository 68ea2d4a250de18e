"""The scaling of the embedding output: on which tokens it falls, and that it does nothing else."""

import pytest
import torch

from tests.unit.tiny_models import IDS, tiny_llama
from trainables._bos_zero import BosZero
from trainables._positions import own_positions
from trainables._scaling import Scaling, find_embeddings


def scaled(model=None, **settings):
    """A model with a scaling on it, and the scaling."""
    model = tiny_llama() if model is None else model
    return model, Scaling.of(BosZero(**settings), model).install(model)


def by_hand(model, ids, factor, columns, **more):
    """Logits of a forward pass on embeddings that are scaled by hand; columns: one list for each row."""
    embeddings = model.get_input_embeddings().weight[ids].detach().clone()
    for row, chosen in enumerate(columns):
        embeddings[row, chosen] *= factor
    with torch.no_grad():
        return model(inputs_embeds=embeddings, **more).logits


@pytest.mark.parametrize("factor", [0.0, 0.01, 0.05])
@pytest.mark.parametrize("positions", [[0], [0, 1], [1, 3, 6]])
def test_logits_are_those_of_embeddings_scaled_by_hand(factor, positions):
    model, scaling = scaled(factor=factor, positions=positions)
    with torch.no_grad():
        found = model(input_ids=IDS).logits
    assert torch.allclose(found, by_hand(model, IDS, factor, [positions]), atol=1e-6)
    scaling.remove()
    with torch.no_grad():
        assert not torch.allclose(model(input_ids=IDS).logits, found, atol=1e-3)


def test_own_positions_of_a_left_padded_batch_begin_at_the_first_real_token():
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    ids = torch.zeros_like(mask)
    naive = torch.arange(4)[None]
    for positions in (None, (mask.cumsum(-1) - 1).clamp(min=0), (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1), naive):
        own, real = own_positions(ids, mask, positions)
        assert own[real].tolist() == [0, 1, 0, 1, 2, 3]
        assert real.tolist() == mask.bool().tolist()


def test_a_call_of_the_embeddings_from_outside_is_not_scaled():
    model, _ = scaled()
    with torch.no_grad():
        model(input_ids=IDS)
    assert torch.equal(model.get_input_embeddings()(IDS), model.get_input_embeddings().weight[IDS])


def test_a_model_without_input_embeddings_is_an_error():
    with pytest.raises(ValueError, match=r"bos_zero: Linear has no input embeddings"):
        find_embeddings(torch.nn.Linear(2, 2))
