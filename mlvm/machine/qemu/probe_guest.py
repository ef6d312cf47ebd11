"""The smallest guest: an initramfs whose only program says one line and restarts.

It is written here byte by byte, so that the proof of an accelerator needs nothing but the guest kernel it is
about. The program is a static x86-64 ELF file of two system calls; the archive is a `newc` cpio, as the Linux
kernel's Documentation/driver-api/early-userspace/buffer-format.rst has it.
"""

from __future__ import annotations

import struct

#: What the guest says when it has come as far as running a program.
LINE = b"mlvm: this accelerator works\n"

_BASE = 0x400000
_HEADERS = 64 + 56


def initramfs() -> bytes:
    """Return the archive: a console to write to, and /init."""
    entries = [
        _entry("dev", 0o040755),
        _entry("dev/console", 0o020600, device=(5, 1)),
        _entry("init", 0o100755, content=program()),
        _entry("TRAILER!!!", 0),
    ]
    return b"".join(entries)


def program() -> bytes:
    """Return the ELF file: write(1, LINE), then reboot(RESTART), which ends QEMU under `-no-reboot`."""
    text_address = _BASE + _HEADERS
    code = b"".join(
        [
            b"\xb8" + struct.pack("<I", 1),  # mov eax, 1 (write)
            b"\xbf" + struct.pack("<I", 1),  # mov edi, 1
            b"\x48\xbe" + struct.pack("<Q", text_address),  # mov rsi, LINE; filled below
            b"\xba" + struct.pack("<I", len(LINE)),  # mov edx, its length
            b"\x0f\x05",  # syscall
            b"\xb8" + struct.pack("<I", 169),  # mov eax, 169 (reboot)
            b"\xbf" + struct.pack("<I", 0xFEE1DEAD),  # mov edi, LINUX_REBOOT_MAGIC1
            b"\xbe" + struct.pack("<I", 672274793),  # mov esi, LINUX_REBOOT_MAGIC2
            b"\xba" + struct.pack("<I", 0x01234567),  # mov edx, LINUX_REBOOT_CMD_RESTART
            b"\x0f\x05",  # syscall
            b"\xeb\xfe",  # jmp to itself: never reached
        ]
    )
    body = LINE + code  # the text first, so that its address does not depend on the code's length
    size = _HEADERS + len(body)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",  # 64 bits, little-endian, version 1
        *(2, 62, 1),  # executable, x86-64, version 1
        text_address + len(LINE),  # where it starts
        *(64, 0, 0),  # program headers follow; no sections; no flags
        *(64, 56, 1, 0, 0, 0),
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)  # loaded, r-x
    return header + segment + body


def _entry(name: str, mode: int, *, content: bytes = b"", device: tuple[int, int] = (0, 0)) -> bytes:
    """Return one archive member, padded to four bytes twice."""
    named = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(named), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + named
    return _padded(head) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
