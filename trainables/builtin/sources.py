"""The built-in data sets by name: `content("chat")` gives bytes of JSON lines, `write` puts them into a folder.

Standard library only, so that planning a sweep stays quick; the same bytes in every process and on every machine.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from trainables.builtin import alpaca, avro
from trainables.builtin.chat import conversations, shuffled
from trainables.builtin.prompts import prompts
from trainables.builtin.questions import questions
from trainables.builtin.text import documents

TEXT_DOCUMENTS = 2000
HELD_OUT_DOCUMENTS = 200

_SOURCES: dict[str, Callable[[], Iterable[dict[str, Any]]]] = {
    "chat": conversations,
    "chat_shuffled": shuffled,
    "ifeval": prompts,
    "text": lambda: ({"text": text} for text in islice(documents("train"), TEXT_DOCUMENTS)),
    "text_heldout": lambda: ({"text": text} for text in islice(documents("held-out"), HELD_OUT_DOCUMENTS)),
    "questions": questions,
    "avro": avro.rows,
    "avro_heldout": avro.heldout,
    "alpaca": alpaca.rows,
}
NAMES: tuple[str, ...] = tuple(_SOURCES)
SCHEMAS: dict[str, dict[str, Any]] = {"avro": avro.JSON_SCHEMA}
"""JSON schemas of answers, by the name of the data that asks for them."""


@cache
def content(name: str) -> bytes:
    """The data set as UTF-8 JSON lines. An unknown name is a ValueError that lists the known ones."""
    if name not in _SOURCES:
        raise ValueError(f"built-in data must be one of {', '.join(NAMES)}; got {name!r}")
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in _SOURCES[name]()).encode()


def filename(name: str) -> str:
    """The name of the file that `write` makes."""
    if name not in _SOURCES:
        raise ValueError(f"built-in data must be one of {', '.join(NAMES)}; got {name!r}")
    return f"{name}.jsonl"


def write(name: str, folder: Path) -> Path:
    """Put the data set into the folder and return its path; a file with the same bytes is left alone."""
    return _keep(Path(folder) / filename(name), content(name))


def write_schema(name: str, folder: Path) -> Path:
    """Put a JSON schema into the folder and return its path. An unknown name is a ValueError that lists the others."""
    if name not in SCHEMAS:
        raise ValueError(f"a built-in schema must be one of {', '.join(SCHEMAS)}; got {name!r}")
    return _keep(Path(folder) / f"{name}.schema.json", (json.dumps(SCHEMAS[name], indent=1) + "\n").encode())


def _keep(path: Path, data: bytes) -> Path:
    with contextlib.suppress(FileNotFoundError):
        if path.read_bytes() == data:
            return path
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    os.replace(temporary, path)
    return path


def mini_path() -> Path:
    """The folder with the miniature's weights, tokenizer and model card."""
    return Path(__file__).parent / "mini"
