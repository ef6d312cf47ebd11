"""Remote procedure calls (RFC 5531) over a stream that may begin, and break off, anywhere.

QEMU's character device joins all the guest's connections into one stream and does not say where one ends. Almost
always that is between two records; after a broken connection it is not, and the rest of a record never comes. So a
record must look like one of ours, else the next that does is searched for; and a record that has another one's
beginning inside is believed only when it comes twice the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mlvm.machine.share.xdr import Reader, opaque, u32

#: The longest record: the largest WRITE with its header and a long file handle.
LONGEST = (1 << 20) + 4096
LAST_FRAGMENT = 0x80000000
#: What follows the mark and the id of every call: "call", version 2 of RPC.
_CALL = b"\0\0\0\0\0\0\0\2"
_HEADER = 20
ACCEPTED, SUCCESS, PROG_UNAVAIL, PROG_MISMATCH, PROC_UNAVAIL, GARBAGE = 1, 0, 1, 2, 3, 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """One RPC program: what each of its procedures does with its arguments."""

    number: int
    version: int
    procedures: dict[int, Callable[[Reader], bytes]]


class Records:
    """Cuts a stream into the calls of one program."""

    def __init__(self, program: Program) -> None:
        #: Program and version, as they stand in every call.
        self._program = u32(program.number) + u32(program.version)
        self._data = bytearray()
        self._doubted: dict[bytes, bytes] = {}

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take more of the stream; yield every whole call, without its mark."""
        self._data += data
        while len(self._data) >= _HEADER:
            length = int.from_bytes(self._data[:4], "big") - LAST_FRAGMENT
            if not self._begins_at(0):
                self._skip()
                continue
            if len(self._data) < 4 + length:
                return
            record = bytes(memoryview(self._data)[4 : 4 + length])
            if self._is_doubtful(record):
                # Perhaps only its beginning is true. What is inside it may be the next call.
                del self._data[:4]
                self._skip()
                continue
            del self._data[: 4 + length]
            yield record

    def _begins_at(self, start: int) -> bool:
        mark = int.from_bytes(self._data[start : start + 4], "big") - LAST_FRAGMENT
        return (
            _HEADER <= mark <= LONGEST
            and self._data[start + 8 : start + 16] == _CALL
            and self._data[start + 16 : start + 24].startswith(self._program[: len(self._data) - start - 16])
        )

    def _skip(self) -> None:
        """Throw away everything before the next beginning of a call, or before what may become one."""
        at = 0
        while (found := self._data.find(_CALL + self._program, at)) >= 0:
            if found >= 8 and self._begins_at(found - 8):
                del self._data[: found - 8]
                return
            at = found + 1
        del self._data[: max(1, len(self._data) - _HEADER - 4)]

    def _is_doubtful(self, record: bytes) -> bool:
        """Tell whether another call begins inside this one, for the first time."""
        if record.find(_CALL + self._program, _HEADER) < 0:
            return False
        digest, xid = hashlib.sha256(record).digest(), record[:4]
        if self._doubted.pop(xid, None) == digest:
            return False
        if len(self._doubted) >= 64:
            self._doubted.clear()
        self._doubted[xid] = digest
        return True


class Answering:
    """Answers the calls of one program; what was answered lately is not done twice."""

    def __init__(self, program: Program, *, once: frozenset[int] = frozenset()) -> None:
        self._program = program
        #: Procedures that must not be done again when the client asks again, having missed the answer.
        self._once = once
        self._done: dict[tuple[bytes, int], bytes] = {}

    def answer(self, record: bytes) -> bytes | None:
        """Return the answer to a call, with its mark; None to what is no call."""
        try:
            call = Reader(record, 4)
            if call.u32() != 0 or call.u32() != 2:
                return None
            program, version, procedure = call.u32(), call.u32(), call.u32()
            for _ in range(2):  # credentials and verifier: whoever reaches the socket is the guest
                call.u32()
                call.opaque(400)
        except ValueError:
            return None
        xid = record[:4]
        known = self._done.get((xid, procedure))
        if known is not None:
            return known
        answer = _framed(xid, *self._perform(program, version, procedure, call))
        if procedure in self._once:
            if len(self._done) >= 512:
                del self._done[next(iter(self._done))]
            self._done[xid, procedure] = answer
        return answer

    def _perform(self, program: int, version: int, procedure: int, call: Reader) -> tuple[int, bytes]:
        ours = self._program
        if program != ours.number:
            return PROG_UNAVAIL, b""
        if version != ours.version:
            return PROG_MISMATCH, u32(ours.version) + u32(ours.version)
        if (perform := ours.procedures.get(procedure)) is None:
            return PROC_UNAVAIL, b""
        try:
            return SUCCESS, perform(call)
        except ValueError:
            return GARBAGE, b""


def _framed(xid: bytes, outcome: int, result: bytes) -> bytes:
    body = b"".join((xid, u32(1), u32(0), u32(0), opaque(b""), u32(outcome), result))
    return u32(LAST_FRAGMENT | len(body)) + body
