"""Specs as text: YAML written by an emitter, so that no value can break out of its place.

`standing_alone` writes a spec that means the same without the files that it was read with: for wherever a lock travels
alone, in a notebook say.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import yaml

from mlvm.spec import nodes
from mlvm.spec.document import MachineShape, Spec
from mlvm.spec.nodes import Kind

_UNITS = (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20))


class _Dumper(yaml.SafeDumper):
    """Writes YAML as people do: entries of lists indented, quotes double, and where any reader needs them."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if nodes.kind_of(text) is Kind.TEXT else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def dump(fields_: dict[str, Any]) -> str:
    """Return fields as the text of a spec."""
    return yaml.dump(fields_, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


def standing_alone(spec: Spec) -> str:
    """Return the text of a spec that needs no other file.

    What only this host can say stays behind: folders that are shared, ports that are forwarded. So do `machines`: one
    is enough for a notebook.
    """
    said: dict[str, Any] = {"name": spec.name, "debian": spec.debian, "python": spec.python}
    said["packages"] = list(spec.packages)
    said |= {key: list(value) for key in ("sdists", "apt", "preload") if (value := getattr(spec, key))}
    said |= {key: dict(value) for key in ("index", "env") if (value := getattr(spec, key))}
    if spec.cuda is not None:
        wish = {one.name: getattr(spec.cuda, one.name) for one in fields(spec.cuda)}
        said["cuda"] = {
            key: list(value) if isinstance(value, tuple) else value for key, value in wish.items() if value
        }
    said["machine"] = _machine(spec.machine)
    if spec.network != "user":
        said["network"] = spec.network
    return dump(said)


def _machine(shape: MachineShape) -> dict[str, Any]:
    memory: Any = _size(shape.memory)
    if shape.memory_min is not None:
        memory = {"min": _size(shape.memory_min), "max": memory}
    said = {"cpus": shape.cpus, "memory": memory, "disk": _size(shape.disk), "gpu": shape.gpu}
    return {key: value for key, value in said.items() if value}


def _size(count: int) -> str:
    unit, factor = next((unit, factor) for unit, factor in _UNITS if count % factor == 0 and count >= factor)
    return f"{count // factor} {unit}"
