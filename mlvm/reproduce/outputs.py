"""The outputs of a cell beside the stored ones.

What two frontends store of the same run differs: where streams are cut, how texts are split into lines, in which order
stdout and stderr arrived. So the streams of a cell are put together first; what is displayed keeps its order. Of an
output in several forms the one counts that a frontend would show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from mlvm.reproduce import data, markup, pictures, text
from mlvm.reproduce.document import Likeness, OutputReport, Tolerance

#: Forms of an output, the one that is shown first; any other JSON comes before them.
FORMS = (
    "text/html",
    "image/svg+xml",
    "image/png",
    "image/jpeg",
    "image/gif",
    "text/latex",
    "text/markdown",
    "application/json",
    "text/plain",
)
WIDGET = "application/vnd.jupyter.widget-view+json"
PICTURES = frozenset({"image/png", "image/jpeg", "image/gif"})
#: A report is for reading; what is longer is cut.
MOST_SHOWN = 20_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """One output, tidied: `form` is "stdout", "stderr", "error" or a MIME type, `forms` has all of them."""

    form: str
    forms: Mapping[str, Any]

    @property
    def value(self) -> Any:
        """What it is in its main form."""
        return self.forms[self.form]

    @property
    def kind(self) -> str:
        """What it is paired by: a stream, an error, or something displayed."""
        return self.form if self.form in {"stdout", "stderr", "error"} else "display"


def tidy(outputs: Sequence[Mapping[str, Any]]) -> list[Output]:
    """Return the outputs of a cell as they are compared: each stream whole, then what is displayed, then an error."""
    streams: dict[str, str] = {}
    rest: list[Output] = []
    for one in outputs:
        match one.get("output_type"):
            case "stream":
                name = str(one.get("name", "stdout"))
                streams[name] = streams.get(name, "") + _joined(one.get("text", ""))
            case "error":
                said = f"{one.get('ename', '')}: {one.get('evalue', '')}"
                rest.append(Output(form="error", forms={"error": said}))
            case "display_data" | "execute_result" | "update_display_data":
                forms = {form: _joined(value) for form, value in dict(one.get("data", {})).items()}
                if forms:
                    rest.append(Output(form=_main(forms), forms=forms))
    return [
        Output(form=name, forms={name: streams[name]})
        for name in sorted(streams, reverse=True)
        if streams[name]
    ] + rest


def compare(
    stored: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]], tolerance: Tolerance
) -> list[OutputReport]:
    """Compare the outputs of a cell, pair by pair."""
    before, after = tidy(stored), tidy(now)
    reports = []
    for kind in ("stdout", "stderr", "display", "error"):
        mine, theirs = ([one for one in side if one.kind == kind] for side in (before, after))
        reports += [_pair(a, b, tolerance) for a, b in zip_longest(mine, theirs)]
    return reports


def _pair(stored: Output | None, now: Output | None, tolerance: Tolerance) -> OutputReport:
    if stored is None or now is None:
        there = stored or now
        assert there is not None
        found = _missing(stored, there, tolerance)
        shown = there.value
        return OutputReport(
            form=there.form,
            same=found.same,
            reasons=found.reasons,
            why=found.why,
            stored=_shown(there.form, shown) if stored else "",
            now=_shown(there.form, shown) if now else "",
        )
    form = stored.form
    if form not in now.forms:
        found = Likeness(same=False, why=f"{form} is now {now.form}")
    else:
        found = _by_form(form, stored.forms[form], now.forms[form], tolerance)
    other = now.forms.get(form, now.value)
    return OutputReport(
        form=form,
        same=found.same,
        reasons=found.reasons,
        why=found.why,
        stored=_shown(form, stored.value),
        now=_shown(form if form in now.forms else now.form, other),
    )


def _missing(stored: Output | None, there: Output, tolerance: Tolerance) -> Likeness:
    """A stream of nothing but progress is no output."""
    if there.kind in {"stdout", "stderr"}:
        found = text.compare("", there.value, tolerance)
        if found.same:
            return found
    if there.form == "error":
        return Likeness(
            same=False, why=("the stored run" if stored else "this run") + f" ended in {there.value}"
        )
    return Likeness(same=False, why=f"{there.form} is {'gone' if stored else 'new'}")


def _by_form(form: str, stored: Any, now: Any, tolerance: Tolerance) -> Likeness:
    if form == WIDGET:
        same = stored == now
        return Likeness(same=True, reasons=() if same else ("what a widget shows: only that there is one",))
    if form in PICTURES:
        return pictures.compare(str(stored), str(now), tolerance)
    if form in {"text/html", "image/svg+xml"}:
        return markup.compare(str(stored), str(now), tolerance)
    if isinstance(stored, str) and isinstance(now, str):
        return text.compare(stored, now, tolerance)
    return data.compare(stored, now, tolerance)


def _main(forms: Mapping[str, Any]) -> str:
    special = [form for form in sorted(forms) if form not in FORMS and form.endswith("json")]
    return next((form for form in (*special, *FORMS) if form in forms), min(forms))


def _joined(value: Any) -> Any:
    """Texts may be stored as lists of lines."""
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "".join(value)
    return value


def _shown(form: str, value: Any) -> str:
    if form in PICTURES:
        return f"data:{form};base64,{''.join(str(value).split())}"
    said = value if isinstance(value, str) else str(value)
    return (
        said
        if len(said) <= MOST_SHOWN
        else said[:MOST_SHOWN] + f"\n... {len(said) - MOST_SHOWN} more characters"
    )
