"""Downloads against a real HTTP server on 127.0.0.1 that can be told to misbehave."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import mlvm
from mlvm import download
from mlvm.download import Blobs, Wanted, fetch, read_url
from mlvm.errors import DigestError, DownloadError, StoreError
from mlvm.events import Observer
from mlvm.files import is_temporary

CONTENT = os.urandom(300_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Place:
    """An HTTP server: what it has, how it misbehaves, and what it was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    #: Break the connection after so many bytes, the first `breaks` times.
    break_after: int = 0
    breaks: int = 0
    #: Answer with these codes first, one a request.
    codes: list[int] = field(default_factory=list)
    ranges: bool = True
    #: Bytes by which a range starts later than asked.
    skew: int = 0
    #: Bytes a second; 0 is as fast as it goes.
    rate: int = 0
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    connections: set[object] = field(default_factory=set)
    at_once: int = 0
    most_at_once: int = 0
    guard: threading.Lock = field(default_factory=threading.Lock)
    base: str = ""

    def url(self, name: str) -> str:
        return f"{self.base}/{name}"

    def ranges_asked(self) -> list[str | None]:
        return [wanted for _, wanted in self.asked]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    place: Place

    def do_GET(self) -> None:
        place = self.place
        with place.guard:
            place.asked.append((self.path, self.headers.get("Range")))
            place.connections.add(self.client_address)
            place.at_once += 1
            place.most_at_once = max(place.at_once, place.most_at_once)
        try:
            self.answer(place)
        finally:
            with place.guard:
                place.at_once -= 1

    def answer(self, place: Place) -> None:
        if place.codes:
            self.empty(place.codes.pop(0))
            return
        content = place.files.get(self.path.lstrip("/"))
        if content is None:
            self.empty(404)
            return
        start = 0
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if wanted and place.ranges:
            start = int(wanted[1]) + place.skew
            if start >= len(content):
                self.empty(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        if place.breaks:
            place.breaks -= 1
            self.wfile.write(body[: place.break_after])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        if not place.rate:
            self.wfile.write(body)
            return
        for at in range(0, len(body), place.rate // 20):
            self.wfile.write(body[at : at + place.rate // 20])
            time.sleep(0.05)

    def empty(self, code: int) -> None:
        self.send_response(code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that went away is what some tests are about."""


@pytest.fixture
def make_place() -> Iterator[Callable[..., Place]]:
    """Start servers; all end with the test."""
    servers = []

    def make(**how: object) -> Place:
        place = Place(**how)  # type: ignore[arg-type]
        server = QuietServer(("127.0.0.1", 0), type("Here", (Handler,), {"place": place}))
        place.base = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return place

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loopback server is not asked for through a proxy of the host."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow each other at once."""
    monkeypatch.setattr(download, "PAUSE", 0.0)


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "blobs")


def wanted(
    *urls: str, sha256: str = DIGEST, size: int | None = len(CONTENT), name: str = "thing 1.0"
) -> Wanted:
    return Wanted(name=name, urls=urls, sha256=sha256, size=size)


def keep_partial(blobs: Blobs, content: bytes) -> Path:
    """Leave what an earlier, killed download would have left."""
    partial = blobs.path(DIGEST).with_name(f".tmp-{DIGEST}")
    partial.parent.mkdir(parents=True)
    partial.write_bytes(content)
    return partial


def left_in(blobs: Blobs) -> list[str]:
    return sorted(path.name for path in blobs.folder.rglob("*") if path.is_file())


def test_a_file_arrives_whole_and_read_only(make_place: Callable[..., Place], blobs: Blobs) -> None:
    place = make_place(files={"a": CONTENT})

    fetch([wanted(place.url("a"))], blobs)

    assert blobs.path(DIGEST).read_bytes() == CONTENT
    assert blobs.path(DIGEST).stat().st_mode & 0o777 == 0o444
    assert left_in(blobs) == [DIGEST]


def test_a_file_that_is_there_is_not_asked_for(make_place: Callable[..., Place], blobs: Blobs) -> None:
    place = make_place(files={"a": CONTENT})
    fetch([wanted(place.url("a"))], blobs)

    fetch([wanted(place.url("a"))], blobs)

    assert len(place.asked) == 1


def test_the_same_file_under_two_names_is_fetched_once(
    make_place: Callable[..., Place], blobs: Blobs
) -> None:
    place = make_place(files={"a": CONTENT, "b": CONTENT})

    fetch([wanted(place.url("a")), wanted(place.url("b"))], blobs)

    assert len(place.asked) == 1


def test_a_broken_connection_is_continued(make_place: Callable[..., Place], blobs: Blobs) -> None:
    place = make_place(files={"a": CONTENT}, break_after=100_000, breaks=1)

    fetch([wanted(place.url("a"))], blobs)

    first, second = place.ranges_asked()
    assert first is None
    assert second is not None
    assert 0 < int(second.removeprefix("bytes=").removesuffix("-")) <= 100_000
    assert blobs.has(DIGEST)


def test_a_connection_that_breaks_again_and_again_but_moves_on_gets_there(
    make_place: Callable[..., Place], blobs: Blobs
) -> None:
    place = make_place(files={"a": CONTENT}, break_after=70_000, breaks=4)

    fetch([wanted(place.url("a"))], blobs)

    assert len(place.asked) == 5
    assert blobs.has(DIGEST)


def test_a_connection_that_brings_nothing_is_given_up(make_place: Callable[..., Place], blobs: Blobs) -> None:
    place = make_place(files={"a": CONTENT}, break_after=0, breaks=99)

    with pytest.raises(DownloadError) as refused:
        fetch([wanted(place.url("a"))], blobs)

    assert len(place.asked) == download.ATTEMPTS
    assert refused.value.details.startswith(f"{place.url('a')}: ")


def test_what_a_killed_download_left_is_continued(make_place: Callable[..., Place], blobs: Blobs) -> None:
    place = make_place(files={"a": CONTENT})
    keep_partial(blobs, CONTENT[:123_456])

    fetch([wanted(place.url("a"))], blobs)

    assert place.ranges_asked() == ["bytes=123456-"]
    assert left_in(blobs) == [DIGEST]


def test_a_whole_partial_needs_no_network(blobs: Blobs) -> None:
    keep_partial(blobs, CONTENT)

    fetch([wanted("http://127.0.0.1:1/a")], blobs)

    assert blobs.has(DIGEST)


def test_a_whole_partial_of_unknown_size_is_asked_for_anew(
    make_place: Callable[..., Place], blobs: Blobs
) -> None:
    place = make_place(files={"a": CONTENT})
    keep_partial(blobs, CONTENT)

    fetch([wanted(place.url("a"), size=None)], blobs)

    assert place.ranges_asked() == [f"bytes={len(CONTENT)}-", None]
    assert blobs.has(DIGEST)


def test_a_place_without_ranges_starts_over(make_place: Callable[..., Place], blobs: Blobs) -> None:
    place = make_place(files={"a": CONTENT}, ranges=False)
    keep_partial(blobs, b"x" * 1000)

    fetch([wanted(place.url("a"))], blobs)

    assert blobs.path(DIGEST).read_bytes() == CONTENT


def test_a_place_that_answers_another_range_is_left(make_place: Callable[..., Place], blobs: Blobs) -> None:
    skewed, right = make_place(files={"a": CONTENT}, skew=1), make_place(files={"a": CONTENT})
    keep_partial(blobs, CONTENT[:1000])

    fetch([wanted(skewed.url("a"), right.url("a"))], blobs)

    assert right.ranges_asked() == ["bytes=1000-"]
    assert blobs.has(DIGEST)


def test_a_partial_with_wrong_bytes_is_thrown_away_and_the_place_asked_again(
    make_place: Callable[..., Place], blobs: Blobs
) -> None:
    place = make_place(files={"a": CONTENT})
    keep_partial(blobs, b"x" * 1000)

    fetch([wanted(place.url("a"))], blobs)

    assert place.ranges_asked() == ["bytes=1000-", None]
    assert blobs.path(DIGEST).read_bytes() == CONTENT


def test_a_partial_longer_than_the_file_is_thrown_away(
    make_place: Callable[..., Place], blobs: Blobs
) -> None:
    place = make_place(files={"a": CONTENT})
    keep_partial(blobs, CONTENT + b"more")

    fetch([wanted(place.url("a"))], blobs)

    assert blobs.path(DIGEST).read_bytes() == CONTENT


def test_the_second_place_is_asked_when_the_first_has_nothing(
    make_place: Callable[..., Place], blobs: Blobs
) -> None:
    empty, full = make_place(), make_place(files={"a": CONTENT})

    fetch([wanted(empty.url("a"), full.url("a"))], blobs)

    assert len(empty.asked) == 1
    assert blobs.has(DIGEST)


def test_the_second_place_continues_what_the_first_began(
    make_place: Callable[..., Place], blobs: Blobs
) -> None:
    short, full = make_place(files={"a": CONTENT[:131_072]}), make_place(files={"a": CONTENT})

    fetch([wanted(short.url("a"), full.url("a"))], blobs)

    assert full.ranges_asked() == ["bytes=131072-"]
    assert blobs.has(DIGEST)


def test_the_second_place_is_asked_when_the_first_has_wrong_bytes(
    make_place: Callable[..., Place], blobs: Blobs
) -> None:
    wrong, right = make_place(files={"a": b"x" * len(CONTENT)}), make_place(files={"a": CONTENT})

    fetch([wanted(wrong.url("a"), right.url("a"))], blobs)

    assert blobs.path(DIGEST).read_bytes() == CONTENT


def test_wrong_bytes_everywhere_are_a_digest_error_and_leave_nothing(
    make_place: Callable[..., Place], blobs: Blobs
) -> None:
    other = b"x" * len(CONTENT)
    place = make_place(files={"a": other})

    with pytest.raises(DigestError) as wrong:
        fetch([wanted(place.url("a"))], blobs)

    assert wrong.value.message == "`thing 1.0` is not what the lock says"
    assert wrong.value.details == (
        f"wanted sha256:{DIGEST}\n{place.url('a')}: gave sha256:{hashlib.sha256(other).hexdigest()}"
    )
    assert left_in(blobs) == []


def test_a_file_longer_than_it_should_be_is_not_read_to_its_end(
    make_place: Callable[..., Place], blobs: Blobs
) -> None:
    place = make_place(files={"a": CONTENT + bytes(50_000_000)})

    with pytest.raises(DigestError):
        fetch([wanted(place.url("a"))], blobs)

    assert left_in(blobs) == []


def test_nobody_has_it(make_place: Callable[..., Place], blobs: Blobs) -> None:
    one, two = make_place(), make_place()

    with pytest.raises(DownloadError) as refused:
        fetch([wanted(one.url("a"), two.url("a"))], blobs)

    assert refused.value.message == "`thing 1.0` could not be downloaded"
    assert refused.value.details == (
        f"{one.url('a')}: answered 404 Not Found\n{two.url('a')}: answered 404 Not Found"
    )


def test_nobody_is_there(blobs: Blobs) -> None:
    with pytest.raises(DownloadError) as refused:
        fetch([wanted("http://127.0.0.1:1/a")], blobs)

    assert refused.value.details == "http://127.0.0.1:1/a: Connection refused"


def test_a_password_in_a_url_is_not_shown(make_place: Callable[..., Place], blobs: Blobs) -> None:
    place = make_place()
    secret = place.url("a").replace("http://", "http://me:secret@")

    with pytest.raises(DownloadError) as refused:
        fetch([wanted(secret)], blobs)

    assert refused.value.details == f"{place.url('a')}: answered 404 Not Found"


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_place_that_is_busy_is_asked_again(
    make_place: Callable[..., Place], blobs: Blobs, code: int
) -> None:
    place = make_place(files={"a": CONTENT}, codes=[code, code])

    fetch([wanted(place.url("a"))], blobs)

    assert len(place.asked) == 3


def test_connections_are_kept_alive(make_place: Callable[..., Place], blobs: Blobs) -> None:
    files = {str(number): b"%d" % number for number in range(40)}
    place = make_place(files=files)

    fetch(
        [
            wanted(place.url(name), sha256=hashlib.sha256(content).hexdigest(), size=len(content))
            for name, content in files.items()
        ],
        blobs,
        workers=4,
    )

    assert len(place.asked) == 40
    assert len(place.connections) <= 4


def test_files_come_side_by_side(make_place: Callable[..., Place], blobs: Blobs) -> None:
    files = {str(number): bytes([number]) * 2000 for number in range(4)}
    place = make_place(files=files, rate=8000)

    fetch(
        [
            wanted(place.url(name), sha256=hashlib.sha256(content).hexdigest(), size=None)
            for name, content in files.items()
        ],
        blobs,
    )

    assert place.most_at_once == 4


def test_a_failure_ends_the_other_downloads(make_place: Callable[..., Place], blobs: Blobs) -> None:
    place = make_place(files={"slow": CONTENT}, rate=100_000)
    began = time.monotonic()

    with pytest.raises(DownloadError, match="`missing` could not"):
        fetch(
            [
                wanted(place.url("slow"), sha256=DIGEST),
                wanted(place.url("missing"), sha256="0" * 64, name="missing"),
            ],
            blobs,
        )

    assert time.monotonic() - began < 2
    assert all(is_temporary(Path(name)) for name in left_in(blobs))


class Counting(Observer):
    """Remembers what it hears."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def stage_started(self, stage: str, detail: str = "") -> None:
        self.heard.append((stage, detail))

    def stage_progress(self, stage: str, done: int, total: int, detail: str = "") -> None:
        self.heard.append((done, total, detail))

    def stage_finished(self, stage: str, seconds: float, detail: str = "") -> None:
        self.heard.append((stage, detail))


def test_progress_counts_bytes_and_ends_at_the_total(make_place: Callable[..., Place], blobs: Blobs) -> None:
    place = make_place(files={"a": CONTENT}, break_after=100_000, breaks=1)
    observer = Counting()

    fetch([wanted(place.url("a"))], blobs, observer=observer)

    assert observer.heard[0] == ("download", "1 file")
    assert observer.heard[-2] == (len(CONTENT), len(CONTENT), "thing 1.0")
    assert observer.heard[-1] == ("download", "1 file")


def test_nothing_to_fetch_is_not_a_stage(blobs: Blobs) -> None:
    observer = Counting()

    fetch([], blobs, observer=observer)

    assert observer.heard == []


def test_a_file_url(tmp_path: Path, blobs: Blobs) -> None:
    path = tmp_path / "a file+.deb"
    path.write_bytes(CONTENT)

    fetch([wanted(path.as_uri())], blobs)

    assert blobs.path(DIGEST).read_bytes() == CONTENT


def test_a_file_url_is_continued_too(tmp_path: Path, blobs: Blobs) -> None:
    (tmp_path / "a").write_bytes(CONTENT)
    keep_partial(blobs, CONTENT[:5])

    fetch([wanted((tmp_path / "a").as_uri())], blobs)

    assert blobs.path(DIGEST).read_bytes() == CONTENT


def test_a_file_url_without_a_file(tmp_path: Path, blobs: Blobs) -> None:
    url = (tmp_path / "missing").as_uri()

    with pytest.raises(DownloadError) as refused:
        fetch([wanted(url)], blobs)

    assert refused.value.details == f"{url}: No such file or directory"


def test_a_folder_that_cannot_be_written_is_not_the_networks_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    blobs = Blobs(tmp_path / "file" / "blobs")

    with pytest.raises(StoreError, match="cannot be written: Not a directory"):
        fetch([wanted("http://127.0.0.1:1/a")], blobs)


def test_a_full_disk_is_not_the_networks_fault(make_place: Callable[..., Place], blobs: Blobs) -> None:
    place = make_place(files={"a": CONTENT})
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"

    _, said = download_in_a_process(place.url("a"), blobs, first=limited).communicate(timeout=20)

    assert b"mlvm.errors.StoreError" in said
    assert b"cannot be written: File too large" in said
    assert len(place.asked) == 1


def download_in_a_process(url: str, blobs: Blobs, first: str = "") -> subprocess.Popen[bytes]:
    code = (
        f"{first}\n"
        "import sys; from pathlib import Path; from mlvm.download import Blobs, Wanted, fetch\n"
        f"fetch([Wanted(name='a', urls=({url!r},), sha256={DIGEST!r}, size={len(CONTENT)})],"
        f" Blobs(Path({str(blobs.folder)!r})))"
    )
    root = str(Path(mlvm.__file__).parent.parent)
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": root},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def wait_for_bytes(place: Place, blobs: Blobs, count: int) -> None:
    partial = blobs.path(DIGEST).with_name(f".tmp-{DIGEST}")
    deadline = time.monotonic() + 20
    while not (partial.exists() and partial.stat().st_size >= count):
        assert time.monotonic() < deadline, "nothing arrives"
        time.sleep(0.02)


def test_a_kill_leaves_only_a_temporary_that_is_continued(
    make_place: Callable[..., Place], blobs: Blobs
) -> None:
    place = make_place(files={"a": CONTENT}, rate=400_000)
    child = download_in_a_process(place.url("a"), blobs)
    wait_for_bytes(place, blobs, 65_536)
    child.kill()
    child.communicate()

    left = left_in(blobs)
    place.rate = 0
    fetch([wanted(place.url("a"))], blobs)

    assert left == [f".tmp-{DIGEST}"]
    assert int((place.ranges_asked()[-1] or "").removeprefix("bytes=").removesuffix("-")) >= 65_536
    assert left_in(blobs) == [DIGEST]


def test_ctrl_c_ends_a_slow_download_at_once(make_place: Callable[..., Place], blobs: Blobs) -> None:
    place = make_place(files={"a": CONTENT}, rate=100_000)
    child = download_in_a_process(place.url("a"), blobs)
    deadline = time.monotonic() + 20
    while not place.asked:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    began = time.monotonic()

    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=20)

    assert b"KeyboardInterrupt" in said
    assert time.monotonic() - began < 2.5
    assert left_in(blobs) == [f".tmp-{DIGEST}"]


def test_two_processes_fetch_a_file_once(make_place: Callable[..., Place], blobs: Blobs) -> None:
    place = make_place(files={"a": CONTENT}, rate=600_000)

    children = [download_in_a_process(place.url("a"), blobs) for _ in range(3)]
    codes = [(child.communicate(timeout=30), child.returncode)[1] for child in children]

    assert codes == [0, 0, 0]
    assert len(place.asked) == 1
    assert left_in(blobs) == [DIGEST]


def test_a_small_document(make_place: Callable[..., Place]) -> None:
    place = make_place(files={"index.json": b"{}"})

    assert read_url(place.url("index.json"), limit=100) == b"{}"


def test_a_document_that_is_too_large(make_place: Callable[..., Place]) -> None:
    place = make_place(files={"a": CONTENT})

    with pytest.raises(DownloadError) as refused:
        read_url(place.url("a"), limit=1000)

    assert refused.value.message == f"`{place.url('a')}` is larger than 1000 bytes"


def test_a_document_that_is_not_there(make_place: Callable[..., Place]) -> None:
    place = make_place()

    with pytest.raises(DownloadError) as refused:
        read_url(place.url("a"), limit=1000)

    assert refused.value.message == f"`{place.url('a')}` could not be read"
    assert refused.value.details == f"{place.url('a')}: answered 404 Not Found"


def test_importing_and_a_warm_store_do_not_load_requests(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from mlvm.download import Blobs, fetch\n"
        f"fetch([], Blobs(Path({str(tmp_path)!r}))); assert 'requests' not in sys.modules"
    )
    root = str(Path(mlvm.__file__).parent.parent)

    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": root}, check=False)

    assert done.returncode == 0
