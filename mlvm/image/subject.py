"""The number under which OpenSSL looks for a certificate's subject in a folder, as `openssl rehash` names links.

SHA-1 of the subject's name in a canonical form (X509_NAME_hash_ex, x509_name_canon in OpenSSL's crypto/x509): every
text becomes UTF-8 in small letters with single spaces, so that one name has one number however it is written.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)
_SEQUENCE, _SET, _UTF8, _VERSION = 0x30, 0x31, 0x0C, 0xA0
#: ASN.1 tags of texts, and how each is encoded.
_TEXTS = {
    _UTF8: "utf-8", 0x13: "latin-1", 0x14: "latin-1", 0x16: "latin-1", 0x1A: "latin-1",
    0x1C: "utf-32-be", 0x1E: "utf-16-be",
}  # fmt: skip
#: Fields of a certificate before its subject: serial number, algorithm, issuer, validity.
_BEFORE = 4


def subject_hash(certificate: bytes) -> int:
    """Return the number of a certificate in PEM. Raises ValueError for anything else."""
    found = _PEM.search(certificate)
    if found is None:
        raise ValueError("no certificate")
    ((_, outer),) = _elements(base64.b64decode(found[1]))
    (_, signed), *_ = _elements(outer)
    fields = [content for tag, content in _elements(signed) if tag != _VERSION]
    names = b"".join(_canonical(content) for _, content in _elements(fields[_BEFORE]))
    return int.from_bytes(hashlib.sha1(names, usedforsecurity=False).digest()[:4], "little")


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of each DER element in `data`."""
    position = 0
    while position < len(data):
        tag, size = data[position], data[position + 1]
        position += 2
        if size & 0x80:
            digits = size & 0x7F
            size = int.from_bytes(data[position : position + digits], "big")
            position += digits
        if position + size > len(data):
            raise ValueError("cut short")
        yield tag, data[position : position + size]
        position += size


def _element(tag: int, content: bytes) -> bytes:
    """Return a DER element."""
    if len(content) < 0x80:
        return bytes((tag, len(content))) + content
    digits = (len(content).bit_length() + 7) // 8
    return bytes((tag, 0x80 | digits)) + len(content).to_bytes(digits, "big") + content


def _canonical(part: bytes) -> bytes:
    """Return one part of a name (a set of types with values) in canonical form."""
    pairs = []
    for _, pair in _elements(part):
        (kind, name), (tag, value) = _elements(pair)
        if tag in _TEXTS:
            words = re.split(r"[ \t\n\v\f\r]+", value.decode(_TEXTS[tag]).strip(" \t\n\v\f\r"))
            text = re.sub("[A-Z]+", lambda letters: letters[0].lower(), " ".join(words))
            tag, value = _UTF8, text.encode()
        pairs.append(_element(_SEQUENCE, _element(kind, name) + _element(tag, value)))
    return _element(_SET, b"".join(sorted(pairs)))
