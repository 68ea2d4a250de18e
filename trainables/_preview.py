"""Shows rows as they are trained on: the text with its targets marked, the first tokens, BOS, and counts by role."""

from collections.abc import Sequence
from typing import Any

from trainables.core.loss import IGNORED
from trainables.core.masking import ROLE_CODES, Marked, runs

OPEN, CLOSE = "⟦", "⟧"
FIRST_TOKENS = 10


def preview_row(row: Marked, tokenizer: Any, number: int, bos: int | None = None) -> dict[str, Any]:
    """One row as JSON. `bos`: the id that stands in front, where it is not what `bos_token: auto` would take.

    {"row": its number in the data as read, "text": with targets in ⟦ ⟧, "tokens", "targets",
     "first_tokens": [{"id", "token", "label"}] (ten), "bos": {"id", "token", "position", "label"} or null where none
     stands in front, "roles": {role: {"tokens", "targets"}} for the roles that own tokens, "template" for no message's}
    """
    ids = [int(index) for index in row.ids]
    labels = [index if target else IGNORED for index, target in zip(ids, row.targets, strict=True)]
    names = {0: "template", **{code: role for role, code in ROLE_CODES.items()}}
    roles = {
        names[code]: {"tokens": int((row.roles == code).sum()), "targets": int(row.targets[row.roles == code].sum())}
        for code in (1, 2, 3, 4, 0)
        if (row.roles == code).any()
    }
    written = tokenizer.convert_ids_to_tokens(ids[:FIRST_TOKENS])
    first = [
        {"id": index, "token": str(token), "label": label}
        for index, token, label in zip(ids, written, labels, strict=False)
    ]
    return {
        "row": number,
        "text": marked_text(row, tokenizer),
        "tokens": len(row),
        "targets": int(row.targets.sum()),
        "first_tokens": first,
        "bos": _bos(ids, labels, tokenizer, bos),
        "roles": roles,
    }


def marked_text(row: Marked, tokenizer: Any) -> str:
    """The row's text, each stretch of targets between ⟦ and ⟧."""
    pieces = []
    for target, start, stop in runs(row.targets):
        text = tokenizer.decode(
            row.ids[start:stop].tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        pieces.append(f"{OPEN}{text}{CLOSE}" if target else text)
    return "".join(pieces)


def _bos(ids: Sequence[int], labels: Sequence[int], tokenizer: Any, bos: int | None) -> dict[str, Any] | None:
    from trainables._tokenizer import bos_id

    bos = bos_id(tokenizer) if bos is None else bos
    if not ids or ids[0] != bos:
        return None
    return {"id": bos, "token": str(tokenizer.convert_ids_to_tokens(bos)), "position": 0, "label": labels[0]}


def format_preview(rows: Sequence[dict[str, Any]]) -> str:
    """The block that `--preview` prints."""
    return "\n\n".join(_format(row) for row in rows)


def _format(row: dict[str, Any]) -> str:
    first = " ".join(f"{token['id']}:{token['token']!r}" for token in row["first_tokens"])
    bos = row["bos"]
    said = "none" if bos is None else f"{bos['token']} (id {bos['id']}), label {bos['label']}"
    roles = ", ".join(f"{name} {count['tokens']} ({count['targets']})" for name, count in row["roles"].items())
    return "\n".join(
        [
            f"row {row['row']}: {row['tokens']} tokens, {row['targets']} targets (marked {OPEN} {CLOSE})",
            f"  first tokens: {first}",
            f"  BOS: {said}",
            f"  tokens (targets) by role: {roles}",
            *(f"  | {line}" for line in row["text"].split("\n")),
        ]
    )
