"""A migration stream without the guest's RAM: that goes into a file on the way, and the rest to whoever is to have it.

QEMU itself could read all of it into RAM that is a file. But it would do so page by page through a map of that file,
and would look at every page of zeros, to find zeros there: 5 s of CPU time for a guest of 1 GiB of which 270 MB are in
use, where this takes a tenth of it. What QEMU writes is documented (docs/devel/migration) and must be understood by
later versions of it; only the part that holds RAM is looked at here. It comes first, and is records of a page each:

    be64 offset | flags    of the page in its block; without CONTINUE its name follows (a byte of length)
    a byte                 with ZERO: what the page is filled with
    4096 bytes             with PAGE
    be64 EOS               no more in this section
"""

from __future__ import annotations

import os
import re
import struct

from mlvm.errors import MachineError

PAGE_SIZE = 4096
#: A section begins: its id; the one that saves RAM says so, and in which version.
START = re.compile(rb"\x01(.{4})\x03ram\x00{4}\x00\x00\x00\x04", re.DOTALL)
#: Bytes within which that comes.
HEAD = 4096
#: Kinds of sections that go on with it, and the mark that ends each.
PART, END, FOOTER = 0x02, 0x03, 0x7E
#: Flags of a record.
ZERO, MEM_SIZE, PAGE, EOS, CONTINUE = 0x02, 0x04, 0x08, 0x10, 0x20
CHUNK = 1 << 20
#: Pages written at once.
RUN = 256
FLAGS = PAGE_SIZE - 1
#: A record with a name, and a page.
LONGEST = 8 + 256 + PAGE_SIZE
_word = struct.Struct(">Q").unpack_from


class Sieve:
    """Reads a stream from descriptor `source`; RAM of `size` bytes goes to file `ram`, the rest to `sink`.

    The file is all holes, and what the guest has never written to stays so.
    """

    def __init__(self, source: int, *, sink: int, ram: int, size: int) -> None:
        self._source, self._sink, self._ram, self._size = source, sink, ram, size
        self._buffer = b""
        self._at = 0
        self._name = b""
        self._block = b""
        self._written = bytearray(size // PAGE_SIZE)
        self._run: list[memoryview | bytes] = []
        self._padding = 0
        self._run_at = 0

    def run(self) -> None:
        """Carry everything to the end of the stream. Raises MachineError for what is no such stream."""
        section = self._head()
        self._pass_on(5 + 4 + 8)  # section, "ram", instance and version
        self._blocks()
        try:
            while (kind := self._take_footer(section)) == PART:
                self._pages()
            if kind != END:
                raise _strange(f"a section of kind {kind}")
            self._pages()
        except IndexError:
            raise _strange(f"a page beyond {self._size}") from None
        self._rest()

    def _head(self) -> bytes:
        """Pass on what stands before the RAM; return the id of its section."""
        while not (found := START.search(self._buffer)):
            if len(self._buffer) > HEAD or not self._more():
                raise _strange("it saves no RAM")
        self._pass_on(found.start())
        return found[1]

    def _blocks(self) -> None:
        """Pass on the list of blocks, and find the one that is the guest's RAM."""
        word = self._peek_word()
        if not word & MEM_SIZE:
            raise _strange("it does not say which RAM there is")
        self._pass_on(8)
        total = word & ~(PAGE_SIZE - 1)
        while total > 0:
            length = self._peek(1)[0]
            name, size = bytes(self._peek(1 + length)[1:]), int.from_bytes(self._peek(9 + length)[-8:], "big")
            self._pass_on(9 + length)
            total -= size
            if size == self._size:
                self._name = name
        if not self._name:
            raise _strange(f"it has no RAM of {self._size} bytes")
        if self._peek_word() != EOS:
            raise _strange("its list of RAM does not end")
        self._pass_on(8)

    def _take_footer(self, section: bytes) -> int:
        """Pass on the end of a section and the beginning of the next; return its kind."""
        around = bytes(self._peek(10))
        if around[:5] != bytes([FOOTER]) + section or around[6:] != section:
            raise _strange("a section does not end")
        self._pass_on(10)
        return around[5]

    def _pages(self) -> None:
        """Take the pages of a section that are the guest's RAM; pass on the others, and the end."""
        mine, at = self._block == self._name, self._at
        while True:
            self._at = at
            buffer, at, last = self._fill()
            while at <= last:  # half a million times for 2 GiB
                (word,) = _word(buffer, at)
                flags, body = word & FLAGS, at + 8
                if flags == EOS:
                    self._at = at
                    self._write_run()
                    return self._pass_on(8)
                if not flags & CONTINUE:
                    body += 1 + buffer[body]
                    self._block = bytes(buffer[at + 9 : body])
                    mine = self._block == self._name
                kind = flags & ~CONTINUE
                if kind == PAGE:
                    end = body + PAGE_SIZE
                elif kind == ZERO:
                    end = body + 1
                else:
                    raise _strange(f"a record with flags {flags:#x}")
                if not mine:
                    self._at = at
                    self._pass_on(end - at)
                elif kind == PAGE or self._written[word // PAGE_SIZE] or buffer[body]:
                    page = buffer[body:end] if kind == PAGE else bytes(buffer[body:end]) * PAGE_SIZE
                    self._take(word & ~FLAGS, page)
                at = end

    def _take(self, offset: int, page: memoryview | bytes) -> None:
        """Put a page into the file, with those that follow it."""
        if len(self._run) >= RUN or offset != self._run_at + len(self._run) * PAGE_SIZE:
            self._write_run()
            self._run_at = offset
        self._written[offset // PAGE_SIZE] = 1
        self._run.append(page)

    def _write_run(self) -> None:
        run, self._run = self._run, []
        if run and os.pwritev(self._ram, run, self._run_at) < len(run) * PAGE_SIZE:
            raise MachineError(
                "the guest's RAM cannot be written", details="the file system took less than it was given"
            )

    def _fill(self) -> tuple[memoryview, int, int]:
        """Return the buffer with a whole record in it, where that begins, and where the last whole one may begin."""
        while len(self._buffer) - self._at < LONGEST and self._more():
            pass
        missing = LONGEST - (len(self._buffer) - self._at)
        if missing > 0:
            if self._at > len(self._buffer) - self._padding:
                raise _strange("it ends early")
            self._padding += missing
            self._buffer += bytes(missing)
        return memoryview(self._buffer), self._at, len(self._buffer) - LONGEST

    def _rest(self) -> None:
        """Pass on everything else as it comes."""
        if self._at > len(self._buffer) - self._padding:
            raise _strange("it ends early")
        self._pass_on(len(self._buffer) - self._padding - self._at)
        while not self._padding and self._more():
            self._pass_on(len(self._buffer))

    def _peek_word(self) -> int:
        return int.from_bytes(self._peek(8), "big")

    def _peek(self, count: int) -> bytes:
        """Return the next `count` bytes, which stay where they are."""
        while len(self._buffer) - self._at < count:
            if not self._more():
                raise _strange("it ends early")
        return self._buffer[self._at : self._at + count]

    def _more(self) -> bool:
        """Read what there is; return whether there was anything."""
        self._write_run()  # what it consists of lies in the buffer
        data = os.read(self._source, CHUNK)
        self._buffer = self._buffer[self._at :] + data
        self._at = 0
        return bool(data)

    def _pass_on(self, count: int) -> None:
        view = memoryview(self._buffer[self._at : self._at + count])
        self._at += count
        while view:
            view = view[os.write(self._sink, view) :]


def _strange(what: str) -> MachineError:
    return MachineError(f"QEMU's migration stream cannot be understood: {what}")
