"""Which methods and evals there are: the folder is the registry.

A public module of `trainables/` is a method and one of `evals/` an eval; `_name.py` is machinery. Modules are imported
only when they are asked for, and import their heavy libraries inside functions.
"""

import json
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import BaseModel

NO_METHOD = "none"
"""`method: none` scores what exists; no module stands behind it."""


QUESTIONS = "questions"
"""The block that has a trial trained on multiple-choice questions, and the ROWS of a method that knows no others."""


class Registry:
    """Names of methods and evals with a way to import each. Tests make their own with stand-ins."""

    def __init__(self, methods: Mapping[str, Callable[[], Any]], evals: Mapping[str, Callable[[], Any]]) -> None:
        self._methods = dict(methods)
        self._evals = dict(evals)

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of all methods, `none` among them."""
        return (*sorted(self._methods), NO_METHOD)

    @property
    def evals(self) -> tuple[str, ...]:
        """Names of all evals."""
        return tuple(sorted(self._evals))

    def method(self, name: str) -> Any:
        """The module of a method (VERSION, SUMMARY, Config, build). An unknown name raises KeyError."""
        return self._methods[name]()

    def eval(self, name: str) -> Any:
        """The module of an eval (VERSION, Config, metrics, harness, run). An unknown name raises KeyError."""
        return self._evals[name]()

    def blocks(self, method: str) -> dict[str, type[BaseModel]]:
        """The blocks of the sweep file that a method reads, by name.

        Its own Config, where that has fields, under its own name or the one that its `BLOCK` gives (a block of the same
        settings), and what its `BLOCKS` names besides (a block shared by several methods, such as `deepspeed`).
        """
        if method == NO_METHOD:
            return {}
        module = self.method(method)
        own = {self.own_block(method): module.Config} if module.Config.model_fields else {}
        return {**own, **getattr(module, "BLOCKS", {})}

    def own_block(self, method: str) -> str:
        """Name of the block that holds a method's own Config."""
        return method if method == NO_METHOD else str(getattr(self.method(method), "BLOCK", method))

    def asks_questions(self, method: str, blocks: Mapping[str, Any]) -> bool:
        """Whether a trial with these blocks is trained on multiple-choice questions instead of conversations."""
        if method == NO_METHOD:
            return False
        return blocks.get(QUESTIONS) is not None or getattr(self.method(method), "ROWS", "") == QUESTIONS

    def trains(self, method: str, blocks: Mapping[str, Any]) -> bool:
        """Whether a trial of this method with these blocks trains anything; else it only chooses (a text prompt, say),
        and needs no workers."""
        if method == NO_METHOD:
            return False
        module = self.method(method)
        return not hasattr(module, "trains") or bool(module.trains(self._config(method, blocks)))

    def refused(self, method: str, blocks: Mapping[str, Any], train: BaseModel) -> tuple[str, object, str, str] | None:
        """(key, value, rule, way out) of a setting of the training that the method cannot do; None where there is
        none."""
        if method == NO_METHOD or not hasattr(self.method(method), "refused"):
            return None
        found: tuple[str, object, str, str] | None = self.method(method).refused(self._config(method, blocks), train)
        return found

    def shows_examples(self, method: str, blocks: Mapping[str, Any]) -> bool:
        """Whether a trial may put questions with their answers before the one that it asks."""
        if method == NO_METHOD or not hasattr(self.method(method), "shows_examples"):
            return False
        return bool(self.method(method).shows_examples(self._config(method, blocks)))

    def folders(self, method: str, blocks: Mapping[str, Any]) -> dict[str, str]:
        """Dotted key -> the folder that a method's own block names there, which is known by its content."""
        if method == NO_METHOD or not hasattr(self.method(method), "folders"):
            return {}
        found = self.method(method).folders(self._config(method, blocks))
        return {f"{self.own_block(method)}.{name}": path for name, path in found.items()}

    def _config(self, method: str, blocks: Mapping[str, Any]) -> Any:
        return self.method(method).Config.model_validate_json(json.dumps(blocks.get(self.own_block(method), {})))

    def all_blocks(self) -> dict[str, type[BaseModel]]:
        """The blocks of every method together."""
        return {name: config for method in self.methods for name, config in self.blocks(method).items()}


@cache
def installed() -> Registry:
    """The methods and evals that lie in the folders of this project."""
    return Registry(_modules("trainables"), _modules("evals"))


def _modules(package: str) -> dict[str, Callable[[], Any]]:
    found: dict[str, Callable[[], Any]] = {}
    # `__path__` rather than `__file__`: it is there for every kind of package.
    for folder in import_module(package).__path__:
        for file in sorted(Path(folder).glob("*.py")):
            if not file.name.startswith("_"):
                found[file.stem] = _importer(f"{package}.{file.stem}")
    return found


def _importer(name: str) -> Callable[[], Any]:
    return lambda: import_module(name)
