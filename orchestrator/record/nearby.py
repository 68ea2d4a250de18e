"""What to say of a name that stands for nothing: the mistake, and the name most like it that would."""

from collections.abc import Callable, Iterable
from pathlib import Path

from orchestrator.decide.suggest import nearest, nearest_file
from orchestrator.errors import MissingDataError, Mistake
from trainables._rows import SUFFIXES


def looks_local(name: str, suffixes: tuple[str, ...]) -> bool:
    """Whether a name is meant as a path of this machine, and not as an id on the hub."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(name).suffix.lower() in suffixes


def holds_rows(name: str, kind: str) -> Callable[[Path], bool]:
    """Whether a file or folder may be what the data `name` stands for."""
    own = Path(name).suffix.lower()
    suffixes = (*SUFFIXES, own) if kind != "train" and own else SUFFIXES

    def wanted(entry: Path) -> bool:
        is_folder = not own and entry.is_dir() and not entry.name.startswith(".")
        return is_folder or (entry.is_file() and entry.suffix.lower() in suffixes)

    return wanted


def missing(key: str, name: str, rule: str, wanted: Callable[[Path], bool]) -> MissingDataError:
    """The mistake of a path that is not there, with the wanted name most like it."""
    near = nearby(name, wanted)
    fix = f"Did you mean {near}?" if near else f"Check the path; it is seen from {Path.cwd()}."
    return MissingDataError(str(Mistake(key, name, rule, fix)))


def nearby(name: str, wanted: Callable[[Path], bool]) -> str | None:
    """The wanted name most like it in the same folder, as it would be written; None where there is none."""
    path = Path(name).expanduser()
    try:
        near = nearest_file(path.name, sorted(entry.name for entry in path.parent.iterdir() if wanted(entry)))
    except OSError:
        return None
    return None if near is None else f"{name[: len(name.rstrip('/')) - len(path.name)]}{near}"


def unknown(key: str, name: str, rule: str, valid: Iterable[str]) -> MissingDataError:
    """The mistake of a name that is none of the valid ones, with the one most like it."""
    names = list(valid)
    near = nearest(name, names)
    fix = f"Did you mean {near}? " if near else ""
    return MissingDataError(str(Mistake(key, name, rule, f"{fix}There is {', '.join(names)}.")))
