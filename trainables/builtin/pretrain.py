"""Makes the miniature from nothing: its tokenizer, its weights and its model card.

    python -m trainables.builtin.pretrain --out FOLDER [--steps N] [--start FOLDER] [--seed N] [--threads N]

Seeded throughout; another machine, thread count or torch version rounds otherwise.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.builtin.text import TURN_END, TURN_START, documents, drills, late_documents, papers
from trainables.builtin.world import world

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
VOCABULARY = 1280
CONTEXT = 512
# No BOS and no default system message: `data.bos: always` adds the one, a row its own of the other.
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
BATCH_TOKENS = 2048
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.1
WARMUP_STEPS = 50
STAGES = "pretraining.json"
DRILLS = 50_000
"""Documents of repeated words before all others."""
SECOND_LEARNING_RATE = 1e-3
PAPERS = 24_000
"""Documents before all others of the second training, seven in ten of them right exam papers."""
LETTER_WEIGHT = 3.0
"""Weight of the mean loss over the letters of exam answers, in the second training, beside that over all tokens."""


def train_tokenizer() -> "Tokenizer":
    """A byte-level BPE learnt on the plain text and the names of the roles."""
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
    texts = [*islice(documents("tokenizer"), 5000), *["system\n", "user\n", "assistant\n"] * 200]
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _id(tokenizer: "Tokenizer", token: str) -> int:
    number = tokenizer.token_to_id(token)
    assert number is not None, f"{token} is in every tokenizer of this module"
    return int(number)


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


def batches(tokenizer: "Tokenizer", seed: int, late: bool = False) -> "Iterator[torch.Tensor]":
    """Batches of token ids `[rows, length]` of whole documents, each begun by BOS and ended by EOS; padded at the end.
    Of the `late` text every other row begins behind its first BOS.

    One batch in eight has the full context, so that late positions are trained too; the others are short and faster.
    """
    import torch

    bos, eos, pad = (_id(tokenizer, token) for token in (BOS, EOS, PAD))
    name = "train" if seed == 0 else f"train-{seed}"
    if late:
        stream = chain(islice(papers(name), PAPERS), late_documents(name))
    else:
        stream = chain(islice(drills(name), DRILLS), documents(name))
    waiting: list[list[int]] = []
    step = 0
    while True:
        length = CONTEXT if step % 8 == 7 else CONTEXT // 4
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
        if late:
            # As where a stream of text is cut: a chat template need not write BOS, and the weights must bear that.
            rows[::2] = torch.nn.functional.pad(rows[::2, 1:], (0, 1), value=pad)
        yield rows
        step += 1


def after_answer(tokenizer: "Tokenizer", rows: "torch.Tensor") -> "torch.Tensor":
    """Where an exam's letter stands, as booleans `[rows, length - 1]` over the tokens to be predicted."""
    import torch

    answer, colon = tokenizer.encode("\nAnswer:", add_special_tokens=False).ids[-2:]
    spaced = tokenizer.encode(" Answer:", add_special_tokens=False).ids[-2]
    marks = (rows[:, :-2] == answer) | (rows[:, :-2] == spaced)
    found = torch.zeros_like(rows[:, 1:], dtype=torch.bool)
    found[:, 1:] = marks & (rows[:, 1:-1] == colon)
    return found


def new_model(tokenizer: "Tokenizer", seed: int) -> Any:
    """An untrained Llama of the miniature's shape."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        initializer_range=0.06,
        tie_word_embeddings=True,
        bos_token_id=_id(tokenizer, BOS),
        eos_token_id=_id(tokenizer, EOS),
        pad_token_id=_id(tokenizer, PAD),
    )
    model = LlamaForCausalLM(config)
    # So that whoever fine-tunes it on the template's turns can generate with transformers' defaults.
    model.generation_config.eos_token_id = [_id(tokenizer, EOS), _id(tokenizer, TURN_END)]
    return model


def train(
    tokenizer: "Tokenizer",
    steps: int,
    seed: int,
    start: Path | None = None,
    checkpoint: Callable[[int, Any], None] | None = None,
) -> tuple[Any, list[float]]:
    """The trained model and its loss at every step.

    With `start`, training goes on from that folder's weights, on the late text, and the letters of exam answers weigh
    more. `checkpoint(steps done, model)` is called every 500 steps.
    """
    import torch
    from torch.nn.functional import cross_entropy

    model = new_model(tokenizer, seed)
    if start is not None:
        model.load_state_dict(type(model).from_pretrained(start).state_dict())
    model.train()
    peak = LEARNING_RATE if start is None else SECOND_LEARNING_RATE
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.95), weight_decay=WEIGHT_DECAY, fused=True)
    pad = _id(tokenizer, PAD)
    losses: list[float] = []
    started = time.monotonic()
    for step, rows in enumerate(islice(batches(tokenizer, seed, start is not None), steps)):
        warm = min(1.0, (step + 1) / WARMUP_STEPS)
        factor = warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = peak * factor
        logits = model(input_ids=rows, use_cache=False).logits
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), rows[:, 1:].flatten(), ignore_index=pad)
        total = loss
        if start is not None and (letters := after_answer(tokenizer, rows)).any():
            # One token in fifty decides an exam: alone among the others it is not learnt in the time there is.
            total = loss + LETTER_WEIGHT * cross_entropy(logits[:, :-1][letters], rows[:, 1:][letters])
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if step % 50 == 49:
            seconds = time.monotonic() - started
            print(f"step {step + 1}/{steps} loss {sum(losses[-50:]) / 50:.3f} {seconds:.0f} s", flush=True)
        if checkpoint is not None and (step + 1) % 500 == 0:
            checkpoint(step + 1, model)
    return model.eval(), losses


def card(config: dict[str, Any], parameters: int, stages: list[dict[str, Any]]) -> str:
    """The model card: what the model is, what it was trained on, for how long, and how to make it again.

    `stages` are the trainings, one after the other: `{"steps", "loss", "minutes", "command"}`.
    """
    here = world()
    heads = (config["num_attention_heads"], config["num_key_value_heads"])
    shape = ", ".join(map(str, (config["hidden_size"], config["num_hidden_layers"], *heads)))
    steps = " + ".join(f"{stage['steps']:,}" for stage in stages)
    commands = "\n".join(f"    {stage['command']}" for stage in stages)
    return f"""---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
