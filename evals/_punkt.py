"""NLTK's sentence model `punkt_tab`: which IFEval instructions need it, whether it is here, no surprise downloads."""

import contextlib
import importlib
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from evals._types import Unavailable

NEEDS_PUNKT = frozenset({"length_constraints:number_sentences", "change_case:capital_word_frequency"})
"""Instruction types whose checkers call NLTK's sentence or word tokenizer; all others of lm-eval's do without."""

DOWNLOAD_TIMEOUT_SECONDS = 20.0


def is_offline(environment: Mapping[str, str]) -> bool:
    """True where the user has said that nothing may be fetched (HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE)."""
    said = (environment.get("HF_HUB_OFFLINE", ""), environment.get("TRANSFORMERS_OFFLINE", ""))
    return any(value.upper() in ("1", "ON", "YES", "TRUE") for value in said)


def import_checkers() -> None:
    """Import lm-eval's IFEval checkers without the download of punkt_tab that importing them tries, needed or not."""
    import nltk

    # It downloads what `find` does not find, and then says that it did, whether that worked or not.
    real = nltk.data.find
    nltk.data.find = lambda *_args, **_kwargs: None
    try:
        importlib.import_module("lm_eval.tasks.ifeval.instructions_util")
    finally:
        nltk.data.find = real


def require(prompts: Sequence[Mapping[str, Any]], place: str) -> None:
    """See to it that punkt_tab is here if one of the prompts needs it.

    Looks on NLTK's path, NLTK_DATA included; where it is absent and going online is allowed, lm-eval may fetch it.
    Raises Unavailable, naming the prompts, when it is needed and cannot be had.
    """
    import nltk

    needing = [row for row in prompts if NEEDS_PUNKT & set(row["instruction_id_list"])]
    if not needing:
        return
    for folder in reversed([part for part in os.environ.get("NLTK_DATA", "").split(os.pathsep) if part]):
        # NLTK reads the variable only once, when it is imported.
        if folder not in nltk.data.path:
            nltk.data.path.insert(0, folder)
    if _is_here():
        return
    if is_offline(os.environ):
        tried = "It is not fetched, because HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set."
    else:
        _fetch()
        if _is_here():
            return
        tried = "Fetching it failed."
    types = sorted({name for row in needing for name in row["instruction_id_list"]} & NEEDS_PUNKT)
    keys = [str(row["key"]) for row in needing]
    some = ", ".join(keys[:5]) + (", ..." if len(keys) > 5 else "")
    raise Unavailable(
        f"{place}: {len(keys)} of {len(prompts)} prompts (keys {some}) use {' and '.join(types)}, whose checkers need "
        f"NLTK's punkt_tab, and it is in none of {', '.join(nltk.data.path)}. {tried} Get it once where there is a "
        "network (python -m nltk.downloader punkt_tab) and set NLTK_DATA to the folder that holds tokenizers/punkt_tab."
    )


def _is_here() -> bool:
    import nltk

    try:
        nltk.data.find("tokenizers/punkt_tab/english/")
    except LookupError:
        return False
    return True


def _fetch() -> None:
    """Let lm-eval fetch punkt_tab, as it would on its own. Any failure shows in what is there afterwards."""
    from lm_eval.tasks.ifeval import instructions_util

    before = socket.getdefaulttimeout()
    # NLTK sets no timeout: a network that swallows packets would hold the eval for ever.
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_SECONDS)
    try:
        with contextlib.suppress(Exception):
            instructions_util.download_nltk_resources()
    finally:
        socket.setdefaulttimeout(before)
