"""Packages from indexes of their own, behind a password that stays where it is."""

from __future__ import annotations

import base64
import hashlib
import http.server
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lock_sample as sample
import pytest

from mlvm.download import Blobs, Wanted, fetch
from mlvm.errors import ResolveError
from mlvm.events import SILENT
from mlvm.lock import compatibility
from mlvm.lock.fit import fit
from mlvm.lock.fresh import stale_reasons
from mlvm.lock.python import resolve_python
from mlvm.lock.text import dumps, loads
from mlvm.spec.document import CudaWish, Spec
from mlvm.spec.reader import loads as read

INDEX = {"torch": "https://download.pytorch.org/whl/cu124"}
USER, PASSWORD = "somebody", "s3cret-word"
INFO = "private_thing-1.0.dist-info"


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Yield the URL of an index at 127.0.0.1 that wants a password."""
    wanted = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(folder))  # type: ignore[arg-type]

        def do_GET(self) -> None:
            if self.headers.get("Authorization") == wanted:
                super().do_GET()
            else:
                self.send_error(401)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/simple"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An index with one package; the password is in the netrc of whoever runs."""
    pages = tmp_path / "pages" / "simple" / "private-thing"
    pages.mkdir(parents=True)
    wheel = tmp_path / "pages" / "private_thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("private_thing.py", "x = 1\n")
        archive.writestr(f"{INFO}/METADATA", "Metadata-Version: 2.1\nName: private-thing\nVersion: 1.0\n")
        archive.writestr(f"{INFO}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{INFO}/RECORD", "")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (pages / "index.html").write_text(f'<a href="/{wheel.name}#sha256={digest}">{wheel.name}</a>')
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login {USER} password {PASSWORD}\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with serving(tmp_path / "pages") as url:
        yield url


@pytest.mark.network
def test_a_protected_package_is_locked_and_fetched_and_its_password_is_in_neither(
    index: str, tmp_path: Path
) -> None:
    pylock = resolve_python(
        ["private-thing"],
        index={"private-thing": index},
        python="3.11",
        release="bookworm",
        cache_folder=tmp_path / "uv",
    )
    package = next(one for one in pylock.packages if one.name == "private-thing")
    wheel = (package.wheels or ())[0]
    lock = sample.lock(python=pylock)
    blobs = Blobs(tmp_path / "blobs")
    fetch(
        [
            Wanted(
                name="private-thing", urls=(wheel.url or "",), sha256=wheel.hashes["sha256"], size=wheel.size
            )
        ],
        blobs,
        observer=SILENT,
    )

    assert blobs.path(wheel.hashes["sha256"]).exists()
    assert PASSWORD not in dumps(lock)
    assert USER not in dumps(lock)


@pytest.mark.network
def test_a_password_in_a_setting_of_uv_does_not_come_into_the_lock(
    index: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NETRC")
    monkeypatch.setenv("UV_INDEX", index.replace("//", f"//{USER}:{PASSWORD}@"))

    pylock = resolve_python(
        ["private-thing"], python="3.11", release="bookworm", cache_folder=tmp_path / "uv"
    )

    assert PASSWORD not in dumps(sample.lock(python=pylock))


@pytest.mark.network
def test_a_package_that_is_not_given_out_says_where_the_password_goes(
    index: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NETRC")

    with pytest.raises(ResolveError) as error:
        resolve_python(
            ["private-thing"],
            index={"private-thing": index},
            python="3.11",
            release="bookworm",
            cache_folder=tmp_path,
        )

    assert (
        error.value.hint == f"look at {index}/private-thing/; if it wants a password, put it into your netrc"
    )
    assert "the-spec" not in error.value.details


def test_the_spec_as_it_is_written() -> None:
    spec = read("name: box\npackages: [My_Thing]\nindex: {my.thing: https://packages.example/simple}\n")

    assert spec.index == {"my-thing": "https://packages.example/simple"}


def test_an_index_for_what_nobody_asked_for() -> None:
    table = compatibility.load(compatibility.SHIPPED)

    with pytest.raises(ResolveError) as error:
        fit(Spec(name="box", packages=("numpy",), index=INDEX), table).check()

    assert error.value.message == "`torch` has an index and is not among the packages"


def test_what_another_index_has_is_not_known() -> None:
    table = compatibility.load(compatibility.SHIPPED)
    spec = Spec(name="box", packages=("torch==2.1.*",), index=INDEX, cuda=CudaWish(version="12.4"))

    assert [misfit.unknown for misfit in fit(spec, table).misfits] == [True]


def test_another_index_makes_a_lock_stale_and_is_in_it() -> None:
    inputs = {"debian": "bookworm", "python": "3.11", "packages": ["numpy>=2"], "index": INDEX}
    lock = sample.lock(inputs=inputs)

    assert loads(dumps(lock)) == lock
    assert [r for r in stale_reasons(sample.spec(), lock) if r.startswith("index")] == [
        f"index: torch {INDEX['torch']} -> nothing"
    ]
