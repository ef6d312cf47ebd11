"""Debian's order of versions, held to dpkg's own."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlvm.lock.debversion import version_key


@pytest.mark.parametrize(
    ("lower", "higher"),
    [
        ("1.0", "1.1"),
        ("1.9", "1.10"),
        ("1.0~rc1", "1.0"),
        ("2.36-9", "2.36-9+deb12u1"),
        ("2.36-9~bpo", "2.36-9"),
        ("9", "1:1"),
        ("1.0-1", "1.0-1.1"),
        ("1.0", "1.0a"),
        ("1.0a", "1.0+"),
        ("1:1.35.0-4", "1:1.35.0-4+b1"),
    ],
)
def test_order(lower: str, higher: str) -> None:
    assert version_key(lower) < version_key(higher)


def test_numbers_are_compared_as_numbers() -> None:
    assert version_key("1.001") == version_key("1.1")


def test_no_revision_is_revision_zero() -> None:
    assert version_key("1.0") == version_key("1.0-0")


def test_a_tilde_after_a_zero_sorts_before_no_revision_at_all() -> None:
    assert version_key("1-0~") < version_key("1") < version_key("1-0.1")


versions = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "0:", "1:"]),
    st.text("019a~+.", max_size=5).map("1{}".format),
    st.text("019b~+.", max_size=4).map("-{}".format) | st.just(""),
)


@pytest.mark.skipif(shutil.which("dpkg") is None, reason="needs dpkg")
@settings(max_examples=400, deadline=None)
@given(versions, versions)
def test_as_dpkg_orders_them(one: str, two: str) -> None:
    if one.endswith("-") or two.endswith("-"):
        return  # an empty revision is not a version

    lower = subprocess.run(["dpkg", "--compare-versions", one, "lt", two], check=False).returncode == 0
    equal = subprocess.run(["dpkg", "--compare-versions", one, "eq", two], check=False).returncode == 0

    assert (version_key(one) < version_key(two)) == lower
    assert (version_key(one) == version_key(two)) == equal
