"""Phi-3-mini's real configuration with one layer of random weights: its module names, and one QLoRA step on the CPU."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from trainables import lora, qlora
from trainables._model import load_model, place
from trainables._settings import ModelSettings

GUIDE = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
VOCABULARY = 256


@pytest.fixture(scope="module")
def one_layer(shared_file, tmp_path_factory):
    """All sizes of a layer as they are; the number of layers and the vocabulary are not."""
    folder = tmp_path_factory.mktemp("phi-3")
    config = AutoConfig.from_pretrained(shared_file("phi-3-mini-tokenizer"))
    config.num_hidden_layers, config.vocab_size, config.pad_token_id = 1, VOCABULARY, 0
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.mark.timeout(900)
def test_one_qlora_step_trains_on_the_cpu(one_layer):
    import bitsandbytes

    settings, config = ModelSettings(path=str(one_layer)), qlora.Config(rank=8, alpha=16, dropout=0.1)
    model = qlora.build(load_model(settings, place(settings), qlora.quantization(config)), config)
    per_layer = (3072 + 9216) + (3072 + 3072) + (3072 + 16384) + (8192 + 3072)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == 8 * per_layer
    assert model.peft_config["default"].target_modules == {"down_proj", "gate_up_proj", "o_proj", "qkv_proj"}
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    optimizer = bitsandbytes.optim.PagedAdamW8bit(trained, lr=1e-3)
    ids = torch.randint(VOCABULARY, (2, 8), generator=torch.Generator().manual_seed(0))
    model.train()
    before = model(input_ids=ids, labels=ids).loss
    before.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    optimizer.step()
    with torch.no_grad():
        assert model.eval()(input_ids=ids, labels=ids).loss < before


def test_the_guides_names_are_refused_with_the_ones_there_are():
    from trainables._adapters import attach

    with torch.device("meta"):
        config = AutoConfig.for_model(
            "phi3", num_hidden_layers=1, vocab_size=VOCABULARY, hidden_size=64, intermediate_size=128, pad_token_id=0,
            num_attention_heads=4, num_key_value_heads=4,
        )  # fmt: skip
        model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ValueError) as error:
        attach(model, lora.Config(targets=GUIDE), "lora")
    assert "lora.targets: no module is called q_proj, k_proj, v_proj, gate_proj, up_proj" in str(error.value)
    assert "The linear modules are o_proj, qkv_proj, gate_up_proj, down_proj" in str(error.value)
