"""The document described for editors (JSON Schema 2020-12) and for people (Markdown), from the table of fields.

`templates/mlvm.schema.json` and the tables in `docs/spec.md` are written from here by `tools/publish_spec.py`, and a
test holds them equal. What a schema cannot say, the reader alone checks: that YAML itself is used plainly, that a
requirement is one, that no package or port is there twice, and that named files and templates exist.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mlvm.spec.fields import Field
from mlvm.spec.machines import ready
from mlvm.spec.scalars import Schema
from mlvm.spec.table import cuda, document, machine, members

SCHEMA_NAME = "mlvm.schema.json"


def schema() -> Schema:
    """Return the JSON Schema of `mlvm.yaml`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:mlvm:{SCHEMA_NAME}",
        "title": "mlvm.yaml",
        "description": "What a locked, reproducible VM with a Jupyter kernel is made from.",
        **document.schema(),
        "allOf": [
            {
                "if": {"properties": {"machines": {"minProperties": 1}}, "required": ["machines"]},
                "then": {"properties": {"ports": False}},
            }
        ],
    }


def schema_text() -> str:
    """Return the JSON Schema as the text that is published."""
    return json.dumps(schema(), indent=2) + "\n"


def reference() -> str:
    """Return the Markdown tables of all fields."""
    tables = [
        *_table("Fields of the document", document.fields),
        *_table("Fields of `machine`", machine.fields),
        *_table("Further fields of each of `machines`", _further()),
        *_table("Fields of `ready`", ready.fields),
        *_table("Fields of `cuda`", cuda.fields),
    ]
    return "\n".join(tables)


def _further() -> Mapping[str, Field]:
    return {name: one for name, one in members.fields.items() if name not in machine.fields}


def _table(title: str, fields: Mapping[str, Field]) -> list[str]:
    rows = [
        f"| `{name}` | {one.text}{' Required.' if one.required else ''} | {_default(one)} | {_examples(one)} |"
        for name, one in fields.items()
    ]
    return [
        f"### {title}",
        "",
        "| field | what it is for | default | example |",
        "|---|---|---|---|",
        *rows,
        "",
    ]


def _default(one: Field) -> str:
    return "" if one.default is None else f"`{_value(one.default)}`"


def _examples(one: Field) -> str:
    return ", ".join(f"`{_value(example)}`" for example in one.examples)


def _value(value: Any) -> str:
    """Write a value as YAML in one line; JSON is YAML, and text that needs no quotes gets none."""
    if isinstance(value, str) and not value[:1].isdigit():
        return value
    if isinstance(value, str) and " " in value:
        return value
    return json.dumps(value)
