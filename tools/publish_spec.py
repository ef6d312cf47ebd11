"""Write what is made from the table of fields: the JSON Schema for editors, and the tables of docs/spec.md.

Run it after a change in `mlvm/spec/table.py`; a test fails until then.
"""

from __future__ import annotations

from pathlib import Path

from mlvm.files import write_whole
from mlvm.spec.schema import SCHEMA_NAME, reference, schema_text

ROOT = Path(__file__).parent.parent
BEGIN = "<!-- made by tools/publish_spec.py: begin -->\n"
END = "<!-- made by tools/publish_spec.py: end -->"


def with_reference(page: str) -> str:
    """Return the page with its tables made anew."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit("docs/spec.md has lost the lines that say where its tables go")
    return f"{before}{BEGIN}\n{reference()}\n{END}{after}"


def main() -> None:
    """Write both."""
    page = ROOT / "docs" / "spec.md"
    write_whole(page, with_reference(page.read_text()))
    write_whole(ROOT / "templates" / SCHEMA_NAME, schema_text())


if __name__ == "__main__":
    main()
