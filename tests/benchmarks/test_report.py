"""The lines and tables that results become, and the page that quotes the newest ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from test_measures import compared, result

from benchmarks import report, results
from benchmarks.measures import Bar, Measure, Series


def test_a_line_begins_with_the_ratio() -> None:
    assert report.line("build", compared(bar=Bar(of="ours", limit=3))) == (
        "   0.250x  build: x: at most 3 s: met; mlvm 2.00 s (1.00-9.00), old 8.00 s (8.00-8.00)"
    )


def test_a_missed_bar_is_loud() -> None:
    throughput = Measure(
        name="50 MB",
        unit="MB/s",
        ours=Series(name="mlvm", samples=(6.0,)),
        baseline=Series(name="guest", samples=(10.0,)),
        bar=Bar(of="ratio", limit=0.7, at_least=True),
    )

    assert report.verdict(throughput) == "at least 0.7x: MISSED"


@pytest.mark.parametrize(
    ("value", "text"), [(1234.5, "1234"), (12.34, "12.3"), (1.234, "1.23"), (0.1234, "0.123")]
)
def test_three_digits(value: float, text: str) -> None:
    assert report.number(value) == text


def test_a_section_names_the_machine_and_links_the_samples() -> None:
    text = report.section(result(), None, link="there")

    assert "| 0.250 | x | at most 3 s: met | mlvm 2.00 s (1.00-9.00) | old 8.00 s (8.00-8.00) |" in text
    assert "[every sample](there/2026-01-02-build.json)" in text
    assert "Z80, 1 cores, 0.5 GiB, CP/M, QEMU 7.2, Python 3.11; load 0.5-1.5" in text


def test_a_page_is_rewritten_between_its_marks(tmp_path: Path) -> None:
    results.save(result(), tmp_path)
    page = "words\n<!-- build -->\nold\n<!-- /build -->\nmore words\n"

    once = report.rewritten(page, tmp_path, link="there")

    assert once.startswith("words\n<!-- build -->\n| ratio |")
    assert once.endswith("\n<!-- /build -->\nmore words\n")
    assert report.rewritten(once, tmp_path, link="there") == once


def test_a_part_without_a_place_is_refused(tmp_path: Path) -> None:
    results.save(replace(result(), part="other"), tmp_path)

    with pytest.raises(ValueError, match="the page has no place for `other`"):
        report.rewritten("nothing", tmp_path)


def test_the_page_agrees_with_the_newest_results() -> None:
    page = report.PAGE.read_text()

    assert report.rewritten(page, results.FOLDER) == page


def test_committed_results_are_small() -> None:
    for path in results.FOLDER.iterdir():
        assert path.stat().st_size < {".json": 100_000, ".png": 200_000}[path.suffix]
