"""Catalogs, as Vagrant itself takes boxes from them: from a folder, from a web host, from our server, and by us."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mlvm.box.add import Looking, Offer, Trust, fetched
from mlvm.box.certificate import own_certificate
from mlvm.box.export import Exported
from mlvm.box.handing import hand_to_vagrant
from mlvm.box.publish import publish
from mlvm.box.serve import make_server
from mlvm.cli import run
from mlvm.errors import BoxError
from mlvm.lock.text import load
from mlvm.paths import Home, shipped
from tests.box.tiny import make_box, make_key, signers
from tests.fakes import TapeObserver

pytestmark = pytest.mark.vagrant

NAME = "team/tiny"
MIB = 1 << 20


@dataclass(frozen=True)
class Vagrant:
    """Vagrant with boxes of its own, and a catalog beside it."""

    folder: Path

    def run(self, *arguments: str, check: bool = True) -> str:
        done = subprocess.run(
            ["vagrant", *arguments],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            cwd=self.folder,
        )
        assert (done.returncode == 0) is check, done.stdout + done.stderr
        return done.stdout + done.stderr

    def versions(self) -> set[str]:
        lines = self.run("box", "list").splitlines()
        return {line.rpartition(" ")[2].strip(")") for line in lines if line.startswith(f"{NAME} ")}

    def publish(self, version: str, **options: object) -> None:
        box = self.folder / f"{version}.box"
        make_box(box, seed=hash(version), more=int(str(options.pop("more", 0))))
        publish(box, catalog=self.folder / "cat", name=NAME, version=version, **options)  # type: ignore[arg-type]


@pytest.fixture
def vagrant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Vagrant:
    monkeypatch.setenv("VAGRANT_HOME", str(tmp_path / "vagrant"))
    return Vagrant(tmp_path)


@contextmanager
def running(server: ThreadingHTTPServer) -> Iterator[str]:
    """Serve during the block; yield host and port."""
    with server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_added_from_a_folder_and_updated(vagrant: Vagrant) -> None:
    vagrant.publish("1.0.0")
    vagrant.run("box", "add", (vagrant.folder / "cat/team/tiny.json").as_uri())
    vagrant.publish("1.1.0")

    vagrant.run("box", "update", "--box", NAME, "--provider", "libvirt")

    assert vagrant.versions() == {"1.0.0", "1.1.0"}


def test_added_from_a_web_host_and_updated(vagrant: Vagrant) -> None:
    """A host that knows nothing but files: Python's own server."""
    handler = partial(SimpleHTTPRequestHandler, directory=os.fspath(vagrant.folder / "cat"))
    with running(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as host:
        vagrant.publish("1.0.0", url=f"http://{host}")
        vagrant.run("box", "add", f"http://{host}/team/tiny.json")
        vagrant.publish("1.1.0")
        vagrant.run("box", "update", "--box", NAME, "--provider", "libvirt")

    assert vagrant.versions() == {"1.0.0", "1.1.0"}


def test_a_box_in_parts_is_not_for_vagrant_alone(vagrant: Vagrant) -> None:
    vagrant.publish("1.0.0", more=MIB, part_size=MIB)

    said = vagrant.run(
        "box", "add", "--provider", "libvirt", (vagrant.folder / "cat/team/tiny.json").as_uri(), check=False
    )

    assert "doesn't support the provider" in said


def test_added_from_our_server_in_parts_by_tls(vagrant: Vagrant, home: Home) -> None:
    vagrant.publish("1.0.0", more=2 * MIB, part_size=MIB)
    certificate = own_certificate(home, "127.0.0.1")
    server = make_server(vagrant.folder / "cat", address="127.0.0.1", port=0, certificate=certificate)
    with running(server) as host:
        url = f"https://{host}/team/tiny.json"
        refused = vagrant.run("box", "add", url, check=False)
        vagrant.run("box", "add", "--cacert", str(certificate.certificate), url)

    assert "certificate" in refused
    assert vagrant.versions() == {"1.0.0"}


def _offer(vagrant: Vagrant, home: Home) -> Offer:
    looking = Looking(trust=Trust(), home=home)
    return looking.catalog(str(vagrant.folder / "cat/team/tiny.json"), version=None, provider=None)


def _give(vagrant: Vagrant, home: Home, observer: TapeObserver, *, force: bool = False) -> None:
    offer = _offer(vagrant, home)
    with fetched(offer, home=home) as box:
        hand_to_vagrant(offer, box, home=home, observer=observer, force=force)


def test_handed_on_under_its_name_and_version_once(vagrant: Vagrant, home: Home) -> None:
    vagrant.publish("1.2.0", more=MIB, part_size=MIB)
    observer = TapeObserver()

    _give(vagrant, home, observer)
    _give(vagrant, home, observer)

    assert vagrant.versions() == {"1.2.0"}
    assert observer.notes == ["Vagrant has this very box already"]


@pytest.mark.heavy
def test_a_box_of_unknown_origin_is_not_taken_for_ours(vagrant: Vagrant, home: Home) -> None:
    vagrant.publish("1.0.0")
    vagrant.run("box", "add", (vagrant.folder / "cat/team/tiny.json").as_uri())

    with pytest.raises(BoxError, match=r"Vagrant has a 1\.0\.0 of `team/tiny` for libvirt already"):
        _give(vagrant, home, TapeObserver())
    assert not (home.data / "boxes/team/tiny.json").exists()

    _give(vagrant, home, TapeObserver(), force=True)
    assert (home.data / "boxes/team/tiny.json").exists()


@pytest.mark.network
def test_a_project_s_box_from_lock_to_a_teammate(
    export: Callable[[str], Exported],
    chain_home: Home,
    vagrant: Vagrant,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Published from its lock, signed and pinned; added in a clone of the project, and by nothing but the lock."""
    made = export("libvirt")
    project, clone = vagrant.folder / "project", vagrant.folder / "clone"
    project.mkdir()
    for name in ("mlvm.yaml", "mlvm.lock"):
        shutil.copyfile(shipped("boxes") / "python-3.11" / name, project / name)
    key = make_key(vagrant.folder / "key")
    signers(project / "allowed_signers", ("anna@example.org", key))
    monkeypatch.chdir(project)
    monkeypatch.setenv("MLVM_HOME", str(chain_home.data.parent))

    publishing = ["--catalog", "../cat", "--box-version", "1.0.0", "--sign", str(key), "--record", "--json"]
    assert run(["box", "publish", ".", *publishing]) == 0
    (published,) = json.loads(capsys.readouterr().out)
    shutil.copytree(project, clone)
    monkeypatch.chdir(clone)
    assert run(["box", "add", "../cat/mlvm/python-3.11.json", "--json"]) == 0
    added = json.loads(capsys.readouterr().out)

    assert published["sha256"] == made.sha256 == load(clone / "mlvm.lock").published[0].sha256
    assert added["checks"] == [
        "signed by anna@example.org",
        "the project's lock pins 1.0.0 by this sha256",
        "it says that it was made from this project's lock",
        f"sha256 is what the catalog says: {made.sha256}",
    ]
    assert "mlvm/python-3.11 (libvirt, 1.0.0)" in vagrant.run("box", "list")
