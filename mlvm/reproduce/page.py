"""A report for people: one HTML file that needs no other, and the same as JSON for programs.

A notebook comes from anywhere, so nothing of it is ever markup here: every text is escaped, a picture is only ever the
`data:` URI of an `<img>`, and the page allows no scripts.
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import asdict
from html import escape
from pathlib import Path

from mlvm.errors import MlvmError
from mlvm.files import write_whole
from mlvm.reproduce.document import CellReport, OutputReport, Report, Verdict

_DATA = re.compile(r"data:image/(?:png|jpeg|gif);base64,[A-Za-z0-9+/=]+")
#: Lines of a difference that are shown.
MOST_LINES = 400

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; } code, pre { font: 13px/1.45 ui-monospace, monospace; }
pre { background: #f6f6f4; padding: .6rem .8rem; overflow-x: auto; border-radius: 4px; margin: .4rem 0; }
section { border-left: 4px solid #bbb; padding: .1rem 0 .1rem 1rem; margin: 1.2rem 0; }
section.identical, section.equal { border-color: #2a7d46; } section.different { border-color: #c77700; }
section.failed, section.not-run { border-color: #b3261e; }
.verdict { font-weight: 600; } .why { color: #666; } table.head td { padding: 0 1rem .1rem 0; vertical-align: top; }
.pair { display: flex; gap: 1rem; flex-wrap: wrap; } .pair figure { margin: 0; }
.pair img { max-width: 33rem; border: 1px solid #ddd; }
ins { background: #d6f0dd; text-decoration: none; } del { background: #fbdcd9; text-decoration: none; }
summary { cursor: pointer; color: #555; }
@media (prefers-color-scheme: dark) { body { background: #1b1b1b; color: #ddd; } pre { background: #262626; }
  ins { background: #1d4a2a; } del { background: #5a2320; } .why, summary { color: #aaa; } }
"""


def write(report: Report, path: Path) -> None:
    """Write a report as its file's name says: `.html` or `.json`. Raises MlvmError."""
    check_name(path)
    text = html(report) if path.suffix == ".html" else to_json(report)
    try:
        write_whole(path, text)
    except OSError as broken:
        raise MlvmError(f"`{path}` cannot be written: {broken.strerror or broken}") from None


def check_name(path: Path) -> None:
    """Raise MlvmError for a name that does not say what is to be written: better before a long run than after it."""
    if path.suffix not in {".html", ".json"}:
        raise MlvmError(f"`{path}`: a report is a `.html` or a `.json` file")


def to_json(report: Report) -> str:
    """Return a report as JSON."""
    return json.dumps(asdict(report), indent=1, ensure_ascii=False) + "\n"


def html(report: Report) -> str:
    """Return a report as a page."""
    title = f"{Path(report.notebook).name}: {report.outcome}"
    rows = {
        "outcome": ", ".join(f"{count} {verdict}" for verdict, count in sorted(report.counts.items())),
        "ran in": f"{report.box}, machine {report.machine}",
        "lock": report.lock_sha256,
        "began": f"{report.began}, {report.seconds:.1f} s, mlvm {report.mlvm}",
        "tolerance": "none"
        if report.tolerance.strict
        else f"numbers {report.tolerance.relative:g} relative, {report.tolerance.absolute:g} absolute; "
        f"pictures {report.tolerance.picture:g}",
    }
    head = "".join(f"<tr><td>{key}</td><td>{escape(value)}</td></tr>" for key, value in rows.items())
    notes = "".join(f"<p class=why>{escape(note)}</p>" for note in report.notes)
    body = "\n".join(map(_cell, report.cells))
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<style>{_STYLE}</style></head><body>\n"
        f"<h1>{escape(title)}</h1>\n<table class=head>{head}</table>\n{notes}\n{body}\n</body></html>\n"
    )


def _cell(cell: CellReport) -> str:
    kind = cell.verdict.value.replace(" ", "-")
    time = "" if cell.seconds is None else f" <span class=why>{cell.seconds:.2f} s</span>"
    said = [escape(cell.why)] if cell.why else []
    said += [f"looked past: {escape(', '.join(cell.reasons))}"] if cell.reasons else []
    is_open = cell.verdict not in {Verdict.IDENTICAL, Verdict.EQUAL, Verdict.NOT_COMPARED}
    outputs = "".join(_output(one) for one in cell.outputs)
    folded = (
        f"<details{' open' if is_open else ''}><summary>outputs</summary>{outputs}</details>"
        if outputs
        else ""
    )
    return (
        f'<section class="{kind}"><p><span class=verdict>cell {cell.number}: {cell.verdict}</span>{time}'
        f"<br><span class=why>{'<br>'.join(said)}</span></p><pre>{escape(cell.source)}</pre>{folded}</section>"
    )


def _output(one: OutputReport) -> str:
    said = (
        "the same" if one.same and not one.reasons else one.why or f"alike but for: {', '.join(one.reasons)}"
    )
    head = f"<p class=why>{escape(one.form)}: {escape(said)}</p>"
    if any(_DATA.fullmatch(side) for side in (one.stored, one.now)):
        return f"{head}<div class=pair>{_picture('stored', one.stored)}{_picture('now', one.now)}</div>"
    if one.stored == one.now:
        return f"{head}<pre>{escape(one.now)}</pre>"
    return f"{head}<pre>{_difference(one.stored, one.now)}</pre>"


def _picture(name: str, source: str) -> str:
    shown = f'<img alt="{name}" src="{source}">' if _DATA.fullmatch(source) else escape(source)
    return f"<figure><figcaption class=why>{name}</figcaption>{shown}</figure>"


def _difference(stored: str, now: str) -> str:
    """Return two texts as one with what went and what came, by lines."""
    before, after = stored.splitlines(), now.splitlines()
    if len(before) > MOST_LINES or len(after) > MOST_LINES:
        return f"<del>{escape(stored)}</del>\n<ins>{escape(now)}</ins>"
    lines = []
    for line in difflib.ndiff(before, after):
        mark, rest = line[:1], escape(line[2:])
        if mark == "-":
            lines.append(f"<del>- {rest}</del>")
        elif mark == "+":
            lines.append(f"<ins>+ {rest}</ins>")
        elif mark == " ":
            lines.append(f"  {rest}")
    return "\n".join(lines)
