"""Run by the guest's own interpreter on the host: Python sources in, bytecode out.

Standard input holds, for each file, the lengths of its name and source, its time, then both; standard output gets, for
each, the length of its `.pyc` (0 when it does not compile) and its bytes. Marshal version 2 writes no shared
references: those depend on what else the process has seen, and the bytes must not.
"""

from __future__ import annotations

import importlib.util
import marshal
import struct
import sys
import warnings

HEADER = struct.Struct("<III")
LENGTH = struct.Struct("<I")


def compiled(name: str, source: bytes, mtime: int) -> bytes:
    """Return the bytes of the `.pyc` of a source; nothing when it is no Python."""
    try:
        code = compile(source, name, "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return b""
    header = importlib.util.MAGIC_NUMBER + struct.pack("<III", 0, mtime, len(source) & 0xFFFFFFFF)
    return header + marshal.dumps(code, 2)


def main() -> None:
    """Compile all of standard input."""
    warnings.simplefilter("ignore")
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    while header := stdin.read(HEADER.size):
        name_length, source_length, mtime = HEADER.unpack(header)
        name = stdin.read(name_length).decode()
        result = compiled(name, stdin.read(source_length), mtime)
        stdout.write(LENGTH.pack(len(result)) + result)


if __name__ == "__main__":
    main()
