"""Full fine-tuning, LoRA and QLoRA, and two ways to attend, on one GPU: python -m bench.gpu [--model FOLDER]

Each case trains the same packed rows by the project's own fit, in a process of its own, in turn with the case that it
is compared with. Prints tokens per second after the first steps, the allocator's peak, and both sides' ratio.
`--device cpu` runs the same on a small model: there the peak is that of the whole process.
"""

import argparse
import os
import platform
import shutil
import statistics
import tempfile
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from trainables._settings import DataSettings, Job, ModelSettings, TrainSettings
from trainables.builtin import sources

SHAPES = {
    "cuda": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32},
    "cpu": {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 2, "num_attention_heads": 4},
}
"""Llama shapes of random weights: 1.0 G and 0.7 M parameters with the miniature's vocabulary."""
LENGTHS = {"cuda": 1024, "cpu": 64}
"""Tokens of a line."""
WARMUP = 3
"""Steps that are not timed: kernels are chosen and memory is taken in them."""


@dataclass(frozen=True)
class Case:
    """One training."""

    name: str
    method: str
    attention: str = "sdpa"
    dtype: str = "bfloat16"


FULL = Case("full, bf16", "sft")
LORA = Case("LoRA, bf16", "lora")
QLORA = Case("QLoRA, NF4", "qlora")
FLASH = Case("LoRA, flash attention", "lora", "flash_attention_2")
PAIRS = ((FULL, LORA), (FULL, QLORA), (LORA, QLORA), (LORA, FLASH))
"""What is compared: the second's numbers are divided by the first's."""


class Silent:
    """A reporter that keeps nothing."""

    rank, world_size = 0, 1

    def report(self, points: list[dict[str, float]], checkpoint: Path | None) -> None:
        """Nobody asks."""

    def resume_from(self) -> Path | None:
        """Always from the start."""

    def last_checkpoint(self) -> str | None:
        """None is kept."""


def random_model(folder: Path, device: str) -> Path:
    """A model of random weights with the miniature's tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig
    from transformers.utils import logging

    for file in sources.mini_path().glob("token*"):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder)
    config = LlamaConfig(vocab_size=1280, max_position_embeddings=2048, tie_word_embeddings=True, **SHAPES[device])
    logging.disable_progress_bar()
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


def run(case: Case, model: str, scratch: Path, device: str, steps: int, rows: int) -> dict[str, Any]:
    """Train one case in this process: tokens per second after the warmup, peak bytes, parameters that train."""
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    from trainables._fit import fit

    folder = Path(tempfile.mkdtemp(dir=scratch))
    text = str(sources.write("text", scratch))
    job = Job(
        trial_id=case.name,
        method=case.method,
        model=ModelSettings(path=model, dtype=case.dtype, attention=case.attention),
        data=DataSettings(path=text, max_length=LENGTHS[device], packing=True, heldout=0),
        train=TrainSettings(
            max_steps=steps, epochs=100, global_batch=rows, micro_batch=rows, precision="bf16", save_every="end"
        ),
        seed=0,
        folder=folder,
        cache=scratch / "cache",
        blocks={case.method: {"rank": 32, "alpha": 64}} if case.method != "sft" else {},
    )
    warnings.filterwarnings("ignore", category=FutureWarning)
    content = fit(job, Silent())
    shutil.rmtree(folder)
    return {
        "tokens_per_second": speed(content["steps"]),
        "peak_bytes": content["peak_memory_bytes"],
        "trainable": content["summary"]["trainable_parameters"],
    }


def speed(steps: list[dict[str, Any]]) -> float:
    """Tokens per second of the steps after the warmup. `tokens` are those of a step, `seconds` run from the start."""
    timed = steps[WARMUP:]
    return sum(step["tokens"] for step in timed) / (timed[-1]["seconds"] - steps[WARMUP - 1]["seconds"])


def machine(device: str) -> str:
    """What the numbers were measured on."""
    import torch

    name = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} CPU, {os.cpu_count()} cores"
    return f"{name}, torch {torch.__version__}"


def can_run(case: Case, device: str) -> bool:
    """Whether the case's attention is there."""
    from transformers.utils import is_flash_attn_2_available

    return case.attention != "flash_attention_2" or (device == "cuda" and is_flash_attn_2_available())


def compared(pairs: Any, measure: Any, repeats: int) -> dict[Case, list[dict[str, Any]]]:
    """Every case `repeats` times, the two of a pair in turn; what two pairs share is measured for each."""
    found: dict[Case, list[dict[str, Any]]] = {}
    for pair in pairs:
        for _ in range(repeats):
            for case in pair:
                found.setdefault(case, []).append(measure(case))
    return found


def lines(pairs: Any, found: dict[Case, list[dict[str, Any]]]) -> list[str]:
    """The two tables as text: each case's medians, then each pair's ratios."""
    middle = {
        case: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for case, runs in found.items()
    }
    text = [f"{'case':24s} {'tokens/s':>10s} {'peak MB':>9s} {'trains':>13s}"]
    text += [
        f"{case.name:24s} {of['tokens_per_second']:10,.0f} {of['peak_bytes'] / 1e6:9,.0f} {of['trainable']:13,.0f}"
        for case, of in middle.items()
    ]
    text += ["", f"{'second / first':48s} {'speed':>6s} {'peak':>6s}"]
    for one, other in pairs:
        speed, peak = (middle[other][key] / middle[one][key] for key in ("tokens_per_second", "peak_bytes"))
        text.append(f"{other.name + ' / ' + one.name:48s} {speed:6.2f} {peak:6.2f}")
    return text


def main() -> None:
    """Print the tables."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or hub id; a random model of 1 G parameters where none is given")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--rows", type=int, default=4, help="lines of a batch")
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.steps <= WARMUP:
        parser.error(f"--steps must be above {WARMUP}, which are not timed")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --device cpu runs a small model")
    pairs = [pair for pair in PAIRS if all(can_run(case, arguments.device) for case in pair)]
    print(machine(arguments.device), flush=True)
    if len(pairs) < len(PAIRS):
        print("left out: flash attention, as flash-attn cannot run here")
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        model = arguments.model or str(random_model(scratch / "model", arguments.device))

        def measure(case: Case) -> dict[str, Any]:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
                how = (arguments.device, arguments.steps, arguments.rows)
                return fresh.submit(run, case, model, scratch, *how).result()

        print(*lines(pairs, compared(pairs, measure, arguments.repeats)), sep="\n")


if __name__ == "__main__":
    main()
