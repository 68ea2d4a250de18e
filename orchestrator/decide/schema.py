"""The JSON schema of sweep files, for editors: every block with its help, and which fields are part of a trial's id."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from orchestrator.decide.fields import Blocks
from orchestrator.decide.layers import SHORTHAND
from orchestrator.decide.search import BOUNDS, Keys
from orchestrator.decide.settings import Head, Objective, Search, Tracking
from orchestrator.decide.trials import COMMON
from orchestrator.registry import Registry

TITLE = "finesweep sweep file"
DRAFT = "https://json-schema.org/draft/2020-12/schema"


def sweep_schema(registry: Registry) -> dict[str, Any]:
    """The schema of a file, with the blocks of all methods, the settings of all evals and the keys that can be swept.

    In the blocks of trials and evals a field that changes results is marked `"role": "result"`, one that does not
    `"role": "execution"`.
    """
    definitions: dict[str, Any] = {}
    blocks: Blocks = {**COMMON, "tracking": Tracking, **registry.all_blocks()}
    layer: dict[str, Any] = {**block(Head, definitions, roles=False)["properties"]}
    for name, model in blocks.items():
        found = block(model, definitions)
        layer[name] = {"anyOf": [{"type": "string"}, found]} if name in SHORTHAND else found
    layer |= {
        "method": {
            "enum": list(registry.methods),
            "default": "sft",
            "description": "How the trials are trained; `none` scores what exists.",
        },
        "adapter": {
            "type": ["string", "null"],
            "description": "For `method: none`: the folder or hub id of an adapter to put on the model.",
        },
        "evals": _evals(registry, definitions),
        "objective": _objective(definitions),
        "search": _search(Keys(blocks, registry.methods), definitions),
    }
    # In a profile any key may be null: it takes away what stands below it.
    profile = {"type": ["object", "null"], "properties": {name: _or_null(value) for name, value in layer.items()}}
    return {
        "$schema": DRAFT,
        "title": TITLE,
        "type": "object",
        "properties": {
            **layer,
            "profiles": {
                "type": "object",
                "description": "Layers by name, laid over the file key by key; lists and search.axes are replaced "
                "whole, null removes. `demo` is taken where no --profile is given.",
                "additionalProperties": {**profile, "additionalProperties": False},
            },
        },
        "additionalProperties": False,
        "$defs": definitions,
    }


def block(model: type[BaseModel], definitions: dict[str, Any], roles: bool = True) -> dict[str, Any]:
    """The schema of one block, with `role` on every field where asked; models inside it go to `definitions`."""
    schema = model.model_json_schema(ref_template="#/$defs/{model}")
    for name, inner in schema.pop("$defs", {}).items():
        definitions[name] = _marked(inner, roles)
    # What a layer leaves out another may bring.
    schema.pop("required", None)
    return _marked(schema, roles)


def _marked(schema: dict[str, Any], roles: bool) -> dict[str, Any]:
    for field in schema.get("properties", {}).values():
        if roles:
            field.setdefault("role", "result")
        field.pop("title", None)
    return schema


def _or_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"anyOf": [dict(schema), {"type": "null"}]}


def _evals(registry: Registry, definitions: dict[str, Any]) -> dict[str, Any]:
    configs = {name: _or_null(block(registry.eval(name).Config, definitions)) for name in registry.evals}
    names = {"type": "array", "items": {"enum": list(registry.evals)}}
    return {
        "description": "How every trial is scored: evals by name, each with its settings.",
        "anyOf": [{"type": "object", "properties": configs, "additionalProperties": False}, names],
    }


def _objective(definitions: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [block(Objective, definitions, roles=False), {"type": "string"}]}


def _search(keys: Keys, definitions: dict[str, Any]) -> dict[str, Any]:
    schema = block(Search, definitions, roles=False)
    kinds = [
        {
            "type": "object",
            "properties": {kind: {"type": "array", "items": {"type": "number"}, "minItems": count, "maxItems": count}},
            "required": [kind],
            "additionalProperties": False,
        }
        for kind, count in BOUNDS.items()
    ]
    kinds.append(
        {
            "type": "object",
            "properties": {"choice": {"type": "array", "minItems": 1}},
            "required": ["choice"],
            "additionalProperties": False,
        }
    )
    axis = {"anyOf": [{"type": "array", "minItems": 1}, *kinds]}
    blocks = [*keys.blocks]
    schema["properties"]["axes"] = {
        "type": "object",
        "description": Search.model_fields["axes"].description,
        "properties": dict.fromkeys((*keys.valid(), *blocks), axis),
        # Keys that move together are one name with commas.
        "patternProperties": {",": {"type": "array", "items": {"type": "array"}, "minItems": 1}},
        "additionalProperties": False,
    }
    return schema
