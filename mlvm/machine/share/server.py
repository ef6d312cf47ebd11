"""The server's process: `python -m mlvm.machine.share.server LIST SOCKET SOCKET`.

LIST is the file with the machine's folders, looked at before every answer: a folder that is taken away is gone at
once. The sockets are QEMU's, for the files and for the MOUNT protocol. It ends with QEMU. Requests are taken off the
socket by a thread of their own, at once: QEMU hands over what the guest sends without ever waiting, and the whole
machine would wait with it.
"""

from __future__ import annotations

import os
import queue
import resource
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path

from mlvm.machine.share import mounting, nfs
from mlvm.machine.share.listed import load
from mlvm.machine.share.rpc import Answering, Program, Records
from mlvm.machine.share.tree import Tree

#: Seconds without a request after which what is idle is closed.
QUIET = 2.0
CHUNK = 256 * 1024


class Exports:
    """The trees of the folders in a list."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._trees: dict[int, Tree] = {}

    def tree(self, number: int) -> Tree | None:
        """Return the tree with a number."""
        self.refresh()
        return self._trees.get(number)

    def refresh(self) -> None:
        """Read the list again if it has changed; without one there is nothing to serve."""
        try:
            status = os.stat(self._path)  # noqa: PTH116 - a fifth of the time of Path's
            seen = (status.st_mtime_ns, status.st_ino)
        except OSError:
            seen = (0, 0)
        if seen == self._seen:
            return
        wanted = {one.number: one for one in load(self._path)}
        for number, tree in list(self._trees.items()):
            one = wanted.get(number)
            if one is None or (one.folder, one.write) != (tree.folder, tree.write):
                self._trees.pop(number).close()
        for number, one in wanted.items():
            if number not in self._trees:
                self._trees[number] = Tree(number, one.folder, write=one.write)
        self._seen = seen

    def rest(self) -> None:
        """Do what can be done when nobody asks."""
        self.refresh()
        for tree in self._trees.values():
            tree.close_idle()


class Line:
    """One socket of QEMU's, the program behind it, and what waits to be answered."""

    def __init__(self, path: str, program: Program, once: frozenset[int] = frozenset()) -> None:
        self.connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.connection.connect(path)
        self._records = Records(program)
        self._answering = Answering(program, once=once)

    def listen(self, waiting: queue.SimpleQueue[tuple[Line, bytes]]) -> None:
        """Put what arrives into a queue; empty bytes at the end."""
        data = b"-"
        while data:
            try:
                data = self.connection.recv(CHUNK)
            except OSError:
                data = b""
            waiting.put((self, data))

    def answer(self, data: bytes) -> None:
        """Answer what has arrived. Raises OSError when QEMU is gone."""
        for record in self._records.feed(data):
            answer = self._answering.answer(record)
            if answer is not None:
                self.connection.sendall(answer)


def serve(listed: Path, files: str, mounts: str) -> None:
    """Serve until QEMU ends."""
    exports = Exports(listed)
    exports.refresh()
    waiting: queue.SimpleQueue[tuple[Line, bytes]] = queue.SimpleQueue()
    lines = (
        Line(files, nfs.Files(exports.tree).program(), nfs.ONCE),
        Line(mounts, mounting.program(exports.tree)),
    )
    for line in lines:
        threading.Thread(target=line.listen, args=(waiting,), daemon=True).start()
    while True:
        try:
            line, data = waiting.get(timeout=QUIET)
        except queue.Empty:
            exports.rest()
            continue
        if not data:
            return
        with suppress(OSError):
            line.answer(data)


def main(arguments: list[str]) -> None:
    """Serve with as many open files as we may have, and let no umask interfere."""
    with suppress(OSError, ValueError):
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    os.umask(0)
    listed, files, mounts = arguments
    serve(Path(listed), files, mounts)


if __name__ == "__main__":
    main(sys.argv[1:])
