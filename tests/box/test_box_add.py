"""Adding boxes: what is verified, and that each thing that does not fit is refused before anybody gets the box."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from mlvm import files
from mlvm.box import add as adding
from mlvm.box.add import Looking, Offer, Trust, fetched
from mlvm.box.publish import publish
from mlvm.errors import BoxError, DigestError, MlvmError
from mlvm.lock.document import BoxPin
from mlvm.paths import Home
from tests.box.tiny import make_box, make_key, signers
from tests.fakes import TapeObserver

MIB = 1 << 20


@dataclass
class World:
    """A catalog, keys, and somebody who adds from it."""

    folder: Path
    home: Home
    anna: Path
    mallory: Path
    allowed: Path

    @property
    def document(self) -> Path:
        return self.folder / "cat/team/tiny.json"

    def publish(self, version: str, *, seed: int = 0, key: Path | None = None, **options: Any) -> str:
        box = self.folder / f"{version}-{seed}.box"
        sha256 = make_box(box, seed=seed, more=options.pop("more", 0))
        publish(box, catalog=self.folder / "cat", name="team/tiny", version=version, key=key, **options)
        return sha256

    def change(self, change: Callable[[dict[str, Any]], None], *, version: int = -1) -> None:
        """Change an entry of the catalog, as whoever holds the web host could."""
        document = json.loads(self.document.read_text())
        change(document["versions"][version])
        self.document.write_text(json.dumps(document))

    def look(self, source: str | None = None, *, trust: Trust | None = None, **wanted: Any) -> Offer:
        looking = Looking(
            trust=trust or Trust(), home=self.home, observer=wanted.pop("observer", TapeObserver())
        )
        wanted = {"version": None, "provider": None} | wanted
        return looking.catalog(source or str(self.document), **wanted)

    def take(self, offer: Offer) -> str:
        """Return the digest of the box that is handed on."""
        with fetched(offer, home=self.home) as box:
            return files.sha256_of(box)

    @property
    def careful(self) -> Trust:
        return Trust(signers=self.allowed)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("keys")
    return make_key(folder / "anna"), make_key(folder / "mallory")


@pytest.fixture
def world(tmp_path: Path, home: Home, keys: tuple[Path, Path]) -> World:
    allowed = signers(tmp_path / "allowed_signers", ("anna@example.org", keys[0]))
    return World(folder=tmp_path, home=home, anna=keys[0], mallory=keys[1], allowed=allowed)


@contextmanager
def web(folder: Path) -> Iterator[str]:
    """Serve a folder as any web host does."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=os.fspath(folder))) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def pin(sha256: str, version: str = "1.0.0") -> Trust:
    one = BoxPin(name="team/tiny", version=version, provider="libvirt", architecture="amd64", sha256=sha256)
    return Trust(pins=(one,))


# What is chosen, and that it arrives


def test_the_newest_is_taken(world: World) -> None:
    world.publish("1.9.0")
    newest = world.publish("1.10.0", seed=1)

    assert world.take(world.look()) == newest


def test_the_version_that_is_named_is_taken(world: World) -> None:
    first = world.publish("1.0.0")
    world.publish("1.1.0", seed=1)

    assert world.take(world.look(version="1.0")) == first


def test_parts_are_joined(world: World) -> None:
    sha256 = world.publish("1.0.0", more=2 * MIB, part_size=MIB)

    offer = world.look()
    assert len(offer.wanted) == 3
    assert world.take(offer) == sha256


def test_a_catalog_that_was_moved_to_a_web_host(world: World) -> None:
    sha256 = world.publish("1.0.0", more=2 * MIB, part_size=MIB)
    (world.folder / "cat").rename(world.folder / "moved")
    with web(world.folder / "moved") as base:
        assert world.take(world.look(f"{base}/team/tiny.json")) == sha256


def test_the_provider_must_be_said_when_there_are_several(world: World) -> None:
    world.publish("1.0.0")
    box = world.folder / "v.box"
    sha256 = make_box(box, provider="virtualbox")
    publish(box, catalog=world.folder / "cat", name="team/tiny", version="1.0.0")

    with pytest.raises(BoxError, match="is there for libvirt, virtualbox"):
        world.look()
    assert world.look(provider="virtualbox").entry.sha256 == sha256


def test_a_version_that_is_not_there(world: World) -> None:
    world.publish("1.0.0")

    with pytest.raises(BoxError) as refused:
        world.look(version="3.0")
    assert refused.value.message == "the catalog has no 3.0 of `team/tiny`"
    assert refused.value.details == "1.0.0 for libvirt (amd64)"


