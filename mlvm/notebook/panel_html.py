"""The panel as HTML and as text: functions of what was seen, so that a page without widgets shows the same.

Names, paths and reasons come from files that anybody may have written: every one of them is escaped here.
"""

from __future__ import annotations

import re
import time
from html import escape
from pathlib import Path

from mlvm import files
from mlvm.errors import MlvmError
from mlvm.machine.check import Check
from mlvm.machine.overview import KEPT, Figures, Seen
from mlvm.machine.provider import State
from mlvm.machine.qemu.state import tail
from mlvm.notebook.display import Table, render
from mlvm.notebook.plots import plot
from mlvm.notebook.watcher import View
from mlvm.paths import LOCK_NAME
from mlvm.spec.document import GIB
from mlvm.terminal import size

EMPTY = "no machines yet; next: %mlvm up BOX"
#: Lines of a console that are shown.
CONSOLE_LINES = 14
#: What a console says to a terminal rather than to a reader: colours, moves of the cursor, titles.
CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]?|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-Z\\-_]|[\x00-\x08\x0b-\x1f\x7f]"
)

COLOURS = {
    State.RUNNING: "var(--jp-success-color1, #388e3c)",
    State.STARTING: "var(--jp-info-color1, #0097a7)",
    State.SUSPENDED: "var(--jp-warn-color1, #f57c00)",
    State.STOPPED: "var(--jp-ui-font-color3, #9e9e9e)",
    State.ABSENT: "var(--jp-ui-font-color3, #9e9e9e)",
    State.BROKEN: "var(--jp-error-color1, #d32f2f)",
}

#: Grey: to be seen on light and on dark, as the widgets' own, which is always dark, is not.
ARROW = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 18 18'%3E"
    "%3Cpath d='M4 7l5 5 5-5z' fill='%23888'/%3E%3C/svg%3E"
)
STYLE = """<style>
.mlvm-panel { font-family: var(--jp-ui-font-family, sans-serif); font-size: var(--jp-ui-font-size1, 13px);
  color: var(--jp-ui-font-color1, inherit); max-width: 860px; }
.mlvm-panel .widget-html-content, .mlvm-panel .jupyter-widgets { line-height: 1.5; }
.mlvm-panel .widget-html { margin: 0; height: auto; }
.mlvm-panel .widget-html-content { font-size: inherit; color: inherit; }
.mlvm-card { border: 1px solid var(--jp-border-color2, #e0e0e0); border-radius: 6px; padding: 8px 12px;
  margin: 0 0 8px; background: var(--jp-layout-color1, transparent); overflow: hidden; }
.mlvm-panel .widget-button { font-size: 12px; line-height: 24px; height: 26px; border-radius: 4px; padding: 0 9px;
  margin: 1px 0 1px 4px; width: auto; background: var(--jp-layout-color2, #eee); color: var(--jp-ui-font-color1, #222);
  box-shadow: none; }
.mlvm-panel .widget-button:hover:enabled { background: var(--jp-layout-color3, #ddd); box-shadow: none; }
.mlvm-panel .widget-button:focus-visible { outline: 2px solid var(--jp-brand-color1, #1976d2); }
.mlvm-panel .widget-button:disabled { opacity: .45; }
.mlvm-panel .widget-dropdown > select { background-image: url("ARROW"); }
.mlvm-panel .widget-button.mlvm-danger { background: var(--jp-error-color1, #d32f2f); color: #fff; }
.mlvm-panel .widget-button .fa { margin-right: 5px; font-size: 11px; }
.mlvm-panel .widget-button.mlvm-bare { background: transparent; color: var(--jp-ui-font-color2, #666); }
.mlvm-panel .widget-button.mlvm-bare .fa { margin-right: 0; }
.mlvm-name { font-weight: 600; font-size: 115%; margin-right: 8px; overflow-wrap: anywhere; }
.mlvm-dot { display: inline-block; width: 9px; height: 9px; border-radius: 50%; margin-right: 7px; }
.mlvm-dim { color: var(--jp-ui-font-color2, #757575); }
.mlvm-facts { display: flex; flex-wrap: wrap; gap: 0 14px; font-size: 92%; color: var(--jp-ui-font-color2, #757575);
  overflow-wrap: anywhere; }
.mlvm-facts code { font-size: 95%; color: inherit; background: none; }
.mlvm-plots { display: flex; flex-wrap: wrap; gap: 8px 18px; margin-top: 6px; }
.mlvm-figure { flex: 1 1 120px; max-width: 220px; min-width: 110px; }
.mlvm-figure > div { display: flex; justify-content: space-between; font-size: 88%; }
.mlvm-plot { width: 100%; height: 30px; display: block; border-bottom: 1px solid var(--jp-border-color2, #e0e0e0); }
.mlvm-console { font-family: var(--jp-code-font-family, monospace); font-size: 11px; line-height: 1.35; margin: 0;
  padding: 6px 8px; border-radius: 4px; background: var(--jp-layout-color2, #f5f5f5); white-space: pre-wrap;
  overflow-wrap: anywhere; max-height: 240px; overflow-y: auto; }
.mlvm-error { border-left: 3px solid var(--jp-error-color1, #d32f2f); padding: 2px 0 2px 9px; margin-top: 6px;
  white-space: pre-wrap; overflow-wrap: anywhere; }
.mlvm-reason { font-size: 92%; color: var(--jp-ui-font-color2, #757575); white-space: pre-wrap; }
.mlvm-work { margin-top: 6px; }
.mlvm-panel .mlvm-work table { margin: 2px 0; border: 0; font-size: inherit; }
.mlvm-panel .mlvm-work td { padding: 0 10px 0 0; line-height: 1.45; border: 0; }
.mlvm-ask { border-left: 3px solid var(--jp-warn-color1, #f57c00); padding-left: 9px; }
.mlvm-panel details { font-size: 92%; margin: 0 0 6px; color: var(--jp-ui-font-color2, #757575); }
.mlvm-panel summary { cursor: pointer; }
</style>""".replace("ARROW", ARROW)


