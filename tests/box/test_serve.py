"""The server: by TLS, only what the catalogs name, in ranges, and with the addresses that a client sees it at."""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import ssl
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mlvm.box import serve
from mlvm.box.add import Looking, Trust
from mlvm.box.certificate import Certificate, checked_fingerprint, own_certificate
from mlvm.box.publish import publish
from mlvm.box.serve import Server, make_server
from mlvm.download import Blobs, Wanted, fetch, read_url
from mlvm.errors import BoxError, DownloadError
from mlvm.paths import Home
from tests.box.tiny import make_box

MIB = 1 << 20
BOX = "team/tiny/1.0.0/libvirt-amd64.box"
SPLIT = "team/tiny/2.0.0/libvirt-amd64.box"


@dataclass
class Place:
    """A server that runs, and a client that trusts its certificate as an authority, as curl and Vagrant would."""

    server: Server
    certificate: Certificate
    folder: Path

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])

    @property
    def base(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def get(self, path: str, *, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        context = ssl.create_default_context(cafile=str(self.certificate.certificate))
        with closing(
            http.client.HTTPSConnection("127.0.0.1", self.port, context=context, timeout=20)
        ) as client:
            client.putrequest(method, path, skip_host="Host" in headers)
            for name, value in headers.items():
                client.putheader(name.replace("_", "-"), value)
            client.endheaders()
            answer = client.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("serve")
    root = folder / "home"
    home = Home(data=root / "data", cache=root / "cache", runtime=root / "run")
    catalog = folder / "cat"
    make_box(folder / "one.box")
    publish(folder / "one.box", catalog=catalog, name="team/tiny", version="1.0.0")
    make_box(folder / "two.box", more=2 * MIB)
    publish(folder / "two.box", catalog=catalog, name="team/tiny", version="2.0.0", part_size=MIB)
    (catalog / "secret.txt").write_text("secret")
    (catalog / "team/tiny/1.0.0/notes.txt").write_text("secret")
    (folder / "outside.txt").write_text("secret")
    certificate = own_certificate(home, "127.0.0.1")
    with make_server(catalog, address="127.0.0.1", port=0, certificate=certificate) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Place(server=server, certificate=certificate, folder=folder)
        server.shutdown()
        thread.join()


def test_a_box_is_given_whole(place: Place) -> None:
    code, headers, content = place.get(f"/{BOX}")

    assert (code, content) == (200, (place.folder / "one.box").read_bytes())
    assert headers["content-type"] == "application/octet-stream"


def test_a_box_in_parts_is_given_whole(place: Place) -> None:
    assert place.get(f"/{SPLIT}")[2] == (place.folder / "two.box").read_bytes()


def test_parts_are_given(place: Place) -> None:
    assert place.get(f"/{SPLIT}.0001")[2] == (place.folder / "two.box").read_bytes()[MIB : 2 * MIB]


def test_the_catalog_has_the_server_s_address(place: Place) -> None:
    code, headers, content = place.get("/team/tiny.json")

    urls = [one["url"] for version in json.loads(content)["versions"] for one in version["providers"]]
    assert (code, headers["content-type"]) == (200, "application/json")
    assert urls == [f"{place.base}/{BOX}", f"{place.base}/{SPLIT}"]


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-9", 0, 10),
        ("bytes=100-", 100, None),
        ("bytes=-7", -7, None),
        (f"bytes={MIB - 5}-{MIB + 4}", MIB - 5, MIB + 5),
    ],
)
def test_ranges(place: Place, asked: str, start: int, end: int | None) -> None:
    code, headers, content = place.get(f"/{SPLIT}", Range=asked)

    whole = (place.folder / "two.box").read_bytes()
    first = start % len(whole)
    assert (code, content) == (206, whole[start:end])
    assert headers["content-range"] == f"bytes {first}-{first + len(content) - 1}/{len(whole)}"


