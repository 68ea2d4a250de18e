"""What a card holds while attention is measured: one model at a time, and one layer's maps."""

from dataclasses import replace

import pytest
import torch

from evals._attention import eager, observe
from tests.tiny_subject import TinySubject, byte_tokenizer
from tests.unit.test_base_subject import folders, logits  # noqa: F401
from trainables._export import load

MIB = 1 << 20


def devices(model):
    return {parameter.device.type for parameter in model.parameters()}


def test_one_of_base_and_export_is_on_the_card_at_a_time(folders):  # noqa: F811
    subject = replace(load(folders["full"]), base_folder=folders["base"])
    home, own = devices(subject.model), logits(subject.model.cpu())
    subject.model.to(subject.device)
    with subject.base() as base:
        assert devices(base.model) == home
        assert devices(subject.model) == {"cpu"}
        away = logits(base.model.cpu())
    assert base.model is None
    assert devices(subject.model) == home
    assert torch.equal(logits(subject.model.cpu()), own)
    assert not torch.equal(away, own)


@pytest.mark.parametrize("layers", [2, 6])
def test_a_text_of_1024_tokens_takes_what_one_layer_of_phi_3_mini_takes(cuda, layers):
    from transformers import Phi3Config, Phi3ForCausalLM

    tokenizer = byte_tokenizer()
    config = Phi3Config(
        vocab_size=32_064, hidden_size=3072, intermediate_size=8192, num_hidden_layers=layers, num_attention_heads=32,
        num_key_value_heads=32, max_position_embeddings=4096, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    with torch.device("cuda"):
        model = Phi3ForCausalLM(config).eval()
    subject = TinySubject(model, tokenizer, "cuda", 4096)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    with eager(model):
        observe(subject, [5 + token % 200 for token in range(1024)], 0)
    # A map of 32 heads is 128 MiB; 32 of them would be 4 GiB.
    assert (torch.cuda.max_memory_allocated() - before) / MIB < 1024