def text(view: View) -> str:
    """Return what was seen as plain text: for a console, and for whoever reads a notebook without widgets."""
    return repr(_table(view))


def page(view: View) -> str:
    """Return what was seen as HTML that needs neither widgets nor scripts."""
    cards = "".join(
        f'<div class="mlvm-card">{title(one)}{facts(one)}{reasons(one)}</div>' for one in view.seen
    )
    return f'{STYLE}<div class="mlvm-panel">{cards or escape(EMPTY)}</div>'


def heading(view: View) -> str:
    """Return the panel's first line."""
    if not view.looked:
        return '<b>mlvm</b> <span class="mlvm-dim">looking …</span>'
    running = sum(one.condition.state is State.RUNNING for one in view.seen)
    count = len(view.seen)
    said = f"{count} machine{'' if count == 1 else 's'}, {running} running" if count else "no machines yet"
    return f'<b>mlvm</b> <span class="mlvm-dim">&nbsp;{said}</span>'


def title(seen: Seen) -> str:
    """Return a machine's name and state."""
    state = seen.condition.state
    return (
        f'<span class="mlvm-dot" style="background:{COLOURS[state]}"></span>'
        f'<span class="mlvm-name">{escape(seen.name)}</span><span class="mlvm-dim">{escape(state)}</span>'
    )


def facts(seen: Seen) -> str:
    """Return what a machine is: its size, its image, its lock, its project."""
    record = seen.record
    if record is None:
        return ""
    shape = record.shape
    project = Path(record.project)
    said = [
        f"{shape.cpus} CPU{'' if shape.cpus == 1 else 's'}, {shape.memory / GIB:g} GiB",
        f'<span title="{escape(record.image_id)}">image <code>{escape(record.image_id[:12])}</code></span>',
    ]
    if (lock := lock_digest(project)) is not None:
        said.append(
            f'<span title="sha256 of {escape(str(project / LOCK_NAME))}">lock <code>{lock[:12]}</code></span>'
        )
    said.append(f'<span title="{escape(record.project)}">{escape(project.name or record.project)}</span>')
    if seen.usage is not None and seen.usage.disk is not None:
        said.append(f"{size(seen.usage.disk)} on disk")
    return '<div class="mlvm-facts">' + "".join(f"<span>{one}</span>" for one in said) + "</div>"