@pytest.mark.parametrize("asked", ["bytes=99999999-", "bytes=5-2", "bytes=-0"])
def test_ranges_that_are_not_there(place: Place, asked: str) -> None:
    code, headers, _ = place.get(f"/{BOX}", Range=asked)

    assert code == 416
    assert headers["content-range"] == f"bytes */{(place.folder / 'one.box').stat().st_size}"


def test_a_range_of_another_file_is_the_whole(place: Place) -> None:
    assert place.get(f"/{BOX}", Range="bytes=0-9", If_Range='"other"')[0] == 200


def test_head_has_no_body(place: Place) -> None:
    code, headers, content = place.get(f"/{BOX}", method="HEAD")

    assert (code, content) == (200, b"")
    assert int(headers["content-length"]) == (place.folder / "one.box").stat().st_size


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/team",
        "/team/",
        "/team/tiny",
        "/secret.txt",
        "/team/tiny/1.0.0/notes.txt",
        "/.mlvm-hold",
        "/../outside.txt",
        "/%2e%2e/outside.txt",
        "/team/../secret.txt",
        "/team/..%2fsecret.txt",
        "//etc/passwd",
        "/team/tiny.json/",
        "/team%2Ftiny.json%00",
        "/team/./tiny.json",
        "/%ff",
    ],
)
def test_nothing_else_is_given(place: Place, path: str) -> None:
    assert place.get(path)[0] == 404


@pytest.mark.parametrize("host", ["evil/../x", "a b", "x\tx", '"', "evil.example/@"])
def test_a_host_that_is_none_is_refused(place: Place, host: str) -> None:
    assert place.get("/team/tiny.json", Host=host)[0] in (400, 404)


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "OPTIONS"])
def test_nothing_can_be_written(place: Place, method: str) -> None:
    assert place.get(f"/{BOX}", method=method)[0] == 501


def test_a_link_out_of_the_folder_is_not_followed(place: Place) -> None:
    part = place.folder / "cat" / f"{SPLIT}.0002"
    outside = place.folder / "moved"
    part.rename(outside)
    part.symlink_to(outside)
    try:
        assert place.get(f"/{SPLIT}.0002")[0] == 404
    finally:
        part.unlink()
        outside.rename(part)


def test_plain_http_is_not_spoken(place: Place) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", place.port, timeout=20)) as client:
        client.request("GET", "/team/tiny.json")
        with pytest.raises((http.client.HTTPException, OSError)):
            client.getresponse()


def test_who_says_nothing_delays_nobody(place: Place) -> None:
    silent = [socket.create_connection(("127.0.0.1", place.port)) for _ in range(5)]
    began = time.monotonic()
    assert place.get(f"/{BOX}")[0] == 200
    assert time.monotonic() - began < serve.PATIENCE / 2
    for one in silent:
        one.close()


def test_a_pinned_certificate_is_trusted(place: Place) -> None:
    content = read_url(f"{place.base}/team/tiny.json", limit=MIB, fingerprint=place.certificate.fingerprint)

    assert json.loads(content)["name"] == "team/tiny"


def test_a_pinned_certificate_is_trusted_for_files(place: Place, tmp_path: Path) -> None:
    content = (place.folder / "one.box").read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    wanted = Wanted(name="x", urls=(f"{place.base}/{BOX}",), sha256=sha256, size=len(content))
    fetch([wanted], Blobs(tmp_path), fingerprint=place.certificate.fingerprint)

    assert Blobs(tmp_path).path(sha256).read_bytes() == content


def test_another_certificate_is_not(place: Place) -> None:
    with pytest.raises(DownloadError) as refused:
        read_url(f"{place.base}/team/tiny.json", limit=MIB, fingerprint="0" * 64)
    assert "ingerprint" in refused.value.details


def test_without_a_fingerprint_nobody_vouches_for_it(place: Place) -> None:
    with pytest.raises(DownloadError):
        read_url(f"{place.base}/team/tiny.json", limit=MIB)


