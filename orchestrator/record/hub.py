"""Hub ids -> the commit they mean now, from the local cache or from the hub; no file is fetched."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_SECONDS = 5.0
_ID = re.compile(r"^[A-Za-z0-9_][\w.-]*(?:/[\w.-]+)?$")
_COMMIT = re.compile(r"^[0-9a-f]{40}$")
_TRUE = ("1", "ON", "YES", "TRUE")


@dataclass(frozen=True)
class HubId:
    """A model or data set on the hub at a revision."""

    name: str
    revision: str
    kind: str
    """`model` or `dataset`."""

    @classmethod
    def parse(cls, name: str, revision: str | None, kind: str) -> "HubId | None":
        """None where the name cannot be an id on the hub."""
        return cls(name, revision or "main", kind) if _ID.match(name) and ".." not in name else None

    @property
    def folder(self) -> Path:
        """Where the local cache keeps it."""
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name

        return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=self.name, repo_type=self.kind)

    def snapshot(self, commit: str) -> Path | None:
        """The files of a commit in the local cache, or None where there are none."""
        place = self.folder / "snapshots" / commit
        return place if place.is_dir() else None

    def cached(self) -> str | None:
        """The commit that the local cache has for the revision."""
        if _COMMIT.match(self.revision):
            commit = self.revision
        else:
            try:
                commit = (self.folder / "refs" / self.revision).read_text(encoding="utf-8").strip()
            except OSError:
                return None
        return commit if self.snapshot(commit) and self._is_whole(commit) else None

    def _is_whole(self, commit: str) -> bool:
        """Whether there is more than a look at its configuration."""
        files = [file for file in (self.folder / "snapshots" / commit).rglob("*") if file.is_file()]
        wanted = (".safetensors", ".bin") if self.kind == "model" else (".parquet", ".json", ".jsonl", ".csv", ".arrow")
        return any(file.name.endswith(wanted) for file in files)


def is_offline() -> bool:
    """Whether the user keeps the hub's libraries from the network."""
    return any(os.environ.get(name, "").upper() in _TRUE for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


def resolve(hub: HubId) -> tuple[str | None, str | None]:
    """(commit, None), or (None, why it is not known here)."""
    cached = hub.cached()
    if cached and _COMMIT.match(hub.revision):
        return cached, None
    if is_offline():
        return (cached, None) if cached else (None, f"{hub.name}: not in the hub cache and HF_HUB_OFFLINE is set")
    commit, why = _ask(hub)
    if commit or not cached:
        return commit, why
    return cached, None


def _ask(hub: HubId) -> tuple[str | None, str | None]:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    look = HfApi().model_info if hub.kind == "model" else HfApi().dataset_info
    try:
        return look(hub.name, revision=hub.revision, timeout=TIMEOUT_SECONDS).sha, None
    except GatedRepoError:
        return None, f"{hub.name}: is gated; accept its licence on the hub and set HF_TOKEN"
    except RevisionNotFoundError:
        return None, f"{hub.name}: has no revision {hub.revision!r} on the hub"
    except RepositoryNotFoundError:
        return None, f"{hub.name}: is neither a folder here nor on the hub (a private one needs HF_TOKEN)"
    except HfHubHTTPError as error:
        return None, f"{hub.name}: not in the hub cache, and the hub answers {str(error).splitlines()[0]}"
    except Exception as error:  # each HTTP library has its own errors for one fact: no network
        return None, f"{hub.name}: not in the hub cache, and the hub cannot be reached ({type(error).__name__})"
