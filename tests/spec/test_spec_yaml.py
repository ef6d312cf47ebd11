"""YAML's surprises: each has an answer, and the answer is tested word for word."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlvm.errors import SpecError
from mlvm.spec import nodes
from mlvm.spec.nodes import Kind, kind_of
from mlvm.spec.reader import load, loads


def complaints(text: str) -> list[str]:
    """Return every complaint about a document, without the file's name."""
    with pytest.raises(SpecError) as raised:
        loads(text)
    assert raised.value.message == "`mlvm.yaml` cannot be read as a spec"
    return [line.removeprefix("mlvm.yaml:") for line in raised.value.details.splitlines()]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("python: 3.10", '2:9: python: `3.10` without quotes is the number 3.1 to YAML; write "3.10"'),
        ("python: 3.11", '2:9: python: `3.11` without quotes is a number to YAML; write "3.11"'),
        ("network: no", "2:10: network: `no` without quotes is a truth value to YAML; write `none`"),
        ("network: off", "2:10: network: `off` without quotes is a truth value to YAML; write `none`"),
        (
            "network: on",
            "2:10: network: `on` without quotes is a truth value to YAML; write `user` or `none`",
        ),
        ("env: {A: yes}", '2:10: env.A: `yes` without quotes is the truth value true to YAML; write "yes"'),
        ("env: {A: 1.10}", '2:10: env.A: `1.10` without quotes is the number 1.1 to YAML; write "1.10"'),
        ("env: {A: 1e3}", '2:10: env.A: `1e3` without quotes is a number to YAML; write "1e3"'),
        ("env: {A: 0o17}", '2:10: env.A: `0o17` without quotes is a whole number to YAML; write "0o17"'),
        ("env: {A: 010}", '2:10: env.A: `010` without quotes is the number 8 to YAML; write "010"'),
        ("env: {A: 1_000}", '2:10: env.A: `1_000` without quotes is the number 1000 to YAML; write "1_000"'),
        (
            "env: {A: 2024-01-01}",
            '2:10: env.A: `2024-01-01` without quotes is a date to YAML; write "2024-01-01"',
        ),
        ("env: {NO: x}", "2:7: `NO` without quotes is a truth value to YAML, not a key: put it in quotes"),
        ("env: {1: x}", "2:7: `1` without quotes is a whole number to YAML, not a key: put it in quotes"),
        ("ports: [22:22]", '2:9: ports[0]: `22:22` without quotes is the number 1342 to YAML; write "22:22"'),
        (
            "machine: {cpus: 010}",
            (
                "2:17: machine.cpus: `010` is written so that readers differ (YAML 1.1 reads it as 8): "
                "write it in plain decimal"
            ),
        ),
        (
            "machine: {cpus: 1:30}",
            (
                "2:17: machine.cpus: `1:30` is written so that readers differ (YAML 1.1 reads it as 90): "
                "write it in plain decimal"
            ),
        ),
        ("machine: {cpus: 2.0}", "2:17: machine.cpus: must be a whole number from 1 to 255, and is a number"),
        ("env:", "2:5: env: is empty: give it a value, or remove the line"),
        ("env: ~", "2:6: env: `~` is nothing: give it a value, or remove the line"),
        ("packages: [null]", "2:12: packages[0]: `null` is nothing: give it a value, or remove the line"),
        ("name: b", "2:1: `name` is there twice; the first is in line 1"),
        ("env: {A: x, A: y}", "2:13: `A` is there twice; the first is in line 2"),
        ("env: &a {A: x}", "2:6: anchors (`&a`) are not used in specs: write the value out"),
        ("env: *a", "2:6: aliases (`*a`) are not used in specs: write the value out"),
        (
            "<<: {env: {}}",
            "2:1: merge keys (`<<`) are not used in specs: a `template` is what can be inherited",
        ),
        (
            "env: !!python/object:os.system {A: x}",
            "2:6: tags (`!!python/object:os.system`) are not used in specs: text goes in quotes",
        ),
        ("python: !!str 3.11", "2:9: tags (`!!str`) are not used in specs: text goes in quotes"),
        ("---\nname: b", "2:1: a second document starts here; a spec is one"),
        ("? [a]\n: b", "2:3: a key must be a word"),
        ("?\n: b", "2:2: a key is missing here"),
        ("\tnetwork: none", "2:1: a tab stands where YAML wants spaces"),
        ('env: {A: "\\uD800"}', "2:10: half a surrogate pair is no character"),
        ("env: {A: \x07}", "2:10: character U+0007 has no place here"),
        ("env: " + "[" * 200, "2:17: nested more than 12 deep"),
        ('env: {A: "\\0"}', "2:10: env.A: `\\x00` is not text without zero bytes"),
        (
            "env: [A",
            "3:1: expected ',' or ']', but got '<stream end>' (while parsing a flow sequence in line 2)",
        ),
    ],
)
def test_a_surprise(line: str, complaint: str) -> None:
    assert complaint in complaints(f"name: a\n{line}\n")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "1:1: the file is empty"),
        ("# only a comment\n", "1:1: the file is empty"),
        ("---\n", "2:1: is empty: give it a value, or remove the line"),
        (
            "- a\n",
            "1:1: must be a mapping of fields (`schema: ...`, `name: ...`, `template: ...`, ...), and is a list",
        ),
        (
            "numpy\n",
            "1:1: must be a mapping of fields (`schema: ...`, `name: ...`, `template: ...`, ...), and is `numpy`",
        ),
        ("name: a\n" + "#" * nodes.MOST_BYTES, "1:1: the file is larger than 64 KiB, which no spec needs"),
        ('name: "\\UFFFFFFFF"\n', None),
        ("%YAML " + "9" * 5000 + ".1\n---\nname: a\n", None),
    ],
)
def test_a_whole_document(text: str, complaint: str | None) -> None:
    found = complaints(text)

    assert len(found) == 1
    assert complaint is None or found == [complaint]


