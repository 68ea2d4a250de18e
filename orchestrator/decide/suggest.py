"""Nearest valid names, for messages that end with the way out."""

from collections.abc import Iterable
from difflib import get_close_matches

MOST_LISTED = 12
"""Names that a message lists at most."""

ALIASES = {
    "lr": "learning_rate",
    "batch_size": "global_batch",
    "global_batch_size": "global_batch",
    "train_batch_size": "global_batch",
    "per_device_train_batch_size": "micro_batch",
    "micro_batch_size": "micro_batch",
    "gradient_accumulation_steps": "accumulation",
    "grad_accum": "accumulation",
    "lr_scheduler_type": "lr_schedule",
    "lr_scheduler": "lr_schedule",
    "scheduler": "lr_schedule",
    "num_train_epochs": "epochs",
    "num_epochs": "epochs",
    "warmup": "warmup_ratio",
    "warmup_steps": "warmup_ratio",
    "save_strategy": "save_every",
    "save_steps": "save_every",
    "logging_steps": "log_every",
    "eval_strategy": "heldout_every",
    "evaluation_strategy": "heldout_every",
    "eval_steps": "heldout_every",
    "eval_every": "heldout_every",
    "patience": "early_stopping_patience",
    "metric_for_best_model": "best_metric",
    "load_best_model_at_end": "keep",
    "compute_metrics": "metrics",
    "keep_checkpoints": "save_total_limit",
    "optim": "optimizer",
    "gradient_clipping": "max_grad_norm",
    "max_norm": "max_grad_norm",
    "bf16": "precision",
    "fp16": "precision",
    "mixed_precision": "precision",
    "val_set_size": "heldout",
    "validation_split": "heldout",
    "test_size": "heldout",
    "prompt_template": "format",
    "prompt_format": "format",
    "dataset_text_field": "format",
    "train_on_inputs": "train_on",
    "seed": "seeds",
    "model_name_or_path": "path",
    "dataset_name": "path",
    "torch_dtype": "dtype",
    "attn_implementation": "attention",
    "max_seq_length": "max_length",
    "max_seq_len": "max_length",
    "cutoff_len": "max_length",
    "wd": "weight_decay",
}
"""What other tools call a setting -> what it is called here."""


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """The valid name most like `name`, or None where none is like it.

    Case and the choice between `_`, `-` and a space do not count, and the names of other tools are known. Of dotted
    names the last part counts too, so that `learning_rate` finds `train.learning_rate`; where the part before it is
    right it says nothing, so that `train.bogus` is like no other key of `train`.
    """
    names = list(dict.fromkeys(valid))
    plain = {_plain(item): item for item in reversed(names)}
    if _plain(name) in plain:
        return plain[_plain(name)]
    block, leaf = _split(name)
    inside = [item for item in names if block and _split(item)[0] == block]
    for known in (inside, names):
        leaves = {_split(item)[1]: item for item in reversed(known)}
        same = next((leaves[word] for word in _words(leaf) if word in leaves), None)
        if same:
            return same
    if inside:
        leaves = {_split(item)[1]: item for item in reversed(inside)}
        close = get_close_matches(leaf, leaves, n=1, cutoff=0.6)
        if close:
            return leaves[close[0]]
    else:
        close = get_close_matches(_plain(name), plain, n=1, cutoff=0.6)
        if close:
            return plain[close[0]]
    leaves = {_split(item)[1]: item for item in reversed(names)}
    # A key of another block than the right one that was named must be very like it.
    close = get_close_matches(leaf, leaves, n=1, cutoff=0.85 if inside else 0.75)
    return leaves[close[0]] if close else None


def nearest_file(name: str, valid: Iterable[str]) -> str | None:
    """The file name most like `name`, or None where none is like it; an ending in common is no likeness."""
    names = list(dict.fromkeys(valid))
    stems = {_plain(item.rpartition(".")[0] or item): item for item in reversed(names)}
    close = get_close_matches(_plain(name.rpartition(".")[0] or name), stems, n=1, cutoff=0.6)
    return stems[close[0]] if close else None


def did_you_mean(name: str, valid: Iterable[str], elsewhere: Iterable[str] = ()) -> str:
    """A sentence that points to the nearest valid name, and lists the valid ones where there is none near.

    `elsewhere` holds full dotted keys: a name that is valid in another place is pointed to there.
    """
    names, places = sorted(dict.fromkeys(valid)), tuple(elsewhere)
    near = nearest(name, names)
    words = _words(_split(name)[1])
    other = next((key for word in words for key in places if _split(key)[1] == word), None)
    if other and (near is None or _split(near)[1] not in words):
        near = other
    if near is None and not names:
        return "Nothing is valid here."
    listed = f"Valid: {listing(_of_its_block(name, names))}."
    if near is None:
        return listed
    return (
        f"Did you mean {near}?" if near not in names or len(names) > MOST_LISTED else f"Did you mean {near}? {listed}"
    )


def _of_its_block(name: str, names: list[str]) -> list[str]:
    block = _split(name)[0]
    return [item for item in names if block and _split(item)[0] == block] or names


def listing(names: Iterable[str]) -> str:
    """Names separated by commas; a long list is cut and counted."""
    items = list(names)
    if len(items) <= MOST_LISTED:
        return ", ".join(items)
    return f"{', '.join(items[:MOST_LISTED])} and {len(items) - MOST_LISTED} more"


def _words(leaf: str) -> tuple[str, ...]:
    """What a last part may stand for: itself, and what another tool means by it."""
    return (leaf, ALIASES[leaf]) if leaf in ALIASES else (leaf,)


def _split(name: str) -> tuple[str, str]:
    """The block of a dotted name, empty where it has none, and its last part."""
    block, _, leaf = _plain(name).rpartition(".")
    return block, leaf


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "_").replace(" ", "_")
