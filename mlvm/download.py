"""The only door to the network: many files at once, resumed, verified while they stream.

What is downloaded is named by its digest and kept for ever under that name (`Blobs`), so a file is fetched once on a
host whatever needs it. Bytes go to a partial file under a hold; a partial that was left behind is continued with a
Range request. A wrong digest removes it: nothing that was ever wrong is looked at twice.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from mlvm.errors import DigestError, DownloadError
from mlvm.events import SILENT, Observer
from mlvm.files import hold

if TYPE_CHECKING:
    import requests

log = logging.getLogger(__name__)

PIECE = 1 << 18
TIMEOUT = (20.0, 60.0)
ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """A file to fetch: its places, best first, the digest it must have, and its size in bytes where known."""

    name: str
    urls: tuple[str, ...]
    sha256: str
    size: int | None


@dataclass(frozen=True, slots=True)
class Blobs:
    """A folder of files named by the SHA-256 of their content; read-only, whole, never changed."""

    folder: Path

    def path(self, sha256: str) -> Path:
        """Where the blob with this digest is, or will be."""
        return self.folder / sha256[:2] / sha256

    def has(self, sha256: str) -> bool:
        """Tell whether the blob is here."""
        return self.path(sha256).is_file()


@dataclass(slots=True)
class _Meter:
    """Adds up the bytes of all files and tells the observer, ten times a second at most."""

    observer: Observer
    total: int
    done: int = 0
    told: float = 0.0
    guard: threading.Lock = field(default_factory=threading.Lock)

    def add(self, count: int, name: str) -> None:
        with self.guard:
            self.done += count
            now = time.monotonic()
            if now - self.told < 0.1 and self.done < self.total:
                return
            self.told = now
            self.observer.stage_progress("download", self.done, max(self.total, self.done), name)


def fetch(wanted: Iterable[Wanted], blobs: Blobs, *, observer: Observer = SILENT, workers: int = 8) -> None:
    """Bring every wanted file into `blobs`; return when all are there and have their digests.

    Files that are there already cost nothing. Raises DownloadError or DigestError for the first file that cannot be
    had; what arrived meanwhile is kept.
    """
    missing = {item.sha256: item for item in wanted if not blobs.has(item.sha256)}
    if not missing:
        return
    began = time.monotonic()
    meter = _Meter(observer=observer, total=sum(item.size or 0 for item in missing.values()))
    observer.stage_started("download", f"{len(missing)} files")
    sessions = threading.local()
    with ThreadPoolExecutor(workers) as pool:
        jobs = [pool.submit(_bring, item, blobs, meter, sessions) for item in missing.values()]
        try:
            for job in as_completed(jobs):
                job.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    observer.stage_finished("download", time.monotonic() - began, f"{len(missing)} files")


def read_url(url: str, *, limit: int) -> bytes:
    """Return a small document, `limit` bytes at most. Raises DownloadError."""
    with _stream(url, 0, threading.local()) as (pieces, _):
        content = b""
        for piece in pieces:
            content += piece
            if len(content) > limit:
                raise DownloadError(f"`{url}` is larger than {limit} bytes")
    return content


def _bring(item: Wanted, blobs: Blobs, meter: _Meter, sessions: threading.local) -> None:
    """Fetch one file under its hold, so that two processes do not fetch it twice."""
    target = blobs.path(item.sha256)
    with hold(target.with_name(f".hold-{item.sha256}")):
        if target.is_file():
            meter.add(item.size or 0, item.name)
            return
        partial = target.with_name(f".tmp-{item.sha256}")
        refusals: list[str] = []
        for url in item.urls:
            if _try_place(url, item, partial, meter=meter, sessions=sessions, refusals=refusals):
                partial.chmod(0o444)
                partial.replace(target)
                target.with_name(f".hold-{item.sha256}").unlink(missing_ok=True)
                return
    raise DownloadError(
        f"`{item.name}` could not be downloaded",
        details="\n".join(refusals),
        hint="check the network; if the file is gone from all places, `mlvm lock --upgrade` finds what replaced it",
    )


def _try_place(
    url: str, item: Wanted, partial: Path, *, meter: _Meter, sessions: threading.local, refusals: list[str]
) -> bool:
    """Fetch from one place, with retries that continue where the last one broke off."""
    for attempt in range(ATTEMPTS):
        try:
            _append(url, partial, item, meter, sessions)
        except DownloadError as refused:
            if attempt == ATTEMPTS - 1 or refused.hint == "final":
                refusals.append(refused.message)
                return False
            time.sleep(0.2 * 2**attempt)
            continue
        _check(partial, item, url)
        return True
    return False


def _append(url: str, partial: Path, item: Wanted, meter: _Meter, sessions: threading.local) -> None:
    have = partial.stat().st_size if partial.exists() else 0
    if item.size is not None and have == item.size:
        return
    with _stream(url, have, sessions) as (pieces, start), partial.open("r+b" if have else "wb") as sink:
        sink.seek(start)
        sink.truncate()
        count = start
        for piece in pieces:
            count += len(piece)
            if item.size is not None and count > item.size:
                break
            sink.write(piece)
            meter.add(len(piece), item.name)
        sink.flush()
        os.fsync(sink.fileno())
    if item.size is not None and count < item.size:
        raise DownloadError(f"{url}: the connection ended after {count} of {item.size} bytes")


def _check(partial: Path, item: Wanted, url: str) -> None:
    with partial.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != item.sha256:
        partial.unlink()
        raise DigestError(
            f"`{item.name}` is not what the lock says",
            details=f"from {url}\nwanted sha256:{item.sha256}\nfound  sha256:{found}",
            hint="it was thrown away; try again, and if it stays so, do not trust that place",
        )


@contextmanager
def _stream(url: str, start: int, sessions: threading.local) -> Iterator[tuple[Iterator[bytes], int]]:
    """Open `url` from byte `start`; yield its pieces and the byte they really start at."""
    if urlsplit(url).scheme == "file":
        with _local(url) as stream:
            stream.seek(start)
            yield iter(lambda: stream.read(PIECE), b""), start
        return
    import requests  # noqa: PLC0415  (60 ms; a build from a warm store never needs it)

    session: requests.Session = getattr(sessions, "session", None) or requests.Session()
    sessions.session = session
    headers = {
        "Accept-Encoding": "identity",
        "User-Agent": "mlvm",
        **({"Range": f"bytes={start}-"} if start else {}),
    }
    try:
        with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            if answer.status_code not in (200, 206):
                final = "final" if 400 <= answer.status_code < 500 and answer.status_code != 429 else ""
                raise DownloadError(f"{url}: answered {answer.status_code} {answer.reason}", hint=final)
            yield answer.iter_content(PIECE), start if answer.status_code == 206 else 0
    except (requests.RequestException, OSError) as broken:
        raise DownloadError(f"{url}: {_reason(broken)}") from None


@contextmanager
def _local(url: str) -> Iterator[IO[bytes]]:
    try:
        with Path(unquote(urlsplit(url).path)).open("rb") as stream:
            yield stream
    except OSError as broken:
        raise DownloadError(f"{url}: {broken.strerror or broken}", hint="final") from None


def _reason(broken: BaseException) -> str:
    """The innermost cause, in its own words: requests wraps it three times."""
    inner = broken
    while inner.args and isinstance(inner.args[0], BaseException):
        inner = inner.args[0]
    reason = getattr(inner, "reason", None) or inner
    return str(reason).rsplit(": ", 1)[-1]
