"""`python -m trainables._adapter_sizes FOLDER SETTINGS`: parameters of an adapter on the model of a config.json,
counted on the meta device; no weights are read.

A process of its own, because it needs torch and PEFT, which planning must not load.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FIELDS = ("peft_type", "options", "rank", "targets", "bias", "dora", "layers", "modules_to_save")
"""The settings of an adapter that its sizes follow from."""


def sizes(folder: Path, settings: Mapping[str, Any]) -> dict[str, int]:
    """{trainable, added, saved}: parameters that train, those that the adapter adds to the model, and the numbers that
    its file holds. `settings`: `FIELDS` of a block `lora`. Raises ValueError for an adapter that cannot be put on."""
    import torch
    from peft import get_peft_model_state_dict

    from trainables._adapters import attach
    from trainables._model import parameter_counts
    from trainables._shapes import empty_model
    from trainables.lora import Config

    with torch.device("meta"):
        model = empty_model(folder)
        before = parameter_counts(model)[1]
        adapted = attach(model, Config(**settings), "lora")
        saved = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    trainable, total = parameter_counts(adapted)
    return {
        "trainable": trainable,
        "added": total - before,
        "saved": sum(tensor.numel() for tensor in saved.values()),
    }


def main(arguments: Sequence[str]) -> int:
    """Print the sizes; exit code 2 and one line where there are none."""
    folder, settings = arguments
    try:
        print(json.dumps(sizes(Path(folder), json.loads(settings))))
    except (ValueError, RuntimeError, NotImplementedError, TypeError, AttributeError) as error:
        # Not every adapter can be made where there are no numbers.
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
