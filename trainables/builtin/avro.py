"""Requests for AVRO schemas of records about the world: few rows to learn from, others to be tried on, and the JSON
schema that such an answer has to match.

AVRO: the Apache Avro specification, 1.12, "Schema Declaration".
"""

import json
import random
from itertools import combinations
from typing import Any

from trainables.builtin.answers import FACTS

ROWS = 22
WORDINGS = (
    "Write the AVRO schema of a record with the fields {}.",
    "Give me an AVRO schema with the fields {}.",
    "I need the AVRO schema of a person with the fields {}.",
    "Answer with the AVRO schema of a record with the fields {}.",
)
ORDERS = 2
"""Rows that are held out of each set of fields, in different orders where it has several."""


def rows() -> list[dict[str, Any]]:
    """The rows to train on, `{"instruction", "response"}`."""
    rng = random.Random("avro-1")
    return [_row(rng, place, rng.sample(fields, len(fields))) for place, fields in enumerate(_sets()[0])]


def heldout() -> list[dict[str, Any]]:
    """Rows of the same kind over sets of fields that no row to train on has."""
    rng = random.Random("avro-2")
    made = []
    for fields in _sets()[1]:
        first = rng.sample(fields, len(fields))
        made += [first, [*first[1:], first[0]]][:ORDERS]
    return [_row(rng, place, fields) for place, fields in enumerate(made)]


def _sets() -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """The sets of one to three facts, dealt out: (to train on, held out). Each fact stands in both."""
    every = [fields for many in (1, 2, 3) for fields in combinations(FACTS, many)]
    random.Random("avro-sets-1").shuffle(every)
    return every[:ROWS], every[ROWS:]


def _row(rng: random.Random, place: int, facts: list[str]) -> dict[str, Any]:
    names = ["name", *facts]
    wording = WORDINGS[(place + rng.randrange(2)) % len(WORDINGS)]
    return {"instruction": wording.format(", ".join(names)), "response": schema_of(names)}


def schema_of(names: list[str]) -> str:
    """The AVRO schema of a person's record with these fields, as one line of JSON."""
    fields = [{"name": name, "type": "string"} for name in names]
    return json.dumps({"type": "record", "name": "Person", "fields": fields})


PRIMITIVES = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
NAME = {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$"}

# Types are spelled out where they stand: a name of a type that is declared elsewhere would let every word pass for one.
JSON_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "An AVRO record schema that needs no other",
    "$ref": "#/$defs/record",
    "$defs": {
        "name": NAME,
        "namespace": {"type": "string"},
        "type": {
            "anyOf": [
                {"enum": list(PRIMITIVES)},
                {"$ref": "#/$defs/record"},
                {
                    "type": "object",
                    "required": ["type"],
                    "properties": {"type": {"enum": list(PRIMITIVES)}, "logicalType": {"type": "string"}},
                },
                {
                    "type": "object",
                    "required": ["type", "items"],
                    "properties": {"type": {"const": "array"}, "items": {"$ref": "#/$defs/type"}},
                },
                {
                    "type": "object",
                    "required": ["type", "values"],
                    "properties": {"type": {"const": "map"}, "values": {"$ref": "#/$defs/type"}},
                },
                {
                    "type": "object",
                    "required": ["type", "name", "symbols"],
                    "properties": {
                        "type": {"const": "enum"},
                        "name": NAME,
                        "symbols": {"type": "array", "items": NAME, "uniqueItems": True},
                    },
                },
                {
                    "type": "object",
                    "required": ["type", "name", "size"],
                    "properties": {
                        "type": {"const": "fixed"},
                        "name": NAME,
                        "size": {"type": "integer", "minimum": 0},
                    },
                },
                {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/type"}},
            ]
        },
        "field": {
            "type": "object",
            "required": ["name", "type"],
            "properties": {
                "name": {"$ref": "#/$defs/name"},
                "type": {"$ref": "#/$defs/type"},
                "doc": {"type": "string"},
                "order": {"enum": ["ascending", "descending", "ignore"]},
            },
        },
        "record": {
            "type": "object",
            "required": ["type", "name", "fields"],
            "properties": {
                "type": {"const": "record"},
                "name": {"$ref": "#/$defs/name"},
                "namespace": {"$ref": "#/$defs/namespace"},
                "doc": {"type": "string"},
                "fields": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/field"}},
            },
        },
    },
}
