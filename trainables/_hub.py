"""How the hub is asked: with HF_TOKEN from the environment alone, never with what a login has left on the disk."""

import os


def token() -> str | bool:
    """What the hub's clients take as their `token`: that of the environment, or False for none at all."""
    return os.environ.get("HF_TOKEN") or False


def gated(name: str, kind: str = "model") -> str:
    """What to tell of a gated model or data set that cannot be read: its name, and the way out."""
    from huggingface_hub import constants

    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{name}"
    if not token():
        return f"{name}: the {kind} is gated, and HF_TOKEN is not set: accept its licence at {page} and set HF_TOKEN"
    return f"{name}: the {kind} is gated, and the account of HF_TOKEN may not read it: accept its licence at {page}"


def is_gated(error: BaseException | None) -> bool:
    """Whether an error comes of a gated repository, however the libraries have wrapped it."""
    for _ in range(10):
        if error is None:
            return False
        if type(error).__name__ == "GatedRepoError" or "gated repo" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