# What is refused


def test_other_bytes_than_the_catalog_says(world: World) -> None:
    world.publish("1.0.0")
    box = world.folder / "cat/team/tiny/1.0.0/libvirt-amd64.box"
    content = bytearray(box.read_bytes())
    content[1000] ^= 1
    box.write_bytes(content)

    with pytest.raises(DigestError, match="is not what the catalog says"):
        world.take(world.look())


def test_a_box_that_is_shorter(world: World) -> None:
    world.publish("1.0.0")
    box = world.folder / "cat/team/tiny/1.0.0/libvirt-amd64.box"
    box.write_bytes(box.read_bytes()[:-512])

    with pytest.raises(MlvmError, match=r"team/tiny|tiny/1\.0\.0"):
        world.take(world.look())


def test_parts_that_are_right_and_do_not_make_the_box(world: World) -> None:
    world.publish("1.0.0", more=2 * MIB, part_size=MIB)

    def swap(version: dict[str, Any]) -> None:
        parts = version["mlvm"]["split"][0]["mlvm"]["parts"]
        parts[0], parts[1] = parts[1], parts[0]

    world.change(swap)

    with pytest.raises(DigestError, match="do not make the box"):
        world.take(world.look())


def test_a_signed_box(world: World) -> None:
    sha256 = world.publish("1.0.0", key=world.anna)

    offer = world.look(trust=world.careful)
    assert offer.checks[0] == "signed by anna@example.org"
    assert world.take(offer) == sha256


def test_an_unsigned_box_where_signers_are_listed(world: World) -> None:
    world.publish("1.0.0")

    with pytest.raises(BoxError, match="the box is not signed"):
        world.look(trust=world.careful)


def test_a_box_signed_by_a_stranger(world: World) -> None:
    world.publish("1.0.0", key=world.mallory)

    with pytest.raises(BoxError, match="by somebody who may not"):
        world.look(trust=world.careful)


def test_insecure_is_loud(world: World) -> None:
    world.publish("1.0.0", key=world.mallory)
    observer = TapeObserver()

    offer = world.look(trust=replace(world.careful, insecure=True), observer=observer)

    assert [one for one in offer.checks if "signed" in one] == []
    assert [note for note in observer.notes if note.startswith("INSECURE, as you asked: the box is signed")]


def test_an_old_box_given_for_a_new_one(world: World) -> None:
    """Replay: bytes and signature of an old version, which has a hole, under the number of a new one."""
    world.publish("1.0.0", key=world.anna)
    world.change(lambda version: version.update(version="2.0.0"))

    with pytest.raises(BoxError, match="the box's signature is not for this box"):
        world.look(trust=world.careful)


def test_a_box_of_another_name(world: World) -> None:
    world.publish("1.0.0", key=world.anna)
    document = json.loads(world.document.read_text())
    world.document.write_text(json.dumps({**document, "name": "team/other"}))

    with pytest.raises(BoxError, match="the box's signature is not for this box"):
        world.look(trust=world.careful)


def test_a_catalog_that_goes_back(world: World) -> None:
    """Freeze: the catalog of last month is right in every digest and signature."""
    world.publish("1.0.0", key=world.anna)
    old = world.document.read_text()
    world.publish("1.1.0", seed=1, key=world.anna)
    world.take(world.look(trust=world.careful))
    world.document.write_text(old)

    with pytest.raises(BoxError, match=r"has gone back: 1\.1\.0 was its newest"):
        world.look(trust=world.careful)
    assert world.look(trust=world.careful, version="1.0.0").entry.version == "1.0.0"


def test_another_provider_may_be_behind(world: World) -> None:
    world.publish("1.0.0")
    box = world.folder / "v.box"
    make_box(box, provider="virtualbox")
    publish(box, catalog=world.folder / "cat", name="team/tiny", version="2.0.0")
    world.take(world.look(provider="virtualbox"))

    assert world.look(provider="libvirt").entry.version == "1.0.0"


def test_what_was_only_looked_at_is_not_noted(world: World) -> None:
    world.publish("1.0.0")
    old = world.document.read_text()
    world.publish("1.1.0", seed=1)
    world.look()
    world.document.write_text(old)

    assert world.look().entry.version == "1.0.0"


