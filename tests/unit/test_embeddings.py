"""Where the input embeddings are: under wrappers, adapters and outer modules, in the architectures there are."""

import pytest
import torch

from tests.unit.test_scaling import by_hand, close, logits, scaled
from tests.unit.tiny_models import IDS, tiny_llama
from trainables import lora
from trainables._bos_zero import BosZero
from trainables._embeddings import find_embeddings
from trainables._scaling import Scaling


def test_a_model_without_input_embeddings_is_an_error():
    with pytest.raises(ValueError, match=r"bos_zero: Linear has no input embeddings"):
        find_embeddings(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    "settings", [{}, {"targets": ["q_proj", "embed_tokens"]}, {"modules_to_save": ["embed_tokens"]}]
)
def test_it_is_found_and_fires_under_an_adapter(settings):
    plain = tiny_llama(tied=False)
    model = lora.build(tiny_llama(tied=False), lora.Config(rank=4, **settings)).eval()
    scaling = Scaling.of(BosZero(factor=0.0), plain).install(model)
    assert scaling.name == "model.embed_tokens"
    # A fresh adapter changes nothing.
    assert close(logits(model, input_ids=IDS), by_hand(plain, IDS, 0.0, [[0]]))
    # PEFT hands on to the forward of the module inside: positional arguments too.
    with torch.no_grad():
        assert close(model(IDS).logits, by_hand(plain, IDS, 0.0, [[0]]))
    assert scaling.calls[False] == 2


def test_it_is_found_under_ddp():
    import torch.distributed as dist

    plain = tiny_llama()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model = torch.nn.parallel.DistributedDataParallel(lora.build(tiny_llama(), lora.Config(rank=4)))
        scaling = Scaling.of(BosZero(factor=0.0), model).install(model)
        assert scaling.name == "model.embed_tokens"
        assert close(logits(model.eval(), input_ids=IDS), by_hand(plain, IDS, 0.0, [[0]]))
    finally:
        dist.destroy_process_group()


class Plain(torch.nn.Module):
    """A decoder whose outermost module owns the embeddings."""

    config = None

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.q_proj = torch.nn.Embedding(96, 16), torch.nn.Linear(16, 96)

    def get_input_embeddings(self):
        return self.table

    def forward(self, input_ids=None, inputs_embeds=None):
        found = self.table(input_ids) if inputs_embeds is None else inputs_embeds
        return self.q_proj(found.cumsum(1))


def test_it_fires_where_the_outermost_module_owns_the_embeddings_also_under_peft():
    from peft import LoraConfig, PeftModel

    model = Plain()
    expected = model(inputs_embeds=model.table(IDS) * torch.tensor([0.0] + [1.0] * 7)[None, :, None])
    adapted = PeftModel(model, LoraConfig(target_modules=["q_proj"]))
    Scaling.of(BosZero(), model).install(adapted)
    assert torch.allclose(adapted(input_ids=IDS), expected, atol=1e-6)


class Outer(torch.nn.Module):
    """As models of pictures and text do, it looks tokens up itself and hands embeddings on."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def get_input_embeddings(self):
        return self.inner.get_input_embeddings()

    def forward(self, input_ids=None, attention_mask=None):
        picture = self.get_input_embeddings()(torch.tensor(7))
        assert torch.equal(picture, self.get_input_embeddings().weight[7])
        return self.inner(inputs_embeds=self.get_input_embeddings()(input_ids), attention_mask=attention_mask)


def test_it_fires_where_an_outer_module_looks_the_tokens_up():
    model = Outer(tiny_llama())
    expected = by_hand(model.inner, IDS, 0.0, [[0]])
    scaling = Scaling.of(BosZero(), model).install(model)
    assert close(logits(model, input_ids=IDS), expected)
    assert scaling.calls[False] == 1


SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
KV = {**SHAPE, "num_key_value_heads": 2, "pad_token_id": 0}
ARCHITECTURES = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "opt": {**SHAPE, "ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 64},
    "gpt_neox": SHAPE,
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 64},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "new_decoder_architecture": True},
    "phi": SHAPE,
    "phi3": KV,
    "mistral": KV,
    "qwen2": KV,
    "qwen3": {**KV, "head_dim": 8},
    "gemma2": {**KV, "head_dim": 8},
    "stablelm": KV,
    "mixtral": {**KV, "num_local_experts": 2},
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_fires_in_every_architecture(architecture):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    ends = {"bos_token_id": 1, "eos_token_id": 2}
    config = AutoConfig.for_model(architecture, vocab_size=96, **ends, **ARCHITECTURES[architecture])
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    given = model.get_input_embeddings()(IDS).detach().clone()
    given[:, [0, 2]] *= 0.05
    plain, expected = logits(model, input_ids=IDS), logits(model, inputs_embeds=given)
    _, scaling = scaled(lora.build(model, lora.Config(rank=2)).eval(), factor=0.05, positions=[0, 2])
    assert close(logits(model, input_ids=IDS), expected)
    assert not close(plain, expected)
    assert scaling.calls[False] == 1
