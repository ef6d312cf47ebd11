"""Whatever the file holds, the reader answers with a spec or with a SpecError that has places in it."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlvm.errors import SpecError
from mlvm.spec.document import Spec
from mlvm.spec.reader import load, loads

GOOD = """\
# a comment
schema: 1
name: "housing"
template: science
debian: bookworm
python: "3.11"
packages:
  - numpy>=2,<3
  - 'tomli; python_version < "3.11"'
machine: {cpus: 4, memory: 1536 MiB, disk: 1 TiB}
env:
  GREETING: "hello\\nyou"
  N: 5
network: user
ports: ["8080:80", {guest: 22, host: 2222}]
"""

PIECES = ["\t", "\n", " ", ":", ": ", "- ", "[", "]", "{", "}", "&a ", "*a", "!!int ", "!", "<<: ", "---\n", "...\n",
          "%YAML 1.1\n", "#", '"', "'", "|", ">", "?", ",", "\0", "\x85", "\u2028", "\ufeff", "\ud800", "\U0001f600",
          "no", "3.10", "22:22", "0o7", "1e9", "null", "~", "-", "\\", "\\UFFFFFFFF", "\\x", "%ff", "@", "`", "=",
          "name", "machine:", "requirements: ", "template: ", "a.txt", "x.yaml", "../", "/dev/zero"]  # fmt: skip
COMPLAINT = re.compile(r".+:\d+:\d+: .+|\.\.\. and \d+ more")


def answer(text: str) -> None:
    """Read a text; fail unless the answer is one that a person can use."""
    try:
        spec = loads(text)
    except SpecError as refused:
        error = refused
    else:
        assert isinstance(spec, Spec)
        return
    assert error.message == "`mlvm.yaml` cannot be read as a spec"
    assert [line for line in error.details.split("\n") if not COMPLAINT.fullmatch(line)] == []
    (error.message + error.details).encode()


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200) | st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
@example("!<tag:yaml.org,2002:str%zz> x")
@example("%TAG ! tag:%ff\n---\n!x y")
@example('"\\UFFFFFFFF"')
@example("%YAML " + "9" * 5000 + ".1\n---\na")
@example("a: " + "9" * 5000)
@example("machine: {cpus: " + "1:" * 3000 + "1}")
@example("{" * 5000)
@example("- " * 5000)
@example("? " * 5000)
@example("=: 1")
@example("packages: ['a; " + "(" * 900 + "']")
@example("packages: ['a; " + "(" * 9000 + "']")
@example("packages: ['a==" + "9" * 9000 + "']")
def test_any_text(text: str) -> None:
    answer(text)


@settings(max_examples=400, deadline=None)
@given(
    cuts=st.lists(
        st.tuples(
            st.integers(0, len(GOOD)), st.integers(0, 12), st.sampled_from(PIECES) | st.text(max_size=3)
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_change_of_a_good_spec(cuts: list[tuple[int, int, str]]) -> None:
    text = GOOD
    for start, length, piece in cuts:
        text = text[:start] + piece + text[start + length :]

    answer(text)


@settings(max_examples=100, deadline=None)
@given(
    spec=st.binary(max_size=100),
    listed=st.binary(max_size=200),
    project=st.binary(max_size=200),
    base=st.text(),
)
def test_any_bytes_in_any_file(spec: bytes, listed: bytes, project: bytes, base: str) -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "a.txt").write_bytes(b"-r b.txt\n" + listed)
        (folder / "b.txt").write_bytes(listed)
        (folder / "pyproject.toml").write_bytes(b"[project]\n" + project)
        (folder / "base.yaml").write_bytes(
            b"requirements: pyproject.toml\nenv: {A: " + base.encode(errors="replace")
        )
        path = folder / "mlvm.yaml"
        path.write_bytes(b"name: a\nrequirements: a.txt\ntemplate: base.yaml\n" + spec)
        details = ""
        try:
            load(path)
        except SpecError as refused:
            details = refused.details
    assert [line for line in details.split("\n") if line and not COMPLAINT.fullmatch(line)] == []


def test_the_good_one_is_good() -> None:
    assert loads(GOOD).name == "housing"