def test_an_alias_bomb_is_cheap() -> None:
    """Nothing is ever copied: each alias is a complaint, and that is all."""
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{n}: &a{n} [{','.join(['*a' + str(n - 1)] * 9)}]" for n in range(1, 30)]

    found = complaints("\n".join(lines))

    assert found[-1].startswith("... and ")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"name: a\nenv: {A: caf\xe9}\n", "2:13: byte 0xE9 is not UTF-8; save the file as UTF-8"),
        (
            "name: a\n".encode("utf-16"),
            "1:1: the file is UTF-16 (an old PowerShell writes that); save it as UTF-8",
        ),
        (b"#" * (nodes.MOST_BYTES + 1), "1:1: the file is larger than 64 KiB"),
    ],
)
def test_bytes_that_are_no_text(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "mlvm.yaml"
    path.write_bytes(content)

    with pytest.raises(SpecError) as raised:
        load(path)

    assert raised.value.details == f"{path}:{complaint}"


@pytest.mark.parametrize(
    "content",
    [b"\xef\xbb\xbfname: a\nnetwork: none\n", b"name: a\r\nnetwork: none\r\n", b"name: a\rnetwork: none\r"],
)
def test_byte_order_marks_and_other_line_ends_are_fine(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mlvm.yaml"
    path.write_bytes(content)

    assert load(path).network == "none"


@pytest.mark.parametrize("path", ["absent.yaml", "a\0b", "x" * 5000])
def test_a_spec_that_is_not_there(tmp_path: Path, path: str) -> None:
    with pytest.raises(SpecError) as raised:
        load(tmp_path / path)

    assert raised.value.message == f"there is no `{tmp_path / path}`"
    assert raised.value.hint == "mlvm init"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("a", Kind.TEXT),
        ("<<", Kind.TEXT),
        ("=", Kind.TEXT),
        ("3.11.2", Kind.TEXT),
        ("8888:8888", Kind.TEXT),
        ("2 GiB", Kind.TEXT),
        ("", Kind.NOTHING),
        ("Null", Kind.NOTHING),
        ("0x1F", Kind.WHOLE),
        ("0b1", Kind.WHOLE),
        ("089", Kind.WHOLE),  # text to YAML 1.1, a number to 1.2
        ("+12", Kind.WHOLE),
        (".5", Kind.NUMBER),
        ("-.inf", Kind.NUMBER),
        (".NaN", Kind.NUMBER),
        ("12e03", Kind.NUMBER),
        ("TRUE", Kind.TRUTH),
        ("Off", Kind.TRUTH),
        ("2001-12-14 21:59:43.10 -5", Kind.DATE),
    ],
)
def test_kinds(text: str, kind: Kind) -> None:
    assert kind_of(text) is kind
