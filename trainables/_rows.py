"""Reads raw rows from where `data.path` points: JSON, JSONL or Parquet files, a folder of them, or a hub data set."""

import hashlib
import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from trainables._hub import gated, is_gated, token
from trainables._settings import DataSettings

SUFFIXES = (".json", ".jsonl", ".ndjson", ".parquet")
BLOCK_BYTES = 1 << 22
COMMIT = re.compile(r"^[0-9a-f]{40}$")


class DataError(ValueError):
    """Data that cannot be read or trained on; the message names the place, the value and the way out."""


def read_rows(data: DataSettings) -> Iterator[Any]:
    """The raw rows, at most `max_rows`, in the order of the file (of a folder's files by name).

    Raises DataError naming the file, and the line where there is one, when something cannot be read.
    """
    return islice(_rows(data), data.max_rows)


def files_of(data: DataSettings) -> list[Path] | None:
    """The files behind `data.path`, or None for a hub data set. Raises DataError where there is none.

    In a folder, files that lie in it directly go before those in folders below; hidden ones do not count.
    """
    path = Path(data.path).expanduser()
    if path.is_dir():
        found = [file for file in path.iterdir() if _is_data(file, path)]
        found = found or [file for file in path.rglob("*") if _is_data(file, path)]
        if not found:
            raise DataError(f"data.path: the folder {data.path!r} holds no {', '.join(SUFFIXES)} file.")
        return sorted(found)
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise DataError(f"data.path: must be a {', '.join(SUFFIXES)} file (got {data.path!r}).")
        return [path]
    # A hub id has at most one slash and no data suffix; anything else can only have meant a file.
    looks_local = data.path.startswith((".", "/", "~")) or data.path.count("/") > 1 or path.suffix.lower() in SUFFIXES
    if looks_local or ":" in data.path:
        raise DataError(
            f"data.path: there is no file or folder {data.path!r}. Check the path; it is seen from {Path.cwd()}."
        )
    return None


def content_hash(data: DataSettings) -> str | None:
    """SHA-256 over the bytes of the files behind `data.path`, in order; None for a hub data set."""
    files = files_of(data)
    if files is None:
        return None
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.suffix.lower()} {file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            while block := stream.read(BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()


def _is_data(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return not hidden and file.suffix.lower() in SUFFIXES and file.is_file()


def _rows(data: DataSettings) -> Iterator[Any]:
    files = files_of(data)
    if files is None:
        yield from _hub_rows(data)
        return
    for file in files:
        try:
            yield from _parquet(file) if file.suffix.lower() == ".parquet" else _json(file)
        except UnicodeDecodeError as error:
            raise DataError(f"{file}: is not UTF-8 text ({error.reason} at byte {error.start}).") from error
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror or error}).") from error


def _parquet(file: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as table:
            for batch in table.iter_batches():
                yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise DataError(f"{file}: is not a readable Parquet file ({str(error).splitlines()[0]}).") from error


def _json(file: Path) -> Iterator[Any]:
    """A JSON array, an object with the rows under "data", or one JSON object a line, whatever the file is called."""
    if file.suffix.lower() != ".json":
        yield from _lines(file)
        return
    text = file.read_text(encoding="utf-8-sig")
    try:
        whole = json.loads(text)
    except json.JSONDecodeError as error:
        # Lines of JSON under the name .json are common, and their first line is valid by itself.
        if error.msg == "Extra data" and _is_json(next((line for line in text.split("\n") if line.strip()), "")):
            yield from _lines(file)
            return
        raise DataError(f"{file}, line {error.lineno}: is not valid JSON ({error.msg}).") from error
    if isinstance(whole, dict):
        listed = whole.get("data")
        whole = listed if isinstance(listed, list) else [whole]
    if not isinstance(whole, list):
        raise DataError(f"{file}: must hold a list of rows (got {type(whole).__name__}).")
    yield from whole


def _lines(file: Path) -> Iterator[Any]:
    with file.open(encoding="utf-8-sig", newline="\n") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(
                    f"{file}, line {number}: is not valid JSON ({error.msg} at column {error.colno}). "
                    "A .jsonl file holds one JSON object a line."
                ) from error


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except json.JSONDecodeError:
        return False
    return True


def _hub_rows(data: DataSettings) -> Iterator[Any]:
    from datasets import load_dataset

    try:
        found = load_dataset(data.path, data.name, split=data.split, revision=data.revision, token=token())
        table = _at_revision(found, data)
    except Exception as error:  # datasets raises a dozen kinds for one fact: it cannot be had
        if is_gated(error):
            raise DataError(f"data.path: {gated(data.path, 'dataset')}.") from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        where = "".join(
            f", {key} {value!r}" for key, value in (("name", data.name), ("revision", data.revision)) if value
        )
        raise DataError(
            f"data.path: cannot read the hub data set {data.path!r} (split {data.split!r}{where}): {reason} "
            "Name a file or folder on disk, or check the network and HF_HUB_OFFLINE."
        ) from error
    yield from table


def _at_revision(table: Any, data: DataSettings) -> Any:
    """The table, or the one of the commit that was asked for: without a network, `datasets` gives the set that it read
    last, whatever its commit. Raises ValueError where the cache does not hold that commit."""
    commit, files = data.revision or "", [Path(file["filename"]) for file in getattr(table, "cache_files", ())]
    if not COMMIT.match(commit) or not files or all(commit in file.parts for file in files):
        return table
    from datasets import Dataset, concatenate_datasets

    folder = files[0].parent.parent / commit
    kept = sorted(folder.glob(f"*-{data.split}.arrow")) or sorted(folder.glob(f"*-{data.split}-*-of-*.arrow"))
    if not kept:
        raise ValueError("the cache holds another commit than the one asked for, and the hub cannot be asked.")
    return concatenate_datasets([Dataset.from_file(str(file)) for file in kept])
