"""Texts: what is looked past is looked past for a reason that is said, and nothing else is."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlvm.reproduce.document import Likeness, Tolerance
from mlvm.reproduce.text import as_on_a_terminal, compare, number_off, numbers_alike

USUAL = Tolerance()
STRICT = Tolerance(strict=True)

BAR = "100%|██████████| 10/10 [00:0{}<00:00, {}it/s]\n"

ALIKE = [
    ("<object object at 0x7f1234567890>", "<object object at 0x7fabcdef0123>", "addresses"),
    ("took 1.23 s", "took 4.5 s", "times"),
    ("Wall time: 15 ms", "Wall time: 1.2 s", "times"),
    ("1.2 ms ± 3 µs per loop (mean of 7 runs, 1,000 loops each)",
     "2.4 ms ± 5 µs per loop (mean of 7 runs, 100 loops each)", "times"),
    ("at 2023-01-02 10:11:12.345", "at 2026-11-24T09:00:00Z", "times"),
    ("10/10 - 1s 20ms/step", "10/10 - 3s 7ms/step", "times"),
    ("saved to /home/ann/x/out.csv", "saved to /work/y/out.csv", "paths"),
    (r"saved to C:\Users\Ann\out.csv", "saved to /work/y/out.csv", "paths"),
    ("\x1b[31mred\x1b[0m", "red", "colours"),
    ("<ipython-input-3-0123456789ab>:1: Warning", "/tmp/ipykernel_77/1234.py:1: Warning", "names of cells"),
    (BAR.format(1, "9.1"), BAR.format(3, "3.3"), "progress bars"),
    ("10%\r100%", "100%", "lines written over"),
    ("run 0f0e0d0c-0b0a-4a4b-8c8d-0123456789ab", "run 11111111-2222-4333-8444-555555555555", "random ids"),
    ("a \nb\n", "a\nb", "space between words"),
]  # fmt: skip


@pytest.mark.parametrize(("stored", "now", "reason"), ALIKE)
def test_what_never_comes_out_the_same_is_looked_past(stored: str, now: str, reason: str) -> None:
    assert compare(stored, now, USUAL) == Likeness(same=True, reasons=(reason,))


@pytest.mark.parametrize(("stored", "now", "reason"), ALIKE)
def test_strictly_nothing_is(stored: str, now: str, reason: str) -> None:
    assert not compare(stored, now, STRICT).same


@pytest.mark.parametrize(
    ("stored", "now", "why"),
    [
        ("1", "2", "1 is now 2"),
        ("accuracy 0.912", "accuracy 0.913", "0.912 is now 0.913"),
        ("version 1.2.3", "version 1.2.4", "line 1: `version 1.2.3` is now `version 1.2.4`"),
        ("/a/b/one.csv", "/a/b/two.csv", "line 1: `<path>/one.csv` is now `<path>/two.csv`"),
        ("a\nb", "a\nb\nc", "2 lines are now 3"),
        ("12:00:01 loss 1", "13:00:01 loss 2", "1 is now 2"),
        ("x" * 100 + "a", "x" * 100 + "b", f"line 1: `...{'x' * 30}a` is now `...{'x' * 30}b`"),
    ],
)
def test_what_is_different_is_said(stored: str, now: str, why: str) -> None:
    assert compare(stored, now, USUAL) == Likeness(same=False, why=why)


def test_only_the_reasons_that_were_needed_are_given() -> None:
    """Both texts have an address, a path and a time; only the time differs."""
    said = "at 0x7f1234567890 in /home/ann/out.csv after {} s"

    assert compare(said.format(1.5), said.format(2.5), USUAL).reasons == ("times",)


def test_several_reasons() -> None:
    found = compare("0x7f1234567890 3.14159265 1 s", "0x7f1234567891 3.14159266 2 s", USUAL)

    assert found.reasons == (
        "addresses",
        "times",
        "last digits of numbers (relative difference up to 3.2e-09)",
    )


@pytest.mark.parametrize(
    ("stored", "now"),
    [("[1., 2.]", "[1.0000001, 2.0]"), ("1e-3", "0.001"), ("-0.5", "-0.50"), ("     1.5  x", "1.5000001 x")],
)
def test_numbers_within_the_tolerance(stored: str, now: str) -> None:
    assert numbers_alike(stored, now, USUAL).same


def test_a_wider_tolerance() -> None:
    assert compare("0.912", "0.913", Tolerance(relative=1e-2)).same


@given(st.integers(), st.integers())
def test_whole_numbers_are_exact(one: int, other: int) -> None:
    assert numbers_alike(f"n = {one}", f"n = {other}", Tolerance(relative=0.5)).same == (one == other)


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_close_when_mathematics_says_so(one: float, other: float) -> None:
    """As `math.isclose` has it, and the same from both sides."""
    apart = number_off(repr(one), repr(other), USUAL)

    assert (apart is not None) == math.isclose(one, other, rel_tol=1e-5, abs_tol=1e-8)
    assert apart == number_off(repr(other), repr(one), USUAL)


@given(st.text())
def test_any_text_is_identical_to_itself(text: str) -> None:
    assert compare(text, text, USUAL) == Likeness(same=True)


WORDS = st.text(alphabet="ab 01.\n\r\b|%[]/\\:<>-x\x1b", max_size=60)


@given(WORDS, WORDS)
def test_alike_is_the_same_from_both_sides(one: str, other: str) -> None:
    """And whatever is not identical has a reason, or something that is different."""
    found, back = compare(one, other, USUAL), compare(other, one, USUAL)

    assert found.same == back.same
    assert one == other or bool(found.reasons) == found.same
    assert bool(found.why) != found.same


@given(WORDS)
def test_a_terminal_shows_no_controls(text: str) -> None:
    shown = as_on_a_terminal(text)

    assert "\b" not in shown
    assert "\r" not in shown


def test_a_terminal_overwrites() -> None:
    assert as_on_a_terminal("abcdef\rXY\nab\bc\r\n") == "XYcdef\nac\n"
