"""The lock's text: what is written is read back, and nothing else is."""

from __future__ import annotations

import time
import tomllib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import lock_sample as sample
import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from mlvm.errors import LockError
from mlvm.lock.document import BoxPin, DebianPackage, ImageRecord
from mlvm.lock.text import HEADER, digest_of, dumps, load, loads

FROM_GIT = "take it from version control, or remove it and `mlvm lock`"


def changed(change: Callable[[dict[str, Any]], object]) -> str:
    """The sample's text after a change of its document."""
    document = tomllib.loads(dumps(sample.lock()))
    change(document)
    return tomli_w.dumps(document)


def complaints(change: Callable[[dict[str, Any]], object]) -> list[str]:
    with pytest.raises(LockError) as wrong:
        loads(changed(change))
    assert wrong.value.message == "`mlvm.lock` is not a lock"
    assert wrong.value.hint == FROM_GIT
    return wrong.value.details.splitlines()


def test_what_is_written_is_read_back() -> None:
    assert loads(dumps(sample.lock())) == sample.lock()


def test_a_lock_without_an_image_record_is_read_back() -> None:
    assert loads(dumps(sample.lock(image=None))) == sample.lock(image=None)


def test_the_text_is_the_same_after_a_round() -> None:
    text = dumps(sample.lock())

    assert dumps(loads(text)) == text


def test_the_text_opens_with_what_it_is() -> None:
    assert dumps(sample.lock()).startswith(HEADER + "lock-version = 1\n")


def test_one_package_is_one_block() -> None:
    """A changed version changes four neighbouring lines, so that a review shows one package."""
    old = sample.lock()
    new = replace(old, system=(sample.deb("apt", "2.6.2"), *old.system[1:]))

    before, after = dumps(old).splitlines(), dumps(new).splitlines()
    moved = [number for number, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]

    assert max(moved) - min(moved) <= 6
    assert before[min(moved) - 1] == 'name = "apt"'


names = st.text("az09+.-", max_size=12).map("p{}".format)
versions = st.builds("{}1{}".format, st.sampled_from(["", "1:", "20:"]), st.text("09azAZ.+~-", max_size=12))
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
packages = st.lists(
    st.builds(
        DebianPackage,
        name=names,
        version=versions,
        architecture=st.sampled_from(["amd64", "all"]),
        archive=st.sampled_from(["bookworm", "bookworm-security", "trixie"]),
        filename=st.text("az09+._~-", max_size=12).map("pool/main/p/p{}.deb".format),
        size=st.integers(0, 2**40),
        sha256=digests,
    ),
    unique_by=lambda package: package.name,
    max_size=4,
).map(lambda found: tuple(sorted(found, key=lambda package: package.name)))
wheels = st.dictionaries(
    st.text("az09", max_size=9).map("p{}".format), st.lists(st.integers(0, 99), min_size=1, max_size=4)
).map(lambda found: {name: ".".join(map(str, parts)) for name, parts in found.items()})


@settings(deadline=None)
@given(
    system=packages,
    tools=packages,
    python=wheels,
    image=st.none()
    | st.builds(ImageRecord, builder=st.integers(0, 99), digests=st.dictionaries(names, digests)),
)
def test_any_lock_is_read_back(system: Any, tools: Any, python: Any, image: Any) -> None:
    lock = sample.lock(system=system, tools=tools, python=sample.pylock(python), image=image)

    assert loads(dumps(lock)) == lock


PIN = BoxPin(name="team/x", version="1.0.0", provider="libvirt", architecture="amd64", sha256="a" * 64)


def test_published_boxes_are_read_back() -> None:
    lock = sample.lock(published=(PIN, replace(PIN, provider="vmware_desktop")))

    assert loads(dumps(lock)) == lock


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("name", "../x", "published[0].name: a box such as team/housing is wanted, found '../x'"),
        (
            "version",
            "latest",
            "published[0].version: a version in numbers, such as 12.1 is wanted, found 'latest'",
        ),
        ("provider", "-x", "published[0].provider: one of Vagrant's providers is wanted, found '-x'"),
        ("colour", "red", "published[0].colour: unknown key"),
    ],
)
def test_a_bad_pin_is_complained_of(key: str, value: str, said: str) -> None:
    document = tomllib.loads(dumps(sample.lock(published=(PIN,))))
    document["published"][0][key] = value

    with pytest.raises(LockError) as refused:
        loads(tomli_w.dumps(document))
    assert refused.value.details == said


