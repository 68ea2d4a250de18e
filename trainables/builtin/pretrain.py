"""Makes the miniature from nothing: its tokenizer, its weights and its model card.

    python -m trainables.builtin.pretrain --out FOLDER [--steps N] [--seed N] [--threads N]

Deterministic for a given machine, thread count and torch version.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.builtin.chat import conversations
from trainables.builtin.prompts import prompts
from trainables.builtin.text import documents

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

BOS, EOS, PAD, TURN_START, TURN_END = "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>"
VOCABULARY = 1536
CONTEXT = 512
# No BOS and no default system message: `data.bos: always` adds the one, a row its own of the other.
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
BATCH_TOKENS = 4096
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.1
WARMUP_STEPS = 100


def train_tokenizer() -> "Tokenizer":
    """A byte-level BPE learnt on the plain text and, for the words of requests, on prompts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, BOS, EOS, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = list(islice(documents("tokenizer"), 4000))
    requests = [message["content"] for row in conversations() for message in row["conversations"]]
    texts += requests + [row["prompt"] for row in prompts()] + ["system\n", "user\n", "assistant\n"] * 200
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer: "Tokenizer", folder: Path) -> None:
    """Write tokenizer.json, and a configuration naming the generic fast class, which leaves the former as it is."""
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def batches(tokenizer: "Tokenizer", seed: int) -> "Iterator[torch.Tensor]":
    """Batches of token ids `[rows, length]` of whole documents, each begun by BOS and ended by EOS; padded at the end.

    One batch in four has the full context, so that late positions are trained too; the others are short and faster.
    """
    import torch

    bos, eos, pad = (tokenizer.token_to_id(token) for token in (BOS, EOS, PAD))
    stream = documents("train" if seed == 0 else f"train-{seed}")
    waiting: list[list[int]] = []
    step = 0
    while True:
        length = CONTEXT if step % 4 == 3 else CONTEXT // 2
        rows = torch.full((BATCH_TOKENS // length, length), pad)
        for row in rows:
            used = 0
            while True:
                if not waiting:
                    waiting = [[bos, *e.ids, eos] for e in tokenizer.encode_batch(list(islice(stream, 512)))][::-1]
                if used + len(waiting[-1]) > length:
                    if used == 0:
                        waiting.pop()
                        continue
                    break
                ids = waiting.pop()
                row[used : used + len(ids)] = torch.tensor(ids)
                used += len(ids)
        yield rows
        step += 1


def new_model(tokenizer: "Tokenizer", seed: int) -> Any:
    """An untrained Llama of the miniature's shape."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.06,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.token_to_id(BOS),
        eos_token_id=tokenizer.token_to_id(EOS),
        pad_token_id=tokenizer.token_to_id(PAD),
    )
    return LlamaForCausalLM(config)


def train(tokenizer: "Tokenizer", steps: int, seed: int) -> tuple[Any, list[float]]:
    """The trained model and its loss at every step."""
    import torch
    from torch.nn.functional import cross_entropy

    model = new_model(tokenizer, seed)
    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=WEIGHT_DECAY, fused=True
    )
    pad = tokenizer.token_to_id(PAD)
    losses: list[float] = []
    started = time.monotonic()
    for step, rows in enumerate(islice(batches(tokenizer, seed), steps)):
        warm = min(1.0, (step + 1) / WARMUP_STEPS)
        factor = warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * factor
        logits = model(input_ids=rows, use_cache=False).logits
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), rows[:, 1:].flatten(), ignore_index=pad)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if step % 50 == 49:
            seconds = time.monotonic() - started
            print(f"step {step + 1}/{steps} loss {sum(losses[-50:]) / 50:.3f} {seconds:.0f} s", flush=True)
    return model.eval(), losses


def main() -> None:
    """Train and write everything to a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()

    import torch

    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer()
    save_tokenizer(tokenizer, options.out)
    started = time.monotonic()
    model, losses = train(tokenizer, options.steps, options.seed)
    model.generation_config.eos_token_id = [tokenizer.token_to_id(EOS), tokenizer.token_to_id(TURN_END)]
    model.save_pretrained(options.out)
    facts = {
        "parameters": model.num_parameters(),
        "steps": options.steps,
        "loss": round(sum(losses[-50:]) / len(losses[-50:]), 3),
        "seconds": round(time.monotonic() - started),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
