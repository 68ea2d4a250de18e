"""Blocks of the sweep file that say how one trial is spread over devices; every method reads them."""

from trainables._settings import Settings

PARALLEL: dict[str, type[Settings]] = {}
"""Block name -> its settings."""
