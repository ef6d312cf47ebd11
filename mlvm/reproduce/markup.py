"""HTML and SVG, compared by what they show: the same elements with the same attributes and the same texts.

Names that are made up anew each time (the `id`s of pandas' styles, of plots, of gradients in an SVG) are looked past,
wherever they are used. What is left becomes a text, one element or piece of text a line, compared as texts are.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser

from mlvm.reproduce import text
from mlvm.reproduce.document import Likeness, Tolerance

IDS = "ids"
#: Attributes that name an element, or another element.
_NAMING = frozenset(
    {"id", "for", "href", "xlink:href", "clip-path", "headers", "aria-labelledby", "data-root-id"}
)
#: Elements that say when and with what a picture was made.
_PASSED_OVER = frozenset({"metadata", "desc"})


class _Lines(HTMLParser):
    """Writes a document as lines."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.lines: list[str] = []
        self.ids: set[str] = set()
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _PASSED_OVER:
            self._hidden += 1
        if self._hidden:
            return
        kept = []
        for name, value in sorted(attrs, key=lambda pair: pair[0]):
            if name == "id" and value:
                self.ids.add(value)
            if name not in _NAMING or (name == "href" and not (value or "").startswith("#")):
                kept.append(f'{name}="{value or ""}"')
        self.lines.append(f"<{' '.join([tag, *kept])}>")

    def handle_endtag(self, tag: str) -> None:
        if tag in _PASSED_OVER:
            self._hidden = max(0, self._hidden - 1)

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.lines += [" ".join(line.split()) for line in data.splitlines() if line.strip()]


def compare(stored: str, now: str, tolerance: Tolerance) -> Likeness:
    """Compare two documents."""
    if stored == now or tolerance.strict:
        return text.compare(stored, now, tolerance)
    before, after = lines_of(stored), lines_of(now)
    plain = text.compare(stored, now, tolerance)
    return plain if plain.same else text.compare(before, after, tolerance, reasons=(IDS,))


def lines_of(document: str) -> str:
    """Return a document as lines, without the names that it makes up."""
    parser = _Lines()
    parser.feed(document)
    parser.close()
    found = "\n".join(parser.lines)
    names = sorted(parser.ids, key=len, reverse=True)
    for start in range(0, len(names), 500):  # one pattern of thousands of words would be slow to make
        words = "|".join(map(re.escape, names[start : start + 500]))
        found = re.sub(rf"(?<![\w-])(?:{words})(?![\w-])", "<id>", found)
    return re.sub(r"#?\bT_[0-9a-f]{5}\w*", "<id>", found)
