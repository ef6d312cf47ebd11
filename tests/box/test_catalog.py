"""The catalog's document: what is written can be read, and what is read is what it must be or refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlvm.box import catalog as catalogs
from mlvm.box.catalog import Catalog, Entry, Part, version_key
from mlvm.errors import BoxError

A, B = "a" * 64, "b" * 64


def entry(version: str = "1.0.0", *, provider: str = "libvirt", parts: int = 1, **other: Any) -> Entry:
    path = f"tiny/{version}/{provider}-amd64.box"
    paths = [path] if parts == 1 else [f"{path}.{number:04d}" for number in range(parts)]
    return Entry(
        version=version,
        provider=provider,
        architecture="amd64",
        sha256=A,
        size=10 * parts,
        parts=tuple(Part(path=one, size=10, sha256=A if parts == 1 else B) for one in paths),
        **other,
    )


def catalog(*entries: Entry) -> Catalog:
    found = Catalog(name="team/tiny")
    for one in entries:
        found = found.with_entry(one)
    return found.at("https://boxes.example/all")


def test_what_is_written_is_read() -> None:
    written = catalog(
        entry(lock=B, signature="s"), entry("1.1"), entry(provider="virtualbox"), entry("2", parts=3)
    )

    assert catalogs.loads(catalogs.dumps(written).encode(), "x") == written


def test_vagrant_s_part_of_the_document() -> None:
    document = json.loads(catalogs.dumps(catalog(entry())))

    provider = document["versions"][0]["providers"][0]
    provider.pop("mlvm")
    assert provider == {
        "name": "libvirt",
        "url": "https://boxes.example/all/team/tiny/1.0.0/libvirt-amd64.box",
        "checksum_type": "sha256",
        "checksum": A,
        "architecture": "amd64",
        "default_architecture": True,
    }


def test_a_box_in_parts_is_not_among_vagrant_s_providers() -> None:
    version = json.loads(catalogs.dumps(catalog(entry(parts=2))))["versions"][0]

    assert version["providers"] == []
    assert [one["name"] for one in version["mlvm"]["split"]] == ["libvirt"]


def test_versions_are_in_the_order_of_their_numbers() -> None:
    document = json.loads(catalogs.dumps(catalog(entry("1.10"), entry("1.9"), entry("1.2"))))

    assert [one["version"] for one in document["versions"]] == ["1.2", "1.9", "1.10"]


@pytest.mark.parametrize(
    ("version", "key"),
    [("1.0.0", (1,)), ("1.0", (1,)), ("0", (0,)), ("1.2.3", (1, 2, 3)), ("1.0-rc1", None), ("", None)],
)
def test_versions_in_numbers(version: str, key: tuple[int, ...] | None) -> None:
    assert version_key(version) == key


def test_a_catalog_of_others() -> None:
    content = json.dumps(
        {
            "name": "other/box",
            "description": "x",
            "versions": [
                {
                    "version": "1.0-beta",
                    "providers": [
                        {"name": "qemu", "url": "a.box", "checksum_type": "SHA256", "checksum": "A" * 64}
                    ],
                },
                {
                    "version": "2.0",
                    "providers": [
                        {"name": "qemu", "url": "https://x/b.box", "checksum_type": "md5", "checksum": "0"}
                    ],
                },
            ],
        }
    )

    found = catalogs.loads(content.encode(), "x")

    assert found.entries == (
        Entry(version="1.0-beta", provider="qemu", architecture="amd64", sha256=A, url="a.box"),
    )
    assert found.at("https://elsewhere").entries == found.entries


BAD = {
    "parts that do not come to the size": ("size", 11),
    "a path that climbs": ("path", "../../etc/passwd"),
    "a path that is absolute": ("path", "/etc/passwd"),
    "a path that is hidden": ("path", "tiny/.ssh/key"),
    "a path with an escape": ("path", "tiny/%2e%2e/x"),
    "a part of another digest": ("sha256", B),
    "a signature that is none": ("signature", ["x"]),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_entry_is_refused(case: str) -> None:
    key, value = BAD[case]
    document = json.loads(catalogs.dumps(catalog(entry())))
    ours = document["versions"][0]["providers"][0]["mlvm"]
    (ours if key in ("size", "signature") else ours["parts"][0])[key] = value

    with pytest.raises(BoxError, match="`x` is no catalog"):
        catalogs.loads(json.dumps(document).encode(), "x")


def test_the_same_version_twice_is_refused() -> None:
    document = json.loads(catalogs.dumps(catalog(entry("1.0"))))
    document["versions"].append({**document["versions"][0], "version": "1.0.0"})

    with pytest.raises(BoxError) as refused:
        catalogs.loads(json.dumps(document).encode(), "x")
    assert refused.value.details == "versions: 1.0 for libvirt is there twice"


def test_a_newer_format_is_refused() -> None:
    with pytest.raises(BoxError) as refused:
        catalogs.loads(b'{"name": "a/b", "mlvm": {"format": 2}, "versions": []}', "x")
    assert refused.value.details == "mlvm.format: this mlvm reads 1, found 2"


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.sampled_from(["1.0", A, "libvirt", "a/b", "sha256"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "name",
                    "versions",
                    "version",
                    "providers",
                    "mlvm",
                    "split",
                    "format",
                    "parts",
                    "url",
                    "checksum",
                    "checksum_type",
                ]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=30,
)


@given(_json)
def test_whatever_comes_is_read_or_refused(document: object) -> None:
    try:
        found = catalogs.loads(json.dumps(document).encode(), "x")
    except BoxError:
        return
    assert catalogs.loads(catalogs.dumps(found).encode(), "x").name == found.name


@given(st.binary(max_size=200))
def test_whatever_bytes_come_are_refused(content: bytes) -> None:
    with pytest.raises(BoxError):
        catalogs.loads(content, "x")
