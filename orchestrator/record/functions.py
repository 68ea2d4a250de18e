"""Looks for a user's own functions without importing anything: their modules may load torch."""

import sys
from importlib.machinery import PathFinder
from pathlib import Path

from orchestrator.decide.suggest import nearest
from orchestrator.errors import MissingDataError, Mistake


def check_function(spec: str, key: str) -> None:
    """Raise MissingDataError where the module of `module:function` is not found from here."""
    module = spec.partition(":")[0]
    path = [str(Path.cwd()), *sys.path]
    folders: list[str] | None = path
    name = ""
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        found = PathFinder.find_spec(name, folders) if folders is not None else None
        if found is None:
            near = nearest(module, _modules())
            fix = f"Did you mean {near}:{spec.partition(':')[2]}?" if near else f"It is looked for in {Path.cwd()}."
            raise MissingDataError(str(Mistake(key, spec, f"there is no module {name}", fix)))
        locations = found.submodule_search_locations
        folders = list(locations) if locations is not None else None


def _modules() -> list[str]:
    """Modules that lie in the current folder."""
    return sorted(path.stem for path in Path.cwd().glob("*.py"))