@pytest.mark.parametrize(
    ("fingerprint", "hint"),
    [
        ("0" * 64, "somebody else may answer there: ask whoever serves it for the fingerprint"),
        (None, "for `mlvm box serve`, add the `--fingerprint` that it shows"),
    ],
)
def test_what_to_do_about_a_certificate(place: Place, home: Home, fingerprint: str | None, hint: str) -> None:
    looking = Looking(trust=Trust(), home=home, fingerprint=fingerprint)

    with pytest.raises(DownloadError) as refused:
        looking.catalog(f"{place.base}/team/tiny.json", version=None, provider=None)
    assert refused.value.hint == hint


def test_a_pinned_session_speaks_no_plain_http(place: Place) -> None:
    with pytest.raises(DownloadError):
        read_url(f"http://127.0.0.1:{place.port}/x", limit=MIB, fingerprint=place.certificate.fingerprint)


def test_what_was_asked_by_tls_comes_by_tls(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is trusted sends us on to one that speaks in the clear."""

    class Away(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302 if self.server is door else 200)
            self.send_header("Location", f"http://127.0.0.1:{plain.server_address[1]}/x")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None: ...

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(place.certificate.certificate, place.certificate.key)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(place.certificate.certificate))
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), Away) as door,
        ThreadingHTTPServer(("127.0.0.1", 0), Away) as plain,
    ):
        door.socket = context.wrap_socket(door.socket, server_side=True)
        threads = [threading.Thread(target=one.serve_forever) for one in (door, plain)]
        for thread in threads:
            thread.start()
        with pytest.raises(DownloadError) as refused:
            read_url(f"https://127.0.0.1:{door.server_address[1]}/x", limit=MIB)
        for one in (door, plain):
            one.shutdown()
        for thread in threads:
            thread.join()

    assert refused.value.details.endswith(f"http://127.0.0.1:{plain.server_address[1]}/x, without TLS")


def test_the_certificate_stays(home: Home) -> None:
    first = own_certificate(home, "127.0.0.1")

    assert own_certificate(home, "127.0.0.1") == first
    assert stat.S_IMODE(first.key.stat().st_mode) == 0o600


def test_fingerprints_as_people_copy_them() -> None:
    assert checked_fingerprint("SHA256:" + ":".join(["AB"] * 32) + "\n") == "ab" * 32


def test_a_fingerprint_that_is_none() -> None:
    with pytest.raises(BoxError, match="is no fingerprint"):
        checked_fingerprint("sha256:12")


def test_a_folder_without_catalogs_is_not_served(tmp_path: Path, place: Place) -> None:
    with pytest.raises(BoxError, match="there is no catalog"):
        make_server(tmp_path, address="127.0.0.1", port=0, certificate=place.certificate)


def test_a_port_that_is_taken(place: Place) -> None:
    with pytest.raises(BoxError, match="cannot be listened at"):
        make_server(place.folder / "cat", address="127.0.0.1", port=place.port, certificate=place.certificate)


def test_clients_that_hang_up_do_not_end_the_command(place: Place, home: Home) -> None:
    """Writing to somebody who is gone raises a signal by which the command line usually ends."""
    server = subprocess.Popen(
        [sys.executable, "-m", "mlvm.cli", "box", "serve", place.folder / "cat", "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        lines = [server.stdout.readline() for _ in range(4)]
        port = int(lines[1].split()[3].split(":")[2].partition("/")[0])
        context = ssl.create_default_context(cafile=lines[2].split()[4])
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", port)) as plain:
                client = context.wrap_socket(plain, server_hostname="127.0.0.1")
                client.sendall(f"GET /{SPLIT} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
        fingerprint = checked_fingerprint(lines[0].split()[1])
        assert json.loads(read_url(lines[1].split()[3], limit=MIB, fingerprint=fingerprint))
        server.terminate()
        assert server.wait(30) == 0
    finally:
        server.kill()
        server.wait()
        if server.stdout:
            server.stdout.close()


@pytest.mark.parametrize("address", ["no address", "a;b", "-x", "[::1]\nDNS:evil"])
def test_addresses_that_are_none(home: Home, address: str) -> None:
    with pytest.raises(BoxError, match="is no address of this host"):
        own_certificate(home, address)
