"""Whole documents in overlapping windows: what each token's probability is, every token scored exactly once.

A document is tokenized whole and begins as the subject's BOS rule says: with BOS under `data.bos: always`, with its own
first token otherwise. Windows of `window` tokens begin at every `stride` tokens of it, and a token is scored in the
first window that reaches it, from all that stands before it there: at least window - stride tokens, but at a document's
beginning. What the BOS rule puts in front of a document it puts in front of every window (and it takes its room there),
so that a model sees at its first position what it saw there in training: under `always` each window begins with exactly
one BOS, under `template` only a document that is written with one. The very first token of a document without BOS has
nothing before it and is not scored.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evals._types import DataError, Subject

TEXT = ".txt"


@dataclass(frozen=True)
class Document:
    """One text with a key that is the same for every model."""

    key: str
    text: str


@dataclass(frozen=True)
class Stretch:
    """The tokens of a document that one window scores."""

    nll: float
    """Sum of their negative log-likelihoods, nats, float64."""
    tokens: int
    """How many they are."""
    bytes: int
    """Their share of the bytes of the document's text (UTF-8); the shares of a document's stretches add up to it."""


@dataclass(frozen=True)
class Window:
    """One row of the model: what is fed, and which positions of it are scored (each from what stands before it)."""

    ids: list[int]
    scored: range


def read_documents(path: Path, limit: int | None = None, join: str | None = None) -> list[Document]:
    """The documents of a file: a .txt file (or each of a folder) is one, and so is each row of `text` of a JSON, JSONL
    or Parquet file. With `join` the texts of all rows are one document, with that between them; `limit` keeps the first
    rows. Blank documents are left out. Raises DataError for other rows, and where nothing is left."""
    from evals._rows import keys_of, read_rows

    files = sorted(path.glob(f"*{TEXT}")) if path.is_dir() else [path] if path.suffix.lower() == TEXT else []
    if files:
        found = [Document(file.name, _read(file)) for file in files[:limit]]
    else:
        rows = read_rows(path)
        for number, row in enumerate(rows[:limit], start=1):
            if not isinstance(row.get("text"), str):
                raise DataError(
                    f"{path}: row {number} must have `text` to be read as a document (got the keys {sorted(row)}). "
                    "Name rows of text or a .txt file; conversations are scored by `roles` without `stride`."
                )
        found = [Document(key, row["text"]) for key, row in zip(keys_of(rows), rows[:limit], strict=False)]
    if join is not None:
        found = [Document("all", join.join(document.text for document in found))]
    found = [document for document in found if document.text.strip()]
    if not found:
        raise DataError(f"{path}: holds no text.")
    return found


def _read(file: Path) -> str:
    try:
        # newline="": a text is scored as it stands, its line ends too.
        with file.open(encoding="utf-8-sig", newline="") as stream:
            return stream.read()
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: is not UTF-8 text ({error.reason} at byte {error.start}).") from error
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error}).") from error


def windows(tokens: Sequence[int], lead: Sequence[int], window: int, stride: int, unscored: int = 0) -> list[Window]:
    """Rows of at most `window` tokens over a document's `tokens`, each with `lead` in front; the first of them scores
    all that it can but for the document's first `unscored` tokens, each later one what it reaches first.

    A stride that would leave a later window's first token with nothing before it is shortened to the longest that does
    not. Raises ValueError where `window` has no room to predict a token.
    """
    room = window - len(lead)
    most = room if lead else room - 1
    if most < 1:
        raise ValueError(f"a window of {window} tokens has no room to predict one after {len(lead)} in front.")
    stride = min(stride, most)
    found: list[Window] = []
    begin = reached = 0
    while reached < len(tokens):
        end = min(begin + room, len(tokens))
        first = len(lead) + max(reached, min(unscored, end)) - begin
        found.append(Window([*lead, *tokens[begin:end]], range(max(1, first), len(lead) + end - begin)))
        begin, reached = begin + stride, end
    return found


def lead_of(subject: Subject) -> list[int]:
    """What the subject's BOS rule puts in front of any text."""
    return list(subject.tokenize(""))


def document_scores(
    subject: Subject, documents: Sequence[Document], window: int, stride: int, batch_size: int
) -> list[list[Stretch]]:
    """For each document its stretches in order, one per window; none for a document with no token to score."""
    from evals._score import Request, token_logprobs

    lead, unscored = lead_of(subject), getattr(subject, "unscored", 0)
    rows: list[list[Window]] = []
    for document in documents:
        ids = list(subject.tokenize(document.text))
        # A text that is written with a BOS of its own has no second one put before it.
        body = ids[len(lead) :] if ids[: len(lead)] == lead else ids
        rows.append(windows(body, lead, window, stride, unscored))
    flat = [row for found in rows for row in found]
    scored = iter(token_logprobs(subject, [Request(row.ids, row.scored) for row in flat], batch_size))
    results = []
    for document, found in zip(documents, rows, strict=True):
        nlls = [-math.fsum(next(scored).logprobs) for _ in found]
        counts = [len(row.scored) for row in found]
        shares = _shares(subject, document.text, found)
        stretches = [Stretch(*parts) for parts in zip(nlls, counts, shares, strict=True)]
        results.append([stretch for stretch in stretches if stretch.tokens] if any(counts) else [])
    return results


def _shares(subject: Subject, text: str, found: Sequence[Window]) -> list[int]:
    """The bytes of the text over its windows: those of each one's scored tokens, and in the last what is left."""
    total = len(text.encode())
    shares: list[int] = []
    for row in found[:-1]:
        piece = subject.tokenizer.decode([row.ids[i] for i in row.scored], skip_special_tokens=True)
        shares.append(min(len(piece.encode()), total - sum(shares)))
    return [*shares, total - sum(shares)] if found else []
