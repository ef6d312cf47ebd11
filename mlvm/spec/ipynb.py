"""Notebooks as the documents they are: JSON, read without running or converting anything.

What is asked of a notebook here is little: its code, the language and version it was run with, and a place in its
metadata. Writing back keeps what was there (the order of keys, the indent, the final newline), so that putting a lock
into a notebook is a change of one block in version control.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlvm.errors import MlvmError
from mlvm.files import write_whole

#: Outputs are in the file: a notebook with pictures is easily some megabytes.
MOST_BYTES = 256 * 1024 * 1024
#: What mlvm writes into a notebook stands under this key of its metadata.
KEY = "mlvm"


@dataclass(frozen=True, kw_only=True, slots=True)
class Notebook:
    """A notebook's document, and how its text was laid out."""

    path: Path
    content: dict[str, Any]
    indent: int | None = 1
    end: str = "\n"

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The notebook's own metadata."""
        found = self.content.get("metadata")
        return found if isinstance(found, dict) else {}

    @property
    def language(self) -> str:
        """The language it was written in, in lower case; Python where it does not say."""
        said = self._info("language_info", "name") or self._info("kernelspec", "language")
        return said.lower() or "python"

    @property
    def python(self) -> str:
        """The Python it was last run with, such as "3.8.10"; empty where it does not say."""
        said = self._info("language_info", "version")
        return said if re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3}){0,2}", said) else ""

    def codes(self) -> Iterator[str]:
        """Yield the text of each code cell."""
        for cell in self.content.get("cells", ()):
            if isinstance(cell, dict) and cell.get("cell_type") == "code":
                source = cell.get("source", "")
                yield "".join(map(str, source)) if isinstance(source, list) else str(source)

    def _info(self, table: str, key: str) -> str:
        found = self.metadata.get(table)
        value = found.get(key) if isinstance(found, dict) else None
        return value if isinstance(value, str) else ""


def read(path: Path) -> Notebook:
    """Read a notebook. Raises MlvmError that says why a file is none."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise MlvmError(f"`{path}` is larger than {MOST_BYTES >> 20} MiB")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as broken:
        raise MlvmError(f"notebook `{path}` cannot be read: {broken.strerror or broken}") from None
    except UnicodeDecodeError:
        raise MlvmError(f"`{path}` is no notebook: it is not UTF-8") from None
    return parse(text, path)


def parse(text: str, path: Path) -> Notebook:
    """Read a notebook from its text."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as broken:
        raise MlvmError(f"`{path}` is no notebook: it is not JSON", details=str(broken)[:200]) from None
    if not isinstance(content, dict) or "nbformat" not in content:
        raise MlvmError(f"`{path}` is no notebook: it does not say its `nbformat`")
    if content["nbformat"] != 4 or not isinstance(content.get("cells"), list):
        raise MlvmError(
            f"`{path}` is a notebook of format {str(content['nbformat'])[:20]}; mlvm reads 4",
            hint=f"jupyter nbconvert --to notebook --nbformat 4 {path.name}",
        )
    found = re.search(r"\n( +)\S", text)
    end = text[len(text.rstrip()) :]
    return Notebook(path=path, content=content, indent=len(found[1]) if found else None, end=end)


def with_metadata(notebook: Notebook, value: object) -> Notebook:
    """Return the notebook with `value` under our key of its metadata, or without the key for None."""
    metadata = {key: old for key, old in notebook.metadata.items() if key != KEY}
    if value is not None:
        metadata[KEY] = value
        if list(notebook.metadata) == sorted(notebook.metadata):  # as nbformat writes it
            metadata = dict(sorted(metadata.items()))
    content = {**notebook.content, "metadata": metadata}
    return replace(notebook, content=content)


def at(notebook: Notebook, path: Path) -> Notebook:
    """Return the notebook as one that is saved elsewhere."""
    return replace(notebook, path=path)


def dumps(notebook: Notebook) -> str:
    """Return the notebook's text, laid out as it was."""
    separators = (",", ": ") if notebook.indent is not None else None
    text = json.dumps(notebook.content, indent=notebook.indent, ensure_ascii=False, separators=separators)
    return text + notebook.end


def save(notebook: Notebook) -> None:
    """Write the notebook to its file, whole; the file keeps its mode. Raises MlvmError."""
    try:
        mode = notebook.path.stat().st_mode & 0o777 if notebook.path.exists() else 0o644
        write_whole(notebook.path, dumps(notebook), mode=mode)
    except OSError as broken:
        raise MlvmError(
            f"notebook `{notebook.path}` cannot be written: {broken.strerror or broken}"
        ) from None
