"""The only door to the network: many files at once, resumed, verified while they stream.

What is downloaded is named by its digest and kept for ever under that name (`Blobs`), so a file is fetched once on a
host whatever needs it. Bytes go to a partial file, which is its own hold: whoever has the file lock on it may write,
a second process waits, and after a kill the next one continues it with a Range request. A place that gives wrong
bytes is left for the next one; what was ever wrong is never looked at twice.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from io import BufferedRandom
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from mlvm.errors import DigestError, DownloadError, StoreError
from mlvm.events import SILENT, Observer, stage
from mlvm.files import TEMPORARY

if TYPE_CHECKING:
    import requests

#: Bytes read at once. Small, because an interrupted download ends at the next piece.
PIECE = 1 << 16
#: Seconds to connect, and seconds of silence before a connection counts as broken.
TIMEOUT = (20.0, 60.0)
#: Tries at one place that bring nothing new. A try that brought bytes does not count.
ATTEMPTS = 3
#: Seconds before the second try; each further one waits twice as long.
PAUSE = 0.4
#: What most digests are from.
LOCK = "the lock"
PARTIAL_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """A file to fetch: its places, best first, the digest it must have, and its size in bytes where known.

    `said_by` is what the digest is from, for messages.
    """

    name: str
    urls: tuple[str, ...]
    sha256: str
    size: int | None
    said_by: str = LOCK


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


def fetch(
    wanted: Iterable[Wanted],
    blobs: Blobs,
    *,
    observer: Observer = SILENT,
    workers: int = 8,
    fingerprint: str | None = None,
) -> None:
    """Bring every wanted file into `blobs`; return when all are there and have their digests.

    Files that are there already cost nothing. With a `fingerprint` (SHA-256 of a certificate, 64 hex digits) only a
    server with that very certificate is asked, whoever signed it. Raises DownloadError or DigestError for the first
    file that cannot be had, StoreError when the folder cannot be written; what arrived meanwhile is kept.
    """
    missing = {item.sha256: item for item in wanted if not blobs.has(item.sha256)}
    if not missing:
        return
    with stage(observer, "download", _files(len(missing))) as outcome, ExitStack() as open_sessions:
        work = _Work(observer=observer, total=sum(item.size or 0 for item in missing.values()))
        workers = min(workers, len(missing))
        for _ in range(workers):
            work.sessions.put(open_sessions.enter_context(_session(fingerprint)))
        with ThreadPoolExecutor(workers, thread_name_prefix="download") as pool:
            jobs = [pool.submit(_bring, item, blobs, work) for item in missing.values()]
            try:
                for job in as_completed(jobs):
                    job.result()
            except BaseException:
                work.stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        outcome.append(_files(len(missing)))


def read_url(url: str, *, limit: int, fingerprint: str | None = None) -> bytes:
    """Return a small document, `limit` bytes at most. Raises DownloadError.

    What was asked for by TLS comes by TLS: an answer that leads elsewhere without is refused.
    """
    content = bytearray()
    try:
        with _session(fingerprint) as session, _open(url, 0, session, secure=True) as (pieces, _):
            for piece in pieces:
                content += piece
                if len(content) > limit:
                    raise DownloadError(f"`{_public(url)}` is larger than {limit} bytes")
    except _RefusedError as refused:
        raise DownloadError(
            f"`{_public(url)}` could not be read", details=str(refused), hint="check the network"
        ) from None
    return bytes(content)


class _RefusedError(Exception):
    """A place did not give the file. `final`: asking there again is pointless; `wrong`: it gave other bytes."""

    def __init__(self, reason: str, *, final: bool = False, wrong: bool = False) -> None:
        super().__init__(reason)
        self.final = final or wrong
        self.wrong = wrong


class _StoppedError(Exception):
    """Another file failed, or the person pressed Ctrl-C: this one ends where it is."""


@dataclass(slots=True)
class _Work:
    """What the workers of one `fetch` share: sessions to borrow, the sign to stop, and the count of bytes."""

    observer: Observer
    total: int
    stop: threading.Event = field(default_factory=threading.Event)
    sessions: queue.SimpleQueue[requests.Session] = field(default_factory=queue.SimpleQueue)
    done: dict[str, int] = field(default_factory=dict)
    told: float = 0.0
    guard: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def session(self) -> Iterator[requests.Session]:
        """Lend a session for the block; there are as many as workers, and each keeps its connections alive."""
        session = self.sessions.get()
        try:
            yield session
        finally:
            self.sessions.put(session)

    def has(self, item: Wanted, count: int) -> None:
        """Note that `count` bytes of `item` are here; tell the observer, ten times a second at most."""
        with self.guard:
            self.done[item.sha256] = count
            done = sum(self.done.values())
            now = time.monotonic()
            if now - self.told >= 0.1 or done == self.total:
                self.told = now
                self.observer.stage_progress("download", done, max(self.total, done), item.name)


def _bring(item: Wanted, blobs: Blobs, work: _Work) -> None:
    """Fetch one file from the first of its places that has it."""
    target = blobs.path(item.sha256)
    partial = target.with_name(f"{TEMPORARY}{item.sha256}")
    refusals: list[_RefusedError] = []

    def waiting() -> None:
        work.observer.note(f"another mlvm is downloading `{item.name}`; waiting for it")

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _owned(partial, target, waiting) as sink, work.session() as session:
            if sink is None:
                work.has(item, item.size or 0)
                return
            for url in item.urls:
                try:
                    _fill(sink, item, url, session=session, work=work)
                except _RefusedError as refused:
                    refusals.append(refused)
                    continue
                os.fchmod(sink.fileno(), 0o444)
                os.fsync(sink.fileno())
                partial.replace(target)
                return
            if any(refused.wrong for refused in refusals):
                partial.unlink()
    except OSError as broken:
        raise StoreError(
            f"`{broken.filename or partial}` cannot be written: {broken.strerror or broken}",
            hint="`mlvm prune` removes what nothing uses",
        ) from None
    raise _not_to_be_had(item, refusals)


@contextmanager
def _owned(partial: Path, target: Path, waiting: Callable[[], None]) -> Iterator[BufferedRandom | None]:
    """Yield the partial file, held by nobody else, or None when `target` is there (another process made it).

    A hold on a file that was renamed or removed meanwhile protects nothing, so the name is looked up again after
    the hold is had.
    """
    while not target.is_file():
        with os.fdopen(os.open(partial, PARTIAL_FLAGS, 0o600), "r+b") as sink:
            try:
                fcntl.flock(sink, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(sink, fcntl.LOCK_EX)
            if _is_still(partial, sink):
                yield sink
                return
    yield None


def _is_still(path: Path, stream: BufferedRandom) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(stream.fileno()))
    except FileNotFoundError:
        return False


def _fill(sink: BufferedRandom, item: Wanted, url: str, *, session: requests.Session, work: _Work) -> None:
    """Complete `sink` from one place, continuing where it breaks off, and check the whole. Raises _RefusedError.

    What was kept from before may be the wrong part: when the whole is wrong, the place is asked once more for all.
    """
    kept = most = sink.seek(0, os.SEEK_END)
    failures = 0
    while True:
        try:
            found = _append(sink, item, url, session=session, work=work)
            break
        except _RefusedError as refused:
            have = sink.seek(0, os.SEEK_END)
            failures = 1 if have > most else failures + 1
            most = max(most, have)
            if refused.final or failures >= ATTEMPTS:
                raise
            work.stop.wait(PAUSE * 2 ** (failures - 1))
    if found == item.sha256:
        return
    sink.truncate(0)
    if kept:
        _fill(sink, item, url, session=session, work=work)
    else:
        raise _RefusedError(f"{_public(url)}: gave sha256:{found}", wrong=True)


def _append(sink: BufferedRandom, item: Wanted, url: str, *, session: requests.Session, work: _Work) -> str:
    """Write what is missing at the end of `sink`; return the digest of the whole. Raises _RefusedError."""
    have = sink.seek(0, os.SEEK_END)
    if have and have == item.size:
        return _digest_of(sink).hexdigest()
    with _open(url, have, session) as (pieces, start):
        if start != have:
            have = start
            sink.truncate(start)
        digest = _digest_of(sink)
        work.has(item, have)
        try:
            for piece in pieces:
                if work.stop.is_set():
                    raise _StoppedError
                sink.write(piece)
                digest.update(piece)
                have += len(piece)
                work.has(item, have)
                if item.size is not None and have > item.size:
                    break  # a place that goes on for ever fills the disk; the digest is wrong anyway
        except _RefusedError as refused:
            if item.size is None or refused.final:
                raise
            raise _RefusedError(f"{refused} (after {have} of {item.size} bytes)") from None
        finally:
            sink.flush()
    if item.size is not None and have < item.size:
        raise _RefusedError(f"{_public(url)}: ended after {have} of {item.size} bytes")
    return digest.hexdigest()


def _digest_of(stream: BufferedRandom) -> hashlib._Hash:
    """Return the running digest of all that `stream` has; it stands at its end afterwards."""
    stream.seek(0)
    return hashlib.file_digest(stream, "sha256")


def _session(fingerprint: str | None = None) -> requests.Session:
    """Return a session that trusts what the user's environment trusts: proxies, CA bundles, netrc.

    With a `fingerprint`, one that trusts that certificate and nothing else, and speaks to it without a proxy between.
    """
    import requests  # noqa: PLC0415  (60 ms; a build from a warm store never needs it)

    session = requests.Session()
    session.headers["User-Agent"] = "mlvm"
    session.headers["Accept-Encoding"] = "identity"
    if fingerprint is not None:
        session.trust_env = False
        session.verify = False  # the adapter compares the certificate itself
        session.mount("https://", _pinned(fingerprint))
        del session.adapters["http://"]
        return session
    # requests looks at REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE by itself, which win; uv looks at SSL_CERT_FILE.
    session.verify = os.environ.get("SSL_CERT_FILE") or True
    return session


def _pinned(fingerprint: str) -> requests.adapters.HTTPAdapter:
    """Return what connects only to servers with a certificate of this SHA-256."""
    from requests.adapters import HTTPAdapter  # noqa: PLC0415

    class Pinned(HTTPAdapter):
        def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
            super().init_poolmanager(*arguments, **options, assert_fingerprint=fingerprint)

    return Pinned()


@contextmanager
def _open(
    url: str, start: int, session: requests.Session, *, secure: bool = False
) -> Iterator[tuple[Iterator[bytes], int]]:
    """Ask for `url` from byte `start`; yield its pieces and the byte they really start at. Raises _RefusedError.

    With `secure`, an answer to https that came over http in the end is none. Errors of the block itself pass: a full
    disk is not the network's fault.
    """
    with ExitStack() as stack:
        if urlsplit(url).scheme == "file":
            with _network_errors(url):
                stream = stack.enter_context(Path(unquote(urlsplit(url).path)).open("rb"))
                stream.seek(start)
            yield _pieces(iter(lambda: stream.read(PIECE), b""), url), start
            return
        with _network_errors(url):
            answer = stack.enter_context(_get(session, url, start))
            if answer.status_code == 416 and start:
                # What is here is as long as the file or longer, and was not taken for whole: begin anew.
                answer = stack.enter_context(_get(session, url, 0))
        if secure and urlsplit(url).scheme == "https" != urlsplit(answer.url).scheme:
            raise _RefusedError(f"{_public(url)}: leads to {_public(answer.url)}, without TLS", final=True)
        yield _pieces(answer.iter_content(PIECE), url), _start_of(answer, start, url)


def _get(session: requests.Session, url: str, start: int) -> requests.Response:
    headers = {"Range": f"bytes={start}-"} if start else {}
    return session.get(url, headers=headers, stream=True, timeout=TIMEOUT)


def _start_of(answer: requests.Response, wanted: int, url: str) -> int:
    """Return the byte at which the body begins. Raises _RefusedError for an answer without the file."""
    if answer.status_code == 200:
        return 0
    if answer.status_code == 206:
        found = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
        if found and int(found[1]) == wanted:
            return wanted
        raise _RefusedError(f"{_public(url)}: answered another range than was asked for", final=True)
    again = answer.status_code >= 500 or answer.status_code in {408, 429}
    raise _RefusedError(f"{_public(url)}: answered {answer.status_code} {answer.reason}", final=not again)


def _pieces(pieces: Iterator[bytes], url: str) -> Iterator[bytes]:
    with _network_errors(url):
        yield from pieces


@contextmanager
def _network_errors(url: str) -> Iterator[None]:
    """Turn what the place or the way to it got wrong into a refusal, in the words of the innermost cause."""
    try:
        yield
    except _RefusedError:
        raise
    except OSError as broken:  # requests' own errors are OSErrors too
        final = isinstance(broken, FileNotFoundError | PermissionError | IsADirectoryError)
        raise _RefusedError(f"{_public(url)}: {_innermost(broken)}", final=final) from None


def _innermost(broken: BaseException) -> str:
    """The cause in its own words: requests and urllib3 wrap it up to four times."""
    seen = broken
    while True:
        inner = getattr(seen, "reason", None) or (seen.args[0] if seen.args else None)
        if not isinstance(inner, BaseException):
            break
        seen = inner
    if isinstance(seen, OSError) and seen.strerror:
        return seen.strerror
    words = str(seen.args[0] if seen.args else seen).rsplit(": ", 1)[-1]
    return re.sub(r"^\[Errno -?\d+\] ", "", words)


def _public(url: str) -> str:
    """The URL without a user name and password, for messages."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _not_to_be_had(item: Wanted, refusals: Iterable[_RefusedError]) -> DownloadError | DigestError:
    refusals = list(refusals)
    details = "\n".join(map(str, refusals))
    if any(refused.wrong for refused in refusals):
        return DigestError(
            f"`{item.name}` is not what {item.said_by} says",
            details=f"wanted sha256:{item.sha256}\n{details}",
            hint="it was thrown away; try again, and if it stays so, do not trust these places",
        )
    return DownloadError(
        f"`{item.name}` could not be downloaded",
        details=details,
        hint="check the network; if the file is gone from all places, "
        + ("`mlvm lock --upgrade` finds what replaced it" if item.said_by == LOCK else "ask for it"),
    )


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"
