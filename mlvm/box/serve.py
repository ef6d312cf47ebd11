"""Serve a folder of catalogs on a network, by TLS: to teammates with mlvm, and to Vagrant.

Only what the catalogs name is served, looked up in them at each request: there are no listings, and a name is compared,
never followed. Addresses in the catalogs become this server's own, and a box in parts is given whole, so Vagrant
can fetch it here. One thread a connection, each with a deadline, and no more connections than set; nothing is ever
written.
"""

from __future__ import annotations

import ipaddress
import json
import re
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from mlvm.box import catalog as catalogs
from mlvm.box.catalog import Catalog, Part
from mlvm.box.certificate import Certificate
from mlvm.errors import BoxError

#: Connections at once; more wait for a while and are then sent away.
MOST = 64
#: Seconds in which a client must say or take something.
PATIENCE = 60.0
_PIECE = 1 << 18
_HOST = re.compile(r"[A-Za-z0-9.-]{1,253}(?::[0-9]{1,5})?|\[[0-9a-fA-F:.]{2,45}\](?::[0-9]{1,5})?")
_RANGE = re.compile(r"bytes=([0-9]{0,19})-([0-9]{0,19})")


@dataclass(frozen=True, kw_only=True, slots=True)
class Whole:
    """What stands behind a path: files one after the other, or a document's content."""

    type: str
    size: int
    parts: Sequence[tuple[Path, int]] = ()
    content: bytes = b""
    tag: str = ""

    def pieces(self, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes from `start` up to `end`."""
        if self.content:
            yield self.content[start:end]
            return
        for path, size in self.parts:
            if start < size and end > 0:
                yield from _pieces(path, max(0, start), min(end, size))
            start, end = start - size, end - size


def _pieces(path: Path, start: int, end: int) -> Iterator[bytes]:
    with path.open("rb") as stream:
        stream.seek(start)
        while start < end and (piece := stream.read(min(_PIECE, end - start))):
            start += len(piece)
            yield piece


@dataclass(frozen=True, slots=True)
class Shelf:
    """A folder of catalogs, and what of it may be seen."""

    folder: Path

    def names(self) -> list[str]:
        """Return the names of all boxes whose catalogs can be read."""
        return [found.name for _, found in self._catalogs()]

    def find(self, path: str, base: str) -> Whole | None:
        """Return what stands at `path` for those who know us as `base`; None for whatever no catalog names."""
        for organisation, found in self._catalogs():
            if path == catalogs.path_of(found.name):
                content = _told(found, base)
                return Whole(type="application/json", size=len(content), content=content)
            for entry in found.entries:
                for part in entry.parts:
                    if path == f"{organisation}/{part.path}":
                        return self._whole(organisation, [part], part.sha256)
                if len(entry.parts) > 1 and path == f"{organisation}/{_whole_path(entry.parts)}":
                    return self._whole(organisation, entry.parts, entry.sha256)
        return None

    def _catalogs(self) -> Iterator[tuple[str, Catalog]]:
        for path in sorted(self.folder.glob("*/*.json")):
            with suppress(BoxError, OSError):
                found = catalogs.loads(path.read_bytes(), str(path))
                if self.folder / catalogs.path_of(found.name) == path:
                    yield path.parent.name, found

    def _whole(self, organisation: str, parts: Sequence[Part], sha256: str) -> Whole | None:
        """Return parts as one, if they are plain files of this folder, of the sizes that were published."""
        places = [(self.folder / organisation / part.path, part.size) for part in parts]
        root = self.folder.resolve()
        for place, size in places:
            try:
                there = place.resolve(strict=True)
                fits = there.is_relative_to(root) and there.is_file() and there.stat().st_size == size
            except OSError:
                return None
            if not fits:
                return None
        total = sum(size for _, size in places)
        return Whole(type="application/octet-stream", size=total, parts=places, tag=f'"{sha256}"')


def _whole_path(parts: Sequence[Part]) -> str:
    return parts[0].path.rpartition(".")[0]


def _told(found: Catalog, base: str) -> bytes:
    """Return a catalog's text for those who see it here: Vagrant is told of boxes in parts as of others."""
    folder = f"{base}/{found.name.partition('/')[0]}"
    document = json.loads(catalogs.dumps(found.at(base)))
    paths = {(one.version, one.provider, one.architecture): one.parts for one in found.entries}
    for version in document["versions"]:
        for entry in version.pop("mlvm", {}).get("split", []):
            parts = paths[version["version"], entry["name"], entry["architecture"]]
            version["providers"].append({**entry, "url": f"{folder}/{_whole_path(parts)}"})
    return json.dumps(document, indent=1).encode() + b"\n"


class Server(ThreadingHTTPServer):
    """Serves a shelf by TLS."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], shelf: Shelf, certificate: Certificate) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.shelf = shelf
        self.room = threading.BoundedSemaphore(MOST)
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.minimum_version = ssl.TLSVersion.TLSv1_2
        self.tls.load_cert_chain(certificate.certificate, certificate.key)
        super().__init__(address, Handler)

    @property
    def is_local(self) -> bool:
        """Tell whether only this host reaches it."""
        return ipaddress.ip_address(str(self.server_address[0])).is_loopback

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begin a thread for a connection, if there is room for one more."""
        if not self.room.acquire(timeout=1.0):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection. The handshake is made here: a client that is slow at it delays nobody else."""
        try:
            request.settimeout(PATIENCE)
            try:
                request = self.tls.wrap_socket(request, server_side=True)
            except OSError:
                self.shutdown_request(request)
                return
            super().process_request_thread(request, client_address)
        finally:
            self.room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that went away."""


class Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD for what the catalogs name."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = PATIENCE
    server_version = "mlvm"
    sys_version = ""

    def do_GET(self) -> None:
        """Give a file, or a range of it."""
        self._answer(body=True)

    def do_HEAD(self) -> None:
        """Give its size and type: Vagrant asks for the type to tell a catalog from a box."""
        self._answer(body=False)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
        """Say nothing: the command line has a log of its own."""

    def _answer(self, *, body: bool) -> None:
        host = self.headers.get("Host", "")
        path = urlsplit(self.path).path
        found = None
        if _HOST.fullmatch(host) and path.startswith("/") and self.path.isascii():
            found = self.server.shelf.find(unquote(path[1:]), f"https://{host}")
        if found is None:
            self._refuse(HTTPStatus.NOT_FOUND, body=body)
            return
        try:
            start, end, status = _asked(self.headers.get("Range"), found.size)
        except ValueError:
            self._refuse(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, body=body, size=found.size)
            return
        if self.headers.get("If-Range", found.tag) != found.tag:
            start, end, status = 0, found.size, HTTPStatus.OK
        self.send_response(status)
        self.send_header("Content-Type", found.type)
        self.send_header("Content-Length", str(end - start))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("X-Content-Type-Options", "nosniff")
        if found.tag:
            self.send_header("ETag", found.tag)
        if status is HTTPStatus.PARTIAL_CONTENT:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{found.size}")
        self.end_headers()
        if body:
            self._send(found, start, end)

    def _send(self, found: Whole, start: int, end: int) -> None:
        """Send bytes; when the files are shorter than they were, the connection ends early, which a client sees."""
        left = end - start
        sink: IO[bytes] = self.wfile  # type: ignore[assignment]
        try:
            for piece in found.pieces(start, end):
                sink.write(piece)
                left -= len(piece)
        except OSError:
            self.close_connection = True
            return
        if left:
            self.close_connection = True

    def _refuse(self, status: HTTPStatus, *, body: bool, size: int | None = None) -> None:
        words = f"{status.phrase}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(words)))
        if size is not None:
            self.send_header("Content-Range", f"bytes */{size}")
        self.end_headers()
        if body:
            self.wfile.write(words)


def _asked(header: str | None, size: int) -> tuple[int, int, HTTPStatus]:
    """Return the range that is asked for. Raises ValueError for one that is not there.

    What is no single range is answered with the whole, as HTTP allows.
    """
    found = _RANGE.fullmatch(header or "")
    if not found or found[1] == found[2] == "":
        return 0, size, HTTPStatus.OK
    if not found[1]:
        start, end = max(0, size - int(found[2])), size
    else:
        start = int(found[1])
        end = min(size, int(found[2]) + 1) if found[2] else size
    if start >= end:
        raise ValueError(header)
    return start, end, HTTPStatus.PARTIAL_CONTENT


def make_server(folder: Path, *, address: str, port: int, certificate: Certificate) -> Server:
    """Return a server of the catalogs in `folder` that listens; `serve_forever` begins. Raises BoxError."""
    shelf = Shelf(folder.resolve())
    if not shelf.names():
        raise BoxError(
            f"there is no catalog in `{folder}`", hint=f"mlvm box publish FILE.box --catalog {folder}"
        )
    try:
        return Server((address, port), shelf, certificate)
    except (OSError, OverflowError) as taken:
        raise BoxError(
            f"{address}:{port} cannot be listened at: {getattr(taken, 'strerror', None) or taken}",
            hint="another `--port` (0: any that is free), or another `--address`",
        ) from None
