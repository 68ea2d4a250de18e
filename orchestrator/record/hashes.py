"""SHA-256 of files, remembered by their stat so that large ones are read once."""

import hashlib
import json
import os
import time
from pathlib import Path

from orchestrator.record.ledger import read_json, write_text

BLOCK_BYTES = 1 << 22
SETTLED_NS = 2_000_000_000
"""A file changed less than two seconds ago may change again without its times showing it: it is not remembered."""


class FileHashes:
    """Hashes by (path, size, mtime, ctime, inode), in memory for every file and on disk for those asked to be."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._memory: dict[str, str] = {}
        self._loaded = False

    def of(self, file: Path, remember: bool = False) -> str:
        """The file's SHA-256. With `remember` the answer is kept on disk for other processes."""
        before = os.stat(file)
        key = _key(file, before)
        if key in self._memory:
            return self._memory[key]
        if remember and key in self._read():
            self._memory[key] = self._read()[key]
            return self._memory[key]
        digest = hashlib.sha256()
        with file.open("rb") as stream:
            while block := stream.read(BLOCK_BYTES):
                digest.update(block)
        found = digest.hexdigest()
        settled = time.time_ns() - max(before.st_mtime_ns, before.st_ctime_ns) > SETTLED_NS
        if settled and _key(file, os.stat(file)) == key:
            self._memory[key] = found
            if remember:
                self._keep(key, found)
        return found

    def _read(self) -> dict[str, str]:
        """What the disk remembers; nothing where the file is absent or damaged."""
        content = read_json(self.path) or {}
        return {key: value for key, value in content.items() if isinstance(value, str) and len(value) == 64}

    def _keep(self, key: str, found: str) -> None:
        place = key.split("\0", 1)[0]
        # One entry a file: what it was before is of no use.
        others = {known: value for known, value in self._read().items() if known.split("\0", 1)[0] != place}
        try:
            write_text(self.path, json.dumps({**others, key: found}, indent=1) + "\n")
        except OSError:
            return  # A cache that cannot be written costs time, not the answer.


def _key(file: Path, stat: os.stat_result) -> str:
    return f"{file.absolute()}\0{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}"
