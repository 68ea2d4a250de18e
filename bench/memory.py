"""Measured peak memory of full fine-tuning beside the planner's estimate: python -m bench.memory

Each shape is trained for two optimizer steps of two micro batches on the CPU, in float32, with AdamW; the peak is the
allocator's own count of live bytes. Prints measured, estimated, and the ratio of the second to the first.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from trainables.builtin.sources import mini_path
from trainables.core.memory import full_fine_tuning, shape_of

RANDOM_26M = {
    "hidden_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "intermediate_size": 1376,
    "vocab_size": 8192,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}


def measured(config: Any, rows: int, tokens: int, gradient_checkpointing: bool) -> tuple[int, int]:
    """(peak of live bytes, parameters) over two steps of two micro batches."""
    import torch
    from torch.profiler import ProfilerActivity, profile
    from transformers import AutoModelForCausalLM

    from trainables.core.loss import causal_loss

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
        model.train()
        model.config.use_cache = False
        if gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        mask = torch.ones(rows, tokens, dtype=torch.long)
        mask[0, tokens // 2 :] = 0  # batches of real rows are padded
        for _ in range(2):
            for _ in range(2):
                ids = torch.randint(0, config.vocab_size, (rows, tokens))
                loss = causal_loss(model(input_ids=ids, attention_mask=mask).logits, ids)
                loss.backward()
                del loss
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    memory = [event["args"] for event in events if event.get("name") == "[memory]"]
    # The count goes on from profile to profile: what an earlier one left is not this one's.
    before = memory[0]["Total Allocated"] - memory[0]["Bytes"]
    return max(event["Total Allocated"] for event in memory) - before, parameters


def main() -> None:
    """Print the table."""
    import torch
    from transformers import AutoConfig, LlamaConfig

    torch.set_num_threads(1)
    mini, large = AutoConfig.from_pretrained(mini_path()), LlamaConfig(**RANDOM_26M)
    print(
        f"{'model':12s} {'rows':>4s} {'tokens':>6s} {'checkpointing':>13s} "
        f"{'measured MB':>12s} {'estimate MB':>12s} ratio"
    )
    for name, config, rows, tokens, checkpointing in (
        ("miniature", mini, 8, 256, False),
        ("miniature", mini, 8, 256, True),
        ("random 26 M", large, 4, 64, False),
        ("random 26 M", large, 4, 256, False),
        ("random 26 M", large, 4, 256, True),
    ):
        peak, parameters = measured(config, rows, tokens, checkpointing)
        shape = shape_of(config.to_dict(), parameters)
        assert shape is not None
        estimated = full_fine_tuning(shape, rows=rows, tokens=tokens, gradient_checkpointing=checkpointing).total
        print(
            f"{name:12s} {rows:4d} {tokens:6d} {checkpointing!s:>13s} {peak / 1e6:12.1f} {estimated / 1e6:12.1f} "
            f"{estimated / peak:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