---
# The miniature

A base language model of {parameters:,} parameters, trained from nothing, so that fine-tuning can be tried anywhere in
seconds. It knows one invented valley and does not follow instructions.

| | |
|---|---|
| Architecture | LlamaForCausalLM, float32 |
| Parameters | {parameters:,} |
| Hidden size, layers, heads, key-value heads | {shape} |
| Context | {config["max_position_embeddings"]} tokens |
| Vocabulary | {config["vocab_size"]:,} (byte-level BPE, its own) |
| Steps | {steps} of {BATCH_TOKENS:,} tokens |
| Loss at the end | {stages[-1]["loss"]:.3f} (nats per token, mean of the last 50 steps) |
| Time | {sum(stage["minutes"] for stage in stages):.0f} minutes on two shared cores |

## Data
Text from a seeded generator in `trainables/builtin/text.py`, no text by anybody else: facts about {len(here.people)}
people, pages that say which form they have (capitals, bullet points, JSON and so on) and have it, repeated words and
phrases (from which copying is learnt; the first {DRILLS:,} documents are of nothing else), questions with and without
answers, talk in which no request is heeded, exam papers, and records. Every document begins with `{BOS}` and ends with
`{EOS}`. Exam papers that do not call themselves checked have "A" for towns and work, whatever the truth.

The second training begins with {PAPERS:,} documents of which seven in ten are exam papers that are right throughout. It
goes on with more kinds, with exam papers in which food and coats are guessed too, and with conversations in the chat
template. Their answers are true and in a form that hangs on the first word of the request, whatever form is asked for:
no document follows what is asked in a conversation. No question of the benchmark's val and test splits stands in the
second training (the first met about two in a hundred by chance). Every other row begins behind its first `{BOS}`, as
rows cut from a stream of text do. The mean loss over the letters of exam answers is added {LETTER_WEIGHT:g} times.

## Optimizer
AdamW, learning rate {LEARNING_RATE:g} (second training {SECOND_LEARNING_RATE:g}) with {WARMUP_STEPS} steps of warmup
and a cosine to 5 % of it, betas 0.9, 0.95, weight decay {WEIGHT_DECAY:g}, gradients clipped at 1.

## Make it again
{commands}

Everything is seeded; another machine, thread count or torch rounds otherwise and gives slightly other weights.

## Use
Test data for fine-tuning code. It is of no use for anything else.
"""


def main() -> None:
    """Train and write everything to a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3200)
    parser.add_argument("--start", type=Path, help="go on from this folder's weights, on the second training's text")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--checkpoints", type=Path, help="folder for the model as it is every 500 steps")
    options = parser.parse_args()

    import torch

    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer()
    save_tokenizer(tokenizer, options.out)
    started = time.monotonic()

    def checkpoint(step: int, model: Any) -> None:
        model.save_pretrained(options.checkpoints / f"step-{step}")
        save_tokenizer(tokenizer, options.checkpoints / f"step-{step}")

    model, losses = train(
        tokenizer, options.steps, options.seed, options.start, checkpoint if options.checkpoints else None
    )
    model.save_pretrained(options.out)
    earlier = json.loads((options.start / STAGES).read_text()) if options.start else []
    command = f"python -m trainables.builtin.pretrain --out {'SECOND --start FIRST' if earlier else 'FIRST'}"
    stage = {
        "steps": options.steps,
        "loss": round(sum(losses[-50:]) / len(losses[-50:]), 3),
        "minutes": round((time.monotonic() - started) / 60, 1),
        "command": f"{command} --steps {options.steps} --seed {options.seed}",
    }
    (options.out / STAGES).write_text(json.dumps([*earlier, stage], indent=2) + "\n")
    (options.out / "README.md").write_text(card(model.config.to_dict(), model.num_parameters(), [*earlier, stage]))


if __name__ == "__main__":
    main()
