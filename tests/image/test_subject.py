"""Certificates are numbered as OpenSSL numbers them; `test_golden.py` compares all that Debian ships."""

from __future__ import annotations

import base64
from contextlib import suppress

import pytest
from certificate_sample import CERTIFICATE
from hypothesis import given
from hypothesis import strategies as st

from mlvm.image.certificates import add_certificates
from mlvm.image.subject import subject_hash
from mlvm.image.tree import Tree


def pem(content: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(content) + b"-----END CERTIFICATE-----\n"


def renamed(before: bytes, after: bytes) -> bytes:
    """The certificate with a part of its names written otherwise, as long as before."""
    content = base64.b64decode("".join(CERTIFICATE.splitlines()[1:-1]))
    assert len(before) == len(after)
    assert content.count(before) == 2
    return pem(content.replace(before, after))


def test_the_number_is_openssl_s() -> None:
    assert f"{subject_hash(CERTIFICATE.encode()):08x}" == "0b9bc432"


def test_case_does_not_matter() -> None:
    assert subject_hash(renamed(b"ISRG Root X2", b"isrg ROOT x2")) == 0x0B9BC432


def test_the_kind_of_text_does_not_matter() -> None:
    utf8, printable = b"\x0c\x0cISRG Root X2", b"\x13\x0cISRG Root X2"

    assert subject_hash(renamed(printable, utf8)) == 0x0B9BC432


def test_spaces_count_once() -> None:
    assert subject_hash(renamed(b"ISRG Root X2", b"ISRG   RootX")) == subject_hash(
        renamed(b"ISRG Root X2", b" ISRG  RootX")
    )
    assert subject_hash(renamed(b"ISRG Root X2", b"ISRGRoot X22")) != 0x0B9BC432


def test_two_of_one_subject_are_counted() -> None:
    tree = Tree()
    for name in "ba":
        tree.file(f"usr/share/ca-certificates/{name}.crt", CERTIFICATE)
    add_certificates(tree)

    assert tree["etc/ssl/certs/0b9bc432.0"].link == "a.pem"
    assert tree["etc/ssl/certs/0b9bc432.1"].link == "b.pem"


@pytest.mark.parametrize("content", [b"", b"text", b"-----BEGIN CERTIFICATE-----\n"])
def test_no_certificate(content: bytes) -> None:
    with pytest.raises(ValueError, match="no certificate"):
        subject_hash(content)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_certificate_or_an_error_that_is_caught(content: bytes) -> None:
    with suppress(ValueError, IndexError):
        subject_hash(pem(content))
