"""Signatures by ssh-keygen itself: what they bind, and who may."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mlvm.box.catalog import Entry
from mlvm.box.signatures import sign, signer_of, statement, verify
from mlvm.errors import BoxError
from tests.box.tiny import make_key, signers

NAME = "team/tiny"
ENTRY = Entry(
    version="1.0.0", provider="libvirt", architecture="amd64", sha256="a" * 64, size=10, lock="b" * 64
)
SAID = statement(NAME, ENTRY)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("keys")
    return {name: make_key(folder / name) for name in ("anna", "mallory")}


@pytest.fixture
def allowed(keys: dict[str, Path], tmp_path: Path) -> Path:
    return signers(tmp_path / "allowed_signers", ("anna@example.org", keys["anna"]))


def test_who_may_sign_is_named(keys: dict[str, Path], allowed: Path) -> None:
    assert verify(SAID, sign(SAID, keys["anna"]), allowed) == "anna@example.org"


@pytest.mark.parametrize(
    "other",
    [
        statement("team/other", ENTRY),
        statement(NAME, replace(ENTRY, version="1.0.1")),
        statement(NAME, replace(ENTRY, provider="virtualbox")),
        statement(NAME, replace(ENTRY, architecture="arm64")),
        statement(NAME, replace(ENTRY, sha256="c" * 64)),
        statement(NAME, replace(ENTRY, size=11)),
        statement(NAME, replace(ENTRY, lock="")),
    ],
    ids=["name", "version", "provider", "architecture", "digest", "size", "lock"],
)
def test_a_signature_is_for_nothing_else(other: bytes, keys: dict[str, Path], allowed: Path) -> None:
    with pytest.raises(BoxError, match="the box's signature is not for this box"):
        verify(other, sign(SAID, keys["anna"]), allowed)


def test_a_stranger_s_signature_is_refused_and_told(keys: dict[str, Path], allowed: Path) -> None:
    with pytest.raises(BoxError) as refused:
        verify(SAID, sign(SAID, keys["mallory"]), allowed)

    assert refused.value.message == "the box is signed by somebody who may not"
    assert refused.value.details.startswith("ED25519 key SHA256:")


def test_no_signature_is_refused(allowed: Path) -> None:
    with pytest.raises(BoxError, match="the box is not signed"):
        verify(SAID, "", allowed)


def test_what_is_no_signature_is_refused(allowed: Path) -> None:
    with pytest.raises(BoxError, match="no signature of SSH's"):
        verify(SAID, "-----BEGIN PGP SIGNATURE-----\n", allowed)


def test_a_cut_signature_is_refused(keys: dict[str, Path], allowed: Path) -> None:
    with pytest.raises(BoxError, match="is not for this box"):
        verify(SAID, sign(SAID, keys["anna"])[:-80], allowed)


def test_a_signature_for_something_else_than_boxes_is_refused(
    keys: dict[str, Path], allowed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("mlvm.box.signatures.NAMESPACE", "git")
        signature = sign(SAID, keys["anna"])

    with pytest.raises(BoxError, match="is not for this box"):
        verify(SAID, signature, allowed)


def test_an_empty_list_lets_nobody_sign(keys: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "none").write_text("# nobody yet\n")

    with pytest.raises(BoxError, match="somebody who may not"):
        verify(SAID, sign(SAID, keys["anna"]), tmp_path / "none")


def test_a_key_for_another_namespace_may_not_sign(keys: dict[str, Path], tmp_path: Path) -> None:
    allowed = signers(tmp_path / "signers", ("anna", keys["anna"]), options='namespaces="git" ')

    with pytest.raises(BoxError, match="somebody who may not"):
        verify(SAID, sign(SAID, keys["anna"]), allowed)


def test_a_key_whose_time_is_over_may_not_sign(keys: dict[str, Path], tmp_path: Path) -> None:
    allowed = signers(tmp_path / "signers", ("anna", keys["anna"]), options='valid-before="20200101" ')

    with pytest.raises(BoxError, match="somebody who may not"):
        verify(SAID, sign(SAID, keys["anna"]), allowed)


def test_several_names_and_patterns_of_one_key(keys: dict[str, Path], tmp_path: Path) -> None:
    allowed = signers(tmp_path / "signers", ("anna@example.org,*@team.example", keys["anna"]))

    assert "anna@example.org" in verify(SAID, sign(SAID, keys["anna"]), allowed)


def test_a_file_that_is_no_key(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("no key\n")

    with pytest.raises(BoxError, match="does not sign"):
        sign(SAID, tmp_path / "key")


def test_a_key_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BoxError, match="there is no key"):
        sign(SAID, tmp_path / "key")


def test_whose_signature_it_is_without_a_list(keys: dict[str, Path]) -> None:
    assert signer_of(SAID, sign(SAID, keys["anna"])).startswith("ED25519 key SHA256:")
    assert signer_of(SAID + b"x", sign(SAID, keys["anna"])) == ""
