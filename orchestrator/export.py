"""`python -m orchestrator.export TRIAL`: write a trained model where others can load it, with a model card."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.errors import UserError


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = argparse.ArgumentParser(
        prog="python -m orchestrator.export",
        description="Write a trial's model to a folder that transformers, vLLM and TGI load, with a model card.",
    )
    command.add_argument("trial", metavar="TRIAL", help="a trial's id or the beginning of it, its label, or its folder")
    command.add_argument("--to", type=Path, help="folder to write (default: OUTPUT/exports/ID)")
    command.add_argument("--sweep", help="the sweep whose label TRIAL is, where several have it")
    command.add_argument("--merge", action="store_true", help="add an adapter to its base's weights: one whole model")
    command.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), help="type of the weights")
    command.add_argument("--quantize", choices=("int8",), help="linear layers in 8 bits, by bitsandbytes")
    command.add_argument(
        "--onnx", action="store_true", help="write onnx/model.onnx too (pip install 'finesweep[onnx]')"
    )
    command.add_argument("--output", type=Path, default=Path("outputs"), help="where records are (default: outputs)")
    return command


DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 written; 2 the request is wrong."""
    arguments = parser().parse_args(argv)
    try:
        _run(arguments)
    except (UserError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        named = f"{error.filename}: {error.strerror}. Give another --to." if error.filename else str(error)
        print(named, file=sys.stderr)
        return 2
    return 0


def _run(arguments: argparse.Namespace) -> None:
    from orchestrator.record.find import find_trial
    from orchestrator.show.card import card
    from trainables._deliver import deliver

    trial = find_trial(arguments.trial, arguments.output, arguments.sweep)
    # The adapter, not what was merged of it: a merge may be in another type, and --merge makes it anew.
    export = trial.folder / "export"
    out = (arguments.to or arguments.output / "exports" / trial.row.id).absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    described = json.loads((export / "export.json").read_text(encoding="utf-8"))

    def write_card(folder: Path, done: Any) -> None:
        text = card(trial.row, trial.base, written(trial.row, export, described, done), out.name)
        (folder / "README.md").write_text(text, encoding="utf-8")

    done = deliver(
        export,
        out,
        merge=arguments.merge,
        dtype=DTYPES.get(arguments.dtype or ""),
        quantize=arguments.quantize,
        onnx=arguments.onnx,
        finish=write_card,
    )
    print_done(done)


def written(row: Any, export: Path, described: dict[str, Any], done: Any) -> dict[str, Any]:
    """What the card is told of the files; see `orchestrator.show.card.card`."""
    from trainables._bos_zero import used_with_scaling

    config = export / "adapter_config.json"
    return {
        "kind": done.kind,
        "dtype": done.dtype,
        "quantized": done.quantized,
        "onnx": done.onnx_difference is not None,
        "base": (row.settings.get("model") or {}).get("path", described["base"]["path"]),
        "notes": done.notes,
        "quantization": described.get("quantization"),
        "scaled": used_with_scaling(export),
        "adapter": json.loads(config.read_text(encoding="utf-8")) if config.is_file() else None,
        "trust_remote_code": described.get("trust_remote_code", False),
    }


def print_done(done: Any) -> None:
    """What was written, and how near it is to the export."""
    print(f"{done.folder}")
    print(f"  {done.kind}, {done.dtype}{', ' + done.quantized if done.quantized else ''}; the card is README.md")
    if done.logit_difference is not None:
        print(
            f"  logits differ from the trial's by at most {done.logit_difference:.2g}; "
            f"the likeliest token is the same at {100 * done.same_choice:.0f} % of the positions of a probe text"
        )
    if done.onnx_difference is not None:
        print(f"  ONNX logits differ from the model's own by at most {done.onnx_difference:.2g} (float32)")
    for note in done.notes:
        print(f"  note: {note}")


if __name__ == "__main__":
    sys.exit(main())
