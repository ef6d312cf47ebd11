"""The little of ELF that an image builder asks: sections by name, and a shared library's own name.

64-bit little-endian files only, as all of ours are.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_SECTION = struct.Struct("<IIQQQQII")
_DYNAMIC = struct.Struct("<QQ")
_DT_NULL, _DT_SONAME = 0, 14
_SHT_NOBITS = 8


def is_elf(content: bytes) -> bool:
    """Tell whether this is a file of the kind read here."""
    return content[:6] == b"\x7fELF\x02\x01"


def section(elf: bytes, wanted: bytes) -> bytes:
    """Return a section by its name, empty when there is none. Raises ValueError for what is no ELF file."""
    for name, content in sections(elf):
        if name == wanted:
            return content
    return b""


def sections(elf: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield every section, name and content. Raises ValueError for what is no ELF file."""
    if not is_elf(elf):
        raise ValueError("no 64-bit ELF file")
    try:
        (offset,) = struct.unpack_from("<Q", elf, 0x28)
        size, count, names_at = struct.unpack_from("<HHH", elf, 0x3A)
        headers = [_SECTION.unpack_from(elf, offset + index * size) for index in range(count)]
        if not headers:
            return
        names = _content(elf, headers[names_at])
    except (struct.error, IndexError, OverflowError) as broken:
        raise ValueError(f"broken ELF file: {broken}") from None
    for header in headers:
        yield names[header[0] :].split(b"\0", 1)[0], _content(elf, header)


def soname(elf: bytes) -> str | None:
    """Return the name a shared library gives itself, None when it has none. Raises ValueError."""
    found = dict(sections(elf))
    strings = found.get(b".dynstr", b"")
    dynamic = found.get(b".dynamic", b"")
    for offset in range(0, len(dynamic) - _DYNAMIC.size + 1, _DYNAMIC.size):
        tag, value = _DYNAMIC.unpack_from(dynamic, offset)
        if tag == _DT_NULL:
            break
        if tag == _DT_SONAME:
            return strings[value:].split(b"\0", 1)[0].decode(errors="replace")
    return None


def _content(elf: bytes, header: tuple[int, ...]) -> bytes:
    _, kind, _, _, offset, size, *_ = header
    return b"" if kind == _SHT_NOBITS else elf[offset : offset + size]