def reasons(seen: Seen) -> str:
    """Return why a machine is in a surprising state."""
    if not seen.condition.reasons:
        return ""
    look = "mlvm-error" if seen.condition.state is State.BROKEN else "mlvm-reason"
    return f'<div class="{look}">{escape(chr(10).join(seen.condition.reasons))}</div>'


def plots(seen: Seen, figures: Figures) -> str:
    """Return what a running machine used over the last minutes."""
    if seen.condition.state is not State.RUNNING or seen.record is None:
        return ""
    shape = seen.record.shape
    now = time.monotonic() if seen.usage is None else seen.usage.taken
    drawn = [
        ("CPU", figures.cpu, shape.cpus, _percent, "--jp-info-color1, #0097a7"),
        ("memory", figures.memory, shape.memory, size, "--jp-brand-color1, #1976d2"),
        ("disk", figures.disk, 1e6, _rate, "--jp-warn-color1, #f57c00"),
        ("network", figures.network, 1e5, _rate, "--jp-success-color1, #388e3c"),
    ]
    parts = []
    for name, figure, top, said, colour in drawn:
        shown = "-" if figure.last is None else said(figure.last)
        svg = plot(
            figure,
            now=now,
            span=KEPT,
            top=top,
            colour=f"var({colour})",
            title=f"{name}, last {KEPT / 60:g} minutes",
        )
        parts.append(
            f'<div class="mlvm-figure"><div><span class="mlvm-dim">{name}</span><span>{shown}</span></div>{svg}</div>'
        )
    return f'<div class="mlvm-plots">{"".join(parts)}</div>'


def question(asked: str, name: str) -> str:
    """Return the question before something that loses something."""
    return f'<div class="mlvm-ask">{escape(asked).format(name=f"<b>{escape(name)}</b>")}</div>'


def failure(error: MlvmError) -> str:
    """Return an error as a cell shows it."""
    return f'<div class="mlvm-error">{escape(chr(10).join(render(error)))}</div>'


def console(log: Path) -> str:
    """Return the last lines of a machine's console."""
    said = CONTROL.sub("", tail(log).replace("\r\n", "\n").replace("\r", "\n"))
    lines = [line for line in said.split("\n") if line.strip()][-CONSOLE_LINES:]
    shown = escape(chr(10).join(lines)) or "(its console has said nothing)"
    return f'<div style="padding-top: 8px"><pre class="mlvm-console">{shown}</pre></div>'


def warnings(checks: tuple[Check, ...]) -> str:
    """Return what `mlvm doctor` complains of, folded."""
    if not checks:
        return ""
    rows = "".join(
        f"<li><b>{escape(check.name)}</b>: {escape(check.found)}"
        + (f" · mend: <code>{escape(check.mend)}</code>" if check.mend else "")
        + "</li>"
        for check in checks
    )
    count = f"{len(checks)} warning{'' if len(checks) == 1 else 's'}"
    return f"<details><summary>{count} of <code>mlvm doctor</code></summary><ul>{rows}</ul></details>"


def lock_digest(project: Path) -> str | None:
    """Return the digest of a project's lock file, None when there is none."""
    lock = project / LOCK_NAME
    try:
        return files.sha256_of(lock) if lock.is_file() else None
    except OSError:
        return None


def _table(view: View) -> Table:
    rows: list[tuple[str, ...]] = [
        (
            one.name,
            str(one.condition.state),
            one.record.image_id[:12] if one.record else "",
            one.record.project if one.record else "",
            "; ".join(one.condition.reasons),
        )
        for one in view.seen
    ]
    return Table(("machine", "state", "image", "project", ""), rows, empty=EMPTY)


def _percent(cpus: float) -> str:
    return f"{100 * cpus:.0f} %"


def _rate(amount: float) -> str:
    return f"{size(amount)}/s"