def test_the_digest_is_of_what_a_lock_means() -> None:
    lock = sample.lock(image=None)

    assert digest_of(sample.lock(published=(PIN,))) == digest_of(lock)
    assert digest_of(sample.lock(boot=lock.boot[::-1])) != digest_of(lock)


@settings(deadline=None)
@given(st.text())
def test_any_other_text_is_an_error_that_can_be_shown(text: str) -> None:
    with pytest.raises(LockError):
        loads("lock-version = 1\n" + text)


LINES = dumps(sample.lock()).splitlines(keepends=True)


@settings(deadline=None)
@given(st.integers(0, len(LINES) - 1), st.sampled_from(["drop", "double", "empty", "number"]))
def test_a_damaged_line_is_an_error_or_harmless(at: int, how: str) -> None:
    """No damage to one line gives a traceback; what is still read is a whole lock."""
    line = LINES[at]
    key = line.partition(" = ")[0]
    damaged = {"drop": "", "double": line * 2, "empty": f'{key} = ""\n', "number": f"{key} = -1\n"}[how]
    text = "".join([*LINES[:at], damaged, *LINES[at + 1 :]])

    with suppress(LockError):
        lock = loads(text)

        assert loads(dumps(lock)) == lock


def drop(*path: Any) -> Callable[[dict[str, Any]], object]:
    def change(document: Any) -> None:
        for step in path[:-1]:
            document = document[step]
        del document[path[-1]]

    return change


