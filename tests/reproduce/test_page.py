"""Reports: what a notebook says is never markup, and both forms say the same."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlvm.errors import MlvmError
from mlvm.reproduce import page
from mlvm.reproduce.document import CellReport, Outcome, OutputReport, Report, Tolerance, Verdict

NASTY = '<script>alert(1)</script><img src=x onerror="alert(1)">\'"&'


def report(text: str = "x", form: str = "stdout") -> Report:
    output = OutputReport(form=form, same=False, why=text, stored=text, now=text + "\nnew")
    cell = CellReport(number=1, id="a", source=text, verdict=Verdict.DIFFERENT, why=text, outputs=(output,))
    return Report(
        notebook=text, outcome=Outcome.DIFFERENT, box=text, machine="m", lock_sha256="0" * 64, mlvm="1", began="now",
        seconds=1.0, tolerance=Tolerance(), cells=(cell,), notes=(text,), counts={"different": 1},
    )  # fmt: skip


class Tags(HTMLParser):
    """Remembers the elements, and where pictures come from."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.sources += [value or "" for name, value in attrs if name == "src"]


def elements(text: str, form: str = "stdout") -> Tags:
    parser = Tags()
    parser.feed(page.html(report(text, form)))
    return parser


@given(st.text(alphabet="<>/\"'=& scriptimg\n", max_size=80) | st.just(NASTY))
def test_nothing_of_a_notebook_is_markup(text: str) -> None:
    assert elements(text).seen == elements("x").seen


@pytest.mark.parametrize(
    "source", ['data:image/png;base64,AAAA" onload="x', "javascript:alert(1)", "https://x/y"]
)
def test_only_data_is_a_picture(source: str) -> None:
    assert elements(source, "image/png").sources == []


def test_a_picture_is_shown() -> None:
    assert elements("data:image/png;base64,AAAA", "image/png").sources == ["data:image/png;base64,AAAA"]


def test_a_difference_is_marked() -> None:
    assert "<ins>+ new</ins>" in page.html(report())


def test_json_says_all_of_it(tmp_path: Path) -> None:
    page.write(report(), tmp_path / "r.json")

    said = json.loads((tmp_path / "r.json").read_text())
    assert (said["outcome"], said["cells"][0]["verdict"]) == ("different", "different")
    assert said["cells"][0]["outputs"][0]["now"] == "x\nnew"


def test_another_name_is_refused() -> None:
    with pytest.raises(MlvmError, match=r"`r\.pdf`: a report is a `\.html` or a `\.json` file"):
        page.check_name(Path("r.pdf"))
