"""XDR (RFC 4506), as much of it as NFS needs: big-endian words, and bytes padded to whole words."""

from __future__ import annotations

import struct

_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


class Reader:
    """Reads values one after another. Raises ValueError where the data ends too early."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self._data = data
        self._at = at

    def u32(self) -> int:
        """Return the next word."""
        try:
            (value,) = _U32.unpack_from(self._data, self._at)
        except struct.error:
            raise ValueError("the request ends in the middle of a word") from None
        self._at += 4
        return int(value)

    def u64(self) -> int:
        """Return the next double word."""
        try:
            (value,) = _U64.unpack_from(self._data, self._at)
        except struct.error:
            raise ValueError("the request ends in the middle of a word") from None
        self._at += 8
        return int(value)

    def opaque(self, most: int) -> bytes:
        """Return the next bytes, of which there may be so many."""
        length = self.u32()
        if length > most:
            raise ValueError(f"{length} bytes where {most} are allowed")
        return self.fixed(length)

    def fixed(self, length: int) -> bytes:
        """Return so many bytes."""
        value = self._data[self._at : self._at + length]
        if len(value) != length:
            raise ValueError("the request ends in the middle of its bytes")
        self._at += length + -length % 4
        return value


def u32(value: int) -> bytes:
    """Write a word."""
    return _U32.pack(value)


def u64(value: int) -> bytes:
    """Write a double word."""
    return _U64.pack(value)


def opaque(value: bytes) -> bytes:
    """Write bytes with their length."""
    return _U32.pack(len(value)) + value + _PADDING[len(value) & 3]