def put(*path_and_value: Any) -> Callable[[dict[str, Any]], object]:
    *path, value = path_and_value

    def change(document: Any) -> None:
        for step in path[:-1]:
            document = document[step]
        document[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (put("colour", "red"), "colour: unknown key"),
        (put("system", 0, "colour", "red"), "system[0].colour: unknown key"),
        (put("archives", 1, "colour", "red"), "archives[1].colour: unknown key"),
        (put("image", "colour", "red"), "image.colour: unknown key"),
        (put("inputs", "colour", "red"), "inputs.colour: unknown key"),
        (put("python", "colour", "red"), "python.colour: unknown key"),
        (put("python", "packages", 1, "colour", "red"), "python.packages[1].colour: unknown key"),
        (
            put("python", "packages", 1, "wheels", 0, "colour", "red"),
            "python.packages[1].wheels[0].colour: unknown key",
        ),
        (drop("name"), "name: the name of a box is wanted, found nothing"),
        (put("name", "../up"), "name: the name of a box is wanted, found '../up'"),
        (put("name", 3), "name: the name of a box is wanted, found 3"),
        (drop("system"), "system: an array of tables is wanted, found nothing"),
        (put("system", "all"), "system: an array of tables is wanted, found 'all'"),
        (put("system", [1]), "system: an array of tables is wanted, found an array"),
        (drop("inputs", "python"), "inputs.python: a Python such as 3.11 is wanted, found nothing"),
        (put("inputs", 1), "inputs: a table is wanted, found 1"),
        (
            put("inputs", "packages", ["numpy", "a b c"]),
            "inputs.packages[1]: a requirement is wanted, found 'a b c'",
        ),
        (
            put("inputs", "packages", "numpy"),
            "inputs.packages: an array, each text in one line, is wanted, found 'numpy'",
        ),
        (
            put("system", 1, "sha256", "ABC"),
            "system[1].sha256: a SHA-256 digest of 64 hexadecimal digits is wanted, found 'ABC'",
        ),
        (put("system", 1, "size", -1), "system[1].size: a whole number is wanted, found -1"),
        (put("system", 1, "size", True), "system[1].size: a whole number is wanted, found True"),
        (put("system", 1, "size", 1.5), "system[1].size: a whole number is wanted, found 1.5"),
        (
            put("boot", 0, "filename", "pool/../../etc/passwd.deb"),
            "boot[0].filename: a path in a Debian pool is wanted, found 'pool/../../etc/passwd.deb'",
        ),
        (
            put("boot", 0, "filename", "/pool/x.deb"),
            "boot[0].filename: a path in a Debian pool is wanted, found '/pool/x.deb'",
        ),
        (
            put("boot", 0, "filename", "pool/a?b=c.deb"),
            "boot[0].filename: a path in a Debian pool is wanted, found 'pool/a?b=c.deb'",
        ),
        (
            put("tools", 0, "version", "1 0"),
            "tools[0].version: a Debian version is wanted, found '1 0'",
        ),
        (
            put("archives", 0, "uri", "ftp://x"),
            "archives[0].uri: a URL of http, https or file is wanted, found 'ftp://x'",
        ),
        (
            put("archives", 0, "timestamp", "today"),
            "archives[0].timestamp: a moment such as 20261123T160000Z is wanted, found 'today'",
        ),
        (
            put("archives", 0, "components", ["main", 1]),
            "archives[0].components: an array, each a name as Debian writes them, is wanted, found an array",
        ),
        (
            put("image", "digests", {"system": "1"}),
            "image.digests.system: a SHA-256 digest of 64 hexadecimal digits is wanted, found '1'",
        ),
        (put("image", 1), "image: a table is wanted, found 1"),
        (
            put("python", "packages", 0, "version", "one"),
            "python.packages[0].version: Invalid version: 'one'",
        ),
        (put("python", "lock-version", "9"), "python: pylock version 9 is not supported"),
        (drop("python", "packages", 0, "name"), "python.packages[0].name: Missing required value"),
        (
            put("python", "packages", 0, "wheels", 0, "url", "/ipykernel-7.1.0-py3-none-any.whl"),
            (
                "python.packages[0].wheels[0].url: a URL of http, https or file is wanted,"
                " found '/ipykernel-7.1.0-py3-none-any.whl'"
            ),
        ),
        (
            put("python", "packages", 0, "wheels", 0, "path", "../ipykernel-7.1.0-py3-none-any.whl"),
            "python.packages[0].wheels[0].path: unknown key",
        ),
        (
            put("python", "packages", 0, "wheels", 0, "hashes", {"sha256": "x"}),
            (
                "python.packages[0].wheels[0].hashes.sha256:"
                " a SHA-256 digest of 64 hexadecimal digits is wanted, found 'x'"
            ),
        ),
        (
            put("python", "packages", 0, "wheels", 0, "hashes", {"md5": "x"}),
            (
                "python.packages[0].wheels[0].hashes.sha256:"
                " a SHA-256 digest of 64 hexadecimal digits is wanted, found nothing"
            ),
        ),
        (
            put("python", "packages", 0, "wheels", 0, "url", "https://x/numpy-2.4.6-py3-none-any.whl"),
            (
                "python.packages[0].wheels[0]: Name in 'numpy-2.4.6-py3-none-any.whl'"
                " is not consistent with package name 'ipykernel'"
            ),
        ),
        (
            put("python", "packages", 0, "wheels", 0, "name", "../../x-1-py3-none-any.whl"),
            "python.packages[0].wheels[0]: Invalid wheel filename '../../x-1-py3-none-any.whl'",
        ),
        (
            put("python", "packages", 0, "version", "7.1.1"),
            (
                "python.packages[0].wheels[0]: Version in 'ipykernel-7.1.0-py3-none-any.whl'"
                " is not consistent with package version '7.1.1'"
            ),
        ),
        (
            put("guest-kernel", "linux-image-other"),
            "guest-kernel: `linux-image-other` is not among the packages of boot",
        ),
        (
            drop("archives", 1),
            "system: `libc6` is from archive `bookworm-security`, which is not among the archives",
        ),
    ],
)
def test_a_wrong_part_is_named_with_its_path(change: Any, complaint: str) -> None:
    assert complaints(change) == [complaint]


def test_two_wheels_for_one_package_are_one_too_many() -> None:
    def change(document: Any) -> None:
        document["python"]["packages"][0]["wheels"] *= 2

    assert complaints(change) == ["python.packages[0]: exactly one wheel is wanted"]


def test_the_same_package_twice() -> None:
    assert complaints(lambda document: document["system"].insert(1, document["system"][0])) == [
        "system: `apt` is there twice"
    ]


def test_packages_out_of_order() -> None:
    assert complaints(lambda document: document["system"].reverse()) == [
        "system: `apt` must stand before `libc6`"
    ]


def test_python_packages_out_of_order() -> None:
    assert complaints(lambda document: document["python"]["packages"].reverse()) == [
        "python.packages: names must be sorted, and each there once"
    ]


def test_every_complaint_is_made_at_once() -> None:
    def change(document: Any) -> None:
        document["colour"] = "red"
        document["system"][0]["size"] = "big"
        document["tools"][1]["sha256"] = ""

    assert len(complaints(change)) == 3


