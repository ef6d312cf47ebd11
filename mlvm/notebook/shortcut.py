"""The short way of a widget's message to a guest: past the local kernel's main thread.

A slider that is dragged sends dozens of messages a second. An ipykernel with subshells reads all messages in a thread
of its own and hands each to the thread that shall work on it. What is for a comm that a guest has opened goes from that
reader straight to the guest, frames as they came, and the guest's own busy and idle come back: nothing else runs here.
Older ipykernels have no such thread; there every message takes the way of `relay`'s handlers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from mlvm.notebook.link import DELIMITER, Link

#: Message id and comm id -> the guest and the header it shall see, or None for whoever comes next.
Route = Callable[[str, dict[str, Any]], tuple[Link, dict[str, Any]] | None]
KIND = b"comm_msg"


class Shortcut:
    """Reads the shell channel of `kernel` before the kernel does; `route` knows the guests."""

    def __init__(self, kernel: Any, route: Route) -> None:
        self._kernel = kernel
        self._route = route
        self._thread = getattr(kernel, "shell_channel_thread", None)

    def open(self) -> None:
        """Begin, where there is a thread that reads."""
        self._read_with(self._received)

    def close(self) -> None:
        """Let the kernel read alone again."""
        self._read_with(getattr(self._kernel, "shell_channel_thread_main", None))

    def _read_with(self, reader: Callable[[Any], Any] | None) -> None:
        stream = self._kernel.shell_stream
        if self._thread is not None and reader is not None and stream is not None:
            self._thread.io_loop.add_callback(stream.on_recv, reader, copy=False)

    def _received(self, frames: list[Any]) -> Any:
        if not self._taken(frames):
            return self._kernel.shell_channel_thread_main(frames)
        return None

    def _taken(self, frames: list[Any]) -> bool:
        """Send a message to its guest; return False, whatever the matter is, when it is for the kernel to look at."""
        try:
            at = next(i for i, frame in enumerate(frames) if frame.bytes == DELIMITER)
            if KIND not in frames[at + 2].bytes:
                return False
            session = self._kernel.session
            _, signed = session.feed_identities(frames, copy=False)
            header = session.deserialize(signed, content=False, copy=False)[
                "header"
            ]  # checks the signature, too
            if header["msg_type"] != KIND.decode():
                return False
            found = self._route(json.loads(frames[at + 5].bytes)["comm_id"], header)
        except (ValueError, KeyError, IndexError, TypeError, StopIteration):
            return False
        if found is None:
            return False
        link, passed = found
        packed = frames[at + 2].bytes if passed == header else session.pack(passed)
        parts = [packed, *(frame.bytes for frame in frames[at + 3 : at + 6])]
        link.pass_on(header["msg_id"], parts, frames[at + 6 :])
        return True
