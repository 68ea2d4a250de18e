"""The scaling of embeddings, the attention eval and gradients by position on a CUDA device."""

import pytest
import torch

from evals import attention
from evals._attention import eager, observe
from tests.tiny_subject import tiny_subject
from tests.unit.test_position_gradients import batch, one_step
from tests.unit.tiny_models import tiny_llama
from trainables._bos_zero import BosZero
from trainables._position_gradients import PositionGradients
from trainables._scaling import Scaling

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROW = [1, 30, 17, 42, 9, 61, 3, 11]


def zeroed(model):
    return Scaling.of(BosZero(), model).install(model)


def test_logits_on_the_device_are_those_of_embeddings_scaled_by_hand():
    model, ids = tiny_llama().double().to(DEVICE), torch.tensor([ROW], device=DEVICE)
    given = model.get_input_embeddings()(ids).detach().clone()
    given[:, 0] = 0
    with torch.no_grad():
        expected, plain = model(inputs_embeds=given).logits, model(input_ids=ids).logits
        scaling = zeroed(model)
        found = model(input_ids=ids).logits
    assert torch.allclose(found, expected, atol=1e-6, rtol=0)
    assert not torch.allclose(plain, expected, atol=1e-6, rtol=0)
    assert scaling.scaled_positions(training=False) == 1


def test_attention_on_the_device_is_that_of_the_cpu(tmp_path):
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "Once upon a time there was a little dog."}\n{"text": "One day, Tom and Lily ran."}\n')
    found = []
    for device in ("cpu", DEVICE):
        subject = tiny_subject(3)
        subject.model, subject.device = subject.model.to(device), device
        zeroed(subject.model)
        result = attention.run(subject, attention.Config(), texts, tmp_path)
        with eager(subject.model), torch.no_grad():
            first = observe(subject, ROW, 0).layers[0].alpha.float().cpu()
        found.append((result.metrics["attention/alpha_first"].value, first))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-4)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-4)


@pytest.mark.parametrize("labels_on", ["cpu", DEVICE])
def test_gradients_by_position_on_the_device_are_those_of_the_cpu(labels_on):
    """Also where the labels lie on another device than the layers, as in a model that is spread over several."""
    found = []
    for device, home in (("cpu", "cpu"), (DEVICE, labels_on)):
        model = tiny_llama().to(device)
        zeroed(model)
        watch = PositionGradients(model)
        watch.is_on = True
        moved = {name: value.to(device) for name, value in batch().items()}
        one_step(model, [moved], 25, _Elsewhere(watch, home))
        watch.remove()
        found.append(watch.take())
    assert found[1][0][0] == 0.0
    for one, other in zip(*found, strict=True):
        assert one == pytest.approx(other, rel=1e-3)


class _Elsewhere:
    """Tells the labels on a device of their own."""

    def __init__(self, watch, device):
        self.inner, self.device = watch, device

    def watch(self, loss, labels):
        self.inner.watch(loss, labels.to(self.device))