@pytest.mark.parametrize(("version", "shown"), [(2, "2"), (True, "True"), ("1", "'1'"), (None, "nothing")])
def test_a_lock_of_another_format(version: object, shown: str) -> None:
    text = dumps(sample.lock()).replace(
        "lock-version = 1\n", f"lock-version = {tomli_w.dumps({'x': version})[4:]}" if version else ""
    )

    with pytest.raises(LockError) as wrong:
        loads(text)

    assert wrong.value.message == f"`mlvm.lock` has lock-version {shown}; this mlvm reads 1"


def test_a_merge_conflict_is_recognised() -> None:
    with pytest.raises(LockError) as wrong:
        loads("lock-version = 1\n<<<<<<< ours\n", path=Path("box/mlvm.lock"))

    assert wrong.value.message.startswith("`box/mlvm.lock` is not TOML: ")
    assert wrong.value.hint == "this looks like a merge conflict: take either side whole, then `mlvm lock`"


@pytest.mark.parametrize("text", ["a = " + "[" * 100_000, "a = " + "9" * 5000, "\0", "a = 1\na = 2"])
def test_text_that_is_not_toml(text: str) -> None:
    with pytest.raises(LockError, match=r"^`mlvm\.lock` is not TOML: "):
        loads(text)


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "mlvm.lock").write_text(dumps(sample.lock()))

    assert load(tmp_path / "mlvm.lock") == sample.lock()


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(LockError) as missing:
        load(tmp_path / "mlvm.lock")

    assert missing.value.message == f"there is no `{tmp_path}/mlvm.lock`"
    assert missing.value.hint == "mlvm lock"


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "mlvm.lock").write_bytes(b"\xff\xfe")

    with pytest.raises(LockError, match="cannot be read"):
        load(tmp_path / "mlvm.lock")


def test_a_real_lock_is_read_within_a_tenth_of_a_second() -> None:
    """150 .debs and 60 wheels, as in a box for data science."""
    text = dumps(
        sample.lock(
            system=tuple(sample.deb(f"package{number:03}") for number in range(150)),
            python=sample.pylock({f"wheel{number:02}": "1.0" for number in range(60)}),
        )
    )
    began = time.process_time()

    loads(text)

    assert time.process_time() - began < 0.1


def test_what_is_built_from_sources_and_back() -> None:
    lock = sample.built()

    assert loads(dumps(lock)) == lock


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (drop("builds"), "builds: wanted for docopt, which have an sdist in `python`"),
        (put("builds", 0, "name", "other"), "builds: wanted for docopt, which have an sdist in `python`"),
        (
            drop("python", "packages", 0, "sdist"),
            "python.packages[0].wheels[0].url: a URL of http, https or file is wanted, found nothing",
        ),
        (
            put("python", "packages", 0, "wheels", 0, "path", "wheels/docopt-0.6.2-py3-none-any.whl"),
            (
                "python.packages[0].wheels[0].path: the bare name of a wheel that is built is wanted,"
                " found 'wheels/docopt-0.6.2-py3-none-any.whl'"
            ),
        ),
        (
            put("python", "packages", 0, "sdist", "hashes", {"sha256": "x"}),
            (
                "python.packages[0].sdist.hashes.sha256:"
                " a SHA-256 digest of 64 hexadecimal digits is wanted, found 'x'"
            ),
        ),
        (
            put(
                "builds",
                0,
                "requires",
                "packages",
                0,
                "sdist",
                {"url": "https://x/setuptools-84.2.1.tar.gz", "hashes": {"md5": "x"}},
            ),
            "builds[0].requires.packages[0]: exactly one wheel is wanted",
        ),
        (put("builds", 0, "requires", "colour", "red"), "builds[0].requires.colour: unknown key"),
        (put("builds", 0, "colour", "red"), "builds[0].colour: unknown key"),
        (
            put("inputs", "sdists", ["Docopt"]),
            "inputs.sdists: an array, each a normalised name such as scikit-learn, is wanted, found an array",
        ),
    ],
)
def test_complaints_about_builds(change: Callable[[dict[str, Any]], None], complaint: str) -> None:
    document = tomllib.loads(dumps(sample.built()))
    change(document)

    with pytest.raises(LockError) as error:
        loads(tomli_w.dumps(document))

    assert complaint in error.value.details.splitlines()