def test_the_lock_pins_the_version(world: World) -> None:
    first = world.publish("1.0.0")
    world.publish("1.1.0", seed=1)

    offer = world.look(trust=pin(first))
    assert offer.entry.version == "1.0.0"
    assert "the project's lock pins 1.0.0 by this sha256" in offer.checks


def test_another_version_than_the_lock_pins(world: World) -> None:
    first = world.publish("1.0.0")
    world.publish("1.1.0", seed=1)

    with pytest.raises(BoxError, match=r"the project's lock pins 1\.0\.0 of `team/tiny`, not 1\.1\.0"):
        world.look(trust=pin(first), version="1.1.0")


def test_another_box_than_the_lock_pins(world: World) -> None:
    """A catalog that is consistent and signed, and not what the project had published."""
    world.publish("1.0.0", key=world.anna)

    with pytest.raises(DigestError, match="is not what the project's lock says"):
        world.look(trust=replace(pin("0" * 64), signers=world.allowed, insecure=True))


def test_another_architecture_than_the_lock_pins(world: World) -> None:
    """Vagrant would not look at it, and run the box as if it were the one that is pinned."""
    sha256 = world.publish("1.0.0")
    world.change(lambda version: version["providers"][0].update(architecture="arm64"))

    with pytest.raises(DigestError, match="is not what the project's lock says"):
        world.look(trust=pin(sha256))


def test_another_provider_than_the_lock_pins_is_told(world: World) -> None:
    box = world.folder / "v.box"
    make_box(box, provider="virtualbox")
    publish(box, catalog=world.folder / "cat", name="team/tiny", version="1.0.0")
    observer = TapeObserver()

    world.look(trust=pin("0" * 64), provider="virtualbox", observer=observer)

    assert observer.notes == ["the project's lock pins no `team/tiny` for virtualbox, only others"]


@pytest.mark.parametrize("trusted", [False, True])
def test_plain_http_from_elsewhere(world: World, trusted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    world.publish("1.0.0", key=world.anna)
    content = world.document.read_bytes()
    monkeypatch.setattr(adding, "read_url", lambda url, *, limit, fingerprint: content)

    url = "http://boxes.example/team/tiny.json"
    if trusted:
        assert world.look(url, trust=world.careful).entry.version == "1.0.0"
        return
    with pytest.raises(BoxError, match="anybody on the way can change a catalog that comes by plain http"):
        world.look(url)


def test_a_fingerprint_is_for_https(world: World) -> None:
    world.publish("1.0.0")
    looking = Looking(trust=Trust(), home=world.home, fingerprint="0" * 64)

    with pytest.raises(BoxError, match="only https has a certificate"):
        looking.catalog(str(world.document), version=None, provider=None)


def test_a_stranger_s_signature_without_a_list_is_told_and_proves_nothing(world: World) -> None:
    world.publish("1.0.0", key=world.mallory)
    observer = TapeObserver()

    offer = world.look(observer=observer)

    assert [check for check in offer.checks if "signed" in check] == []
    assert "of whom nothing is known here" in observer.notes[-1]


# Files


def test_a_file_that_the_lock_pins(world: World) -> None:
    box = world.folder / "x.box"
    sha256 = make_box(box)
    offer = Looking(trust=pin(sha256, "1.2.0"), home=world.home).file(box, name=None, version=None)

    assert (offer.name, offer.entry.version) == ("team/tiny", "1.2.0")
    assert offer.checks == ("the project's lock pins 1.2.0 by this sha256",)


def test_a_file_that_is_not_the_one_pinned(world: World) -> None:
    box = world.folder / "x.box"
    make_box(box)

    with pytest.raises(DigestError, match="is not what the project's lock says"):
        Looking(trust=pin("0" * 64), home=world.home).file(box, name="team/tiny", version="1.0.0")


def test_a_file_has_no_signature(world: World) -> None:
    box = world.folder / "x.box"
    make_box(box)

    with pytest.raises(BoxError, match="the box is not signed"):
        Looking(trust=world.careful, home=world.home).file(box, name="team/tiny", version=None)


def test_a_file_without_a_name(world: World) -> None:
    box = world.folder / "x.box"
    make_box(box)

    with pytest.raises(BoxError, match="does not say what the box is called"):
        Looking(trust=Trust(), home=world.home).file(box, name=None, version=None)


def test_a_file_by_a_version_that_is_none(world: World) -> None:
    box = world.folder / "x.box"
    make_box(box)

    with pytest.raises(BoxError, match="`latest` is no version"):
        Looking(trust=Trust(), home=world.home).file(box, name="team/tiny", version="latest")
