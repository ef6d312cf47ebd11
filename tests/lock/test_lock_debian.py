"""The Debian part, resolved by the real apt from small archives with signatures of their own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import lock_archive as small
import pytest

from mlvm.errors import ProgramError, ResolveError
from mlvm.events import Observer
from mlvm.lock import debian
from mlvm.lock.debian import AptRoot, DebianPart, resolve_system, resolve_tools
from mlvm.lock.document import DebianPackage
from mlvm.lock.mirrors import archives

pytestmark = pytest.mark.network  # starts apt-get, though it reaches no further than a folder

KERNEL = "linux-image-6.1.0-56-cloud-amd64"


class Notes(Observer):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[small.SmallArchive]:
    """One archive, and above all one key, for all tests: each offers what it needs."""
    archive = small.SmallArchive(tmp_path_factory.mktemp("a"))
    yield archive
    archive.close()


@pytest.fixture
def archive(signed: small.SmallArchive, monkeypatch: pytest.MonkeyPatch) -> Iterator[small.SmallArchive]:
    monkeypatch.setattr(debian, "KEYRINGS", (signed.keyring,))
    monkeypatch.setenv("MLVM_DEBIAN_MIRROR", signed.folder.as_uri())
    signed.offer("bookworm", small.guest())
    yield signed
    for name in ("debian", "debian-security"):
        shutil.rmtree(signed.folder / name)


@pytest.fixture
def root(tmp_path: Path) -> AptRoot:
    """An apt root whose path has everything that would break a pasted setting."""
    folder = tmp_path / 'a "home" of; mine\'s'
    return AptRoot(folder=folder, release="bookworm", archives=archives("bookworm", "20261123T160000Z"))


def resolved(root: AptRoot, previous: tuple[DebianPackage, ...] = ()) -> tuple[DebianPart, list[str]]:
    notes = Notes()
    return resolve_system(root, previous=previous, observer=notes), notes.texts


def versions(part: DebianPart) -> dict[str, str]:
    return {package.name: package.version for package in (*part.system, *part.boot)}


def refused(root: AptRoot) -> ResolveError:
    with pytest.raises(ResolveError) as error:
        resolve_system(root, previous=(), observer=Notes())
    return error.value


@pytest.mark.usefixtures("archive")
def test_the_guest_is_essential_packages_and_ours_with_what_they_need(root: AptRoot) -> None:
    part, notes = resolved(root)

    assert [package.name for package in part.system] == sorted(
        {"base-files", "libc6", "libsystemd0", *debian.SYSTEM}
    )
    assert notes == []


@pytest.mark.usefixtures("archive")
def test_a_package_is_what_the_signed_list_says(root: AptRoot) -> None:
    part, _ = resolved(root)

    found = next(package for package in part.system if package.name == "libc6")
    assert found == DebianPackage(
        name="libc6",
        version="1.0-1",
        architecture="amd64",
        archive="bookworm",
        filename="pool/main/l/libc6/libc6_1.0-1_amd64.deb",
        size=1000,
        sha256=small.stanza("libc6")["SHA256"],
    )


@pytest.mark.usefixtures("archive")
def test_the_guest_kernel_comes_alone(root: AptRoot) -> None:
    part, _ = resolved(root)

    assert part.guest_kernel == KERNEL
    assert [package.name for package in part.boot] == ["busybox-static", KERNEL]


def test_a_security_update_wins_and_is_known_as_one(archive: small.SmallArchive, root: AptRoot) -> None:
    archive.offer("bookworm", small.guest(), [small.stanza("libc6", "1:1.0-1+deb12u1", security=True)])

    part, _ = resolved(root)

    found = next(package for package in part.system if package.name == "libc6")
    assert found.version == "1:1.0-1+deb12u1"
    assert found.archive == "bookworm-security"


def test_what_is_still_offered_is_kept(archive: small.SmallArchive, root: AptRoot) -> None:
    first, _ = resolved(root)
    archive.offer("bookworm", small.guest(), [small.stanza("libc6", "2.0-1", security=True)])

    second, notes = resolved(root, (*first.system, *first.boot))

    assert second == first
    assert notes == []


def test_what_has_left_the_mirror_moves_and_is_told(archive: small.SmallArchive, root: AptRoot) -> None:
    first, _ = resolved(root)
    archive.offer("bookworm", small.guest(libc6="1.0-1+deb12u1"))

    second, notes = resolved(root, (*first.system, *first.boot))

    assert versions(second) == {**versions(first), "libc6": "1.0-1+deb12u1"}
    assert notes == ["`libc6` 1.0-1 could not be kept; 1.0-1+deb12u1 is what the mirror has"]


def test_kept_versions_that_no_longer_fit_give_way(archive: small.SmallArchive, root: AptRoot) -> None:
    """A newer systemd that wants a newer library, while the old library is still offered."""
    first, _ = resolved(root)
    newer = [small.stanza("libsystemd0", "2.0-1", security=True, Depends="libc6")]
    offered = [each for each in small.guest() if each["Package"] != "systemd-sysv"]
    systemd = small.stanza("systemd-sysv", "2.0-1", Depends="libsystemd0 (>= 2.0)")
    archive.offer("bookworm", [*offered, systemd], newer)

    second, notes = resolved(root, (*first.system, *first.boot))

    assert versions(second) == {**versions(first), "libsystemd0": "2.0-1", "systemd-sysv": "2.0-1"}
    assert notes[0] == "the kept Debian packages and the moved ones do not fit together; all of them move"


def newer_kernel() -> list[small.Stanza]:
    offered = [each for each in small.guest() if each["Package"] != "linux-image-cloud-amd64"]
    return [
        *offered,
        small.stanza("linux-image-cloud-amd64", Depends="linux-image-6.1.0-57-cloud-amd64 (= 6.1.180-1)"),
        small.stanza("linux-image-6.1.0-57-cloud-amd64", "6.1.180-1"),
        small.stanza("linux-image-6.1.0-57-amd64", "6.1.180-1"),
    ]


def test_a_guest_kernel_that_is_still_offered_stays(archive: small.SmallArchive, root: AptRoot) -> None:
    first, _ = resolved(root)
    archive.offer("bookworm", newer_kernel())

    second, _ = resolved(root, (*first.system, *first.boot))

    assert second.guest_kernel == KERNEL


def test_a_guest_kernel_that_may_move_moves(archive: small.SmallArchive, root: AptRoot) -> None:
    first, _ = resolved(root)
    archive.offer("bookworm", newer_kernel())

    second, _ = resolved(root, first.system)

    assert second.guest_kernel == "linux-image-6.1.0-57-cloud-amd64"


def test_tools_come_with_their_libraries(archive: small.SmallArchive, tmp_path: Path) -> None:
    archive.offer(
        "trixie",
        [
            small.stanza("libc6", "2.41-1"),
            *(small.stanza(name, Depends="libc6") for name in (*debian.TOOLS, *debian.BOX_TOOLS)),
        ],
    )
    root = AptRoot(folder=tmp_path, release="trixie", archives=archives("trixie", "20261123T160000Z"))

    tools, for_box = resolve_tools(root, previous=(), observer=Notes())

    assert [package.name for package in tools] == sorted({"libc6", *debian.TOOLS})
    assert [package.name for package in for_box] == sorted({"libc6", *debian.BOX_TOOLS})


def test_an_archive_without_a_package_we_need(archive: small.SmallArchive, root: AptRoot) -> None:
    archive.offer("bookworm", [each for each in small.guest() if each["Package"] != "openssh-server"])

    error = refused(root)

    assert error.message == "apt finds no set of packages of Debian bookworm that fits"
    assert error.details == "E: Unable to locate package openssh-server"
    assert error.hint == "the mirror may be in the middle of an update: try again in an hour"


def test_a_dependency_that_nobody_offers(archive: small.SmallArchive, root: AptRoot) -> None:
    archive.offer("bookworm", [each for each in small.guest() if each["Package"] != "libsystemd0"])

    error = refused(root)

    assert "systemd-sysv : Depends: libsystemd0 (>= 1.0)" in error.details


def test_an_archive_without_guest_kernel(archive: small.SmallArchive, root: AptRoot) -> None:
    archive.offer("bookworm", [each for each in small.guest() if each["Package"] != KERNEL])

    assert refused(root).message == "the archive of Debian bookworm does not describe what it offers"


def test_a_changed_release_file_is_refused(archive: small.SmallArchive, root: AptRoot) -> None:
    path = archive.folder / "debian/dists/bookworm/InRelease"
    path.write_bytes(path.read_bytes().replace(b"Label: Debian", b"Label: Dabian"))

    error = refused(root)

    assert error.message == "the archive of Debian bookworm cannot be used"
    assert (
        error.hint == "the archive is not what its signature says: do not trust this mirror or this network"
    )


def test_a_changed_list_is_refused(archive: small.SmallArchive, root: AptRoot) -> None:
    path = archive.folder / "debian/dists/bookworm/main/binary-amd64/Packages"
    path.write_bytes(path.read_bytes().replace(b"Size: 1000", b"Size: 1001"))

    error = refused(root)

    assert (
        error.hint == "the archive is not what its signature says: do not trust this mirror or this network"
    )


def test_an_archive_without_signature_is_refused(archive: small.SmallArchive, root: AptRoot) -> None:
    dists = archive.folder / "debian/dists/bookworm"
    signed = (dists / "InRelease").read_text()
    (dists / "Release").write_text(signed.split("\n\n", 1)[1].split("-----BEGIN PGP SIGNATURE")[0])
    (dists / "InRelease").unlink()

    error = refused(root)

    assert (
        error.hint == "the archive is not what its signature says: do not trust this mirror or this network"
    )


def test_another_key_is_refused(
    archive: small.SmallArchive, root: AptRoot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    others = small.SmallArchive(tmp_path / "k")
    others.close()
    monkeypatch.setattr(debian, "KEYRINGS", (others.keyring,))

    error = refused(root)

    assert "NO_PUBKEY" in error.details
    assert error.hint == "the host's keys are too old for this release: upgrade `debian-archive-keyring`"


@pytest.mark.parametrize("days", [-30, 30])
def test_an_archive_of_another_time_is_refused(archive: small.SmallArchive, root: AptRoot, days: int) -> None:
    archive.write_suite("debian", "bookworm", small.guest(), made=datetime.now(UTC) + timedelta(days=days))

    error = refused(root)

    assert error.hint == "is the clock of this host right? else the mirror is out of date"


@pytest.mark.usefixtures("archive")
def test_after_a_refusal_the_root_works_again(archive: small.SmallArchive, root: AptRoot) -> None:
    path = archive.folder / "debian/dists/bookworm/InRelease"
    right = path.read_bytes()
    path.write_bytes(right.replace(b"Label: Debian", b"Label: Dabian"))
    refused(root)
    path.write_bytes(right)

    part, _ = resolved(root)

    assert part.guest_kernel == KERNEL


def test_no_keys_on_the_host(root: AptRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "KEYRINGS", (tmp_path / "missing.pgp", tmp_path / "missing.gpg"))

    with pytest.raises(ProgramError) as missing:
        resolve_system(root, previous=(), observer=Notes())

    assert missing.value.message == "the keys of the Debian archive are not on this host"
    assert missing.value.hint == "sudo apt-get install debian-archive-keyring"


def test_no_apt_on_the_host(root: AptRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "find_program", lambda name: None)

    with pytest.raises(ProgramError) as missing:
        resolve_system(root, previous=(), observer=Notes())

    assert missing.value.hint == "lock on a Debian or Ubuntu host; building from a lock needs no apt"


@pytest.mark.parametrize("mirror", ["deb.debian.org", "http://a b", "http://x\nSigned-By: /mine", "ftp://x"])
def test_a_mirror_that_is_none(root: AptRoot, monkeypatch: pytest.MonkeyPatch, mirror: str) -> None:
    monkeypatch.setenv("MLVM_DEBIAN_MIRROR", mirror)

    assert refused(root).message == f"MLVM_DEBIAN_MIRROR is `{mirror}`, which is not the URL of a mirror"


@pytest.mark.usefixtures("archive")
def test_the_hosts_apt_is_left_alone(root: AptRoot) -> None:
    lists = Path("/var/lib/apt/lists")
    before = (
        sorted((path.name, path.stat().st_mtime_ns) for path in lists.iterdir()),
        lists.stat().st_mtime_ns,
    )

    resolved(root)

    after = sorted((path.name, path.stat().st_mtime_ns) for path in lists.iterdir()), lists.stat().st_mtime_ns
    assert after == before


@pytest.mark.usefixtures("archive")
def test_the_hosts_settings_are_not_seen(root: AptRoot) -> None:
    root.update()

    settings = root.ask("apt-config", "dump", failing="")

    assert "/etc/apt/sources.list" not in settings.replace("Dir::Etc::sourcelist", "")
    assert 'APT::Get::AllowUnauthenticated "false";' in settings
    assert "Acquire::http::Proxy" not in settings


def on_top(root: AptRoot, *apt: str, previous: tuple[DebianPackage, ...] = ()) -> dict[str, str]:
    part = resolve_system(root, previous=previous, observer=Notes(), apt=apt)
    return {package.name: package.version for package in part.apt}


def test_packages_besides_come_with_what_the_system_has_not(
    archive: small.SmallArchive, root: AptRoot
) -> None:
    more = [small.stanza("git", Depends="libc6, git-man"), small.stanza("git-man")]
    archive.offer("bookworm", [*small.guest(), *more])

    assert on_top(root, "git") == {"git": "1.0-1", "git-man": "1.0-1"}


@pytest.mark.usefixtures("archive")
def test_what_the_system_has_already_is_not_besides(root: AptRoot) -> None:
    assert on_top(root, "less") == {}


def test_a_version_besides_can_be_named(archive: small.SmallArchive, root: AptRoot) -> None:
    more = [small.stanza("git", "1.0-1"), small.stanza("git", "2.0-1")]
    archive.offer("bookworm", [*small.guest(), *more])

    assert on_top(root, "git=1.0-1") == {"git": "1.0-1"}


def test_a_package_besides_is_kept_while_it_is_offered(archive: small.SmallArchive, root: AptRoot) -> None:
    archive.offer("bookworm", [*small.guest(), small.stanza("git", "1.0-1")])
    kept = resolve_system(root, previous=(), observer=Notes(), apt=["git"]).apt
    archive.offer("bookworm", [*small.guest(), small.stanza("git", "1.0-1"), small.stanza("git", "2.0-1")])

    assert on_top(root, "git", previous=kept) == {"git": "1.0-1"}
    assert on_top(root, "git") == {"git": "2.0-1"}


@pytest.mark.parametrize(
    "other", [small.stanza("tool", Conflicts="less"), small.stanza("tool", Depends="libc6 (>= 2.0)")]
)
def test_what_would_change_the_system_is_refused(
    archive: small.SmallArchive, root: AptRoot, other: small.Stanza
) -> None:
    archive.offer("bookworm", [*small.guest(), other])

    with pytest.raises(ResolveError) as error:
        on_top(root, "tool")

    assert error.value.message == "apt cannot install `tool` on top of the system"


@pytest.mark.usefixtures("archive")
def test_a_package_besides_that_nobody_offers(root: AptRoot) -> None:
    with pytest.raises(ResolveError) as error:
        on_top(root, "gitt")

    assert "Unable to locate package gitt" in error.value.details
