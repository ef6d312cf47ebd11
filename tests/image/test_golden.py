"""The system layer against what dpkg makes of the same packages, for each Debian release.

mmdebstrap builds a conventional tree offline, from exactly the .debs of a lock, running every maintainer script. Both
trees lie unpacked side by side: every path, kind, mode, owner by name, link and content is compared. Where they may
differ is said below, line by line with its reason, and a line that is not needed any more fails.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from mlvm.image.build import build
from mlvm.image.settings import FILES, LINKS, MASKED, MASKED_GENERATORS
from mlvm.image.system_layer import LEFT_OUT
from mlvm.image.tools import Tools
from mlvm.image.tree import SOURCE_DATE
from mlvm.lock import deb
from mlvm.lock.document import Lock
from mlvm.lock.scripts import scripts_of
from mlvm.paths import Home, shipped
from mlvm.project import Project

pytestmark = [
    pytest.mark.golden,
    pytest.mark.network,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can unpack a tree with the owners it says"),
]

HOOKS = Path("/usr/share/mmdebstrap/hooks/merged-usr")
TRIXIE = """\
name: golden
debian: trixie
python: "3.13"
packages: []
"""


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """Paths that may differ, in any way, and why; not needed in one of `releases`, the line fails."""

    paths: str
    why: str
    releases: tuple[str, ...] = ("bookworm", "trixie")


ALLOWED = (
    Allowed(paths=r"(dev|run)/.*", why="other file systems are mounted over these"),
    Allowed(
        paths=rf"(?={LEFT_OUT.pattern}).*|usr/share/(bug|lintian|locale|man)", why="documentation is left out"
    ),
    Allowed(paths=r"etc/alternatives/.*\d\.gz", why="manual pages are left out"),
    Allowed(paths=r"var/lib/dpkg/alternatives/builtins\.7\.gz", why="a manual page"),
    Allowed(paths=r".*/__pycache__(/.*)?", why="bytecode: ours does not hang on what else was compiled"),
    Allowed(paths=r"usr/lib/udev/hwdb\.bin", why="names for hardware that a virtual machine does not have"),
    Allowed(paths=r"var/lib/systemd/catalog/database", why="explanations of messages, for `journalctl -x`"),
    Allowed(paths=r"var/cache/debconf/.*", why="nobody was asked anything; debconf asks for templates anew"),
    Allowed(
        paths=r"var/lib/systemd/deb-systemd-(user-)?helper-enabled(/.*)?", why="what its scripts enabled"
    ),
    Allowed(paths=r"etc/\.pwd\.lock|var/.*/([Ll]ock|lock-frontend)", why="made by whoever takes the lock"),
    Allowed(paths=r"etc/\w+-|var/.*-old|var/lib/ucf/\w+\.0", why="what stood there before"),
    Allowed(paths=r"etc/rc\w\.d/.*|etc/runit/.*", why="for other inits than systemd"),
    Allowed(paths=r"etc/hosts\.(allow|deny)", why="libwrap0's, comments only"),
    Allowed(paths=r"var/log/journal", why="our journal is volatile"),
    Allowed(paths=r"etc/ld\.so\.cache", why="laid out differently; read as ldconfig reads it below"),
    Allowed(paths=r"etc/ssh/ssh_host_.*", why="a machine's own keys come at its first boot"),
    Allowed(paths="|".join(map(re.escape, FILES)), why="our settings"),
    Allowed(paths="|".join(map(re.escape, LINKS)), why="what somebody calls need not start at boot"),
    Allowed(
        paths=r"etc/systemd/(journald\.conf\.d|system-generators|system/systemd-[\w-]+\.(service|socket)\.d)",
        why="folders of settings",
    ),
    Allowed(paths=r"etc/systemd/system/sockets\.target\.wants/ssh\.socket", why="sshd starts with a client"),
    Allowed(paths=r"etc/apt/sources\.list", why="the archives of the lock"),
    Allowed(paths=r"etc/default/locale", why="of our locale.conf", releases=("bookworm",)),
    Allowed(paths=r"home/mlvm(/.*)?|etc/sudoers\.d/mlvm|etc/sub[ug]id", why="the person's account"),
    Allowed(
        paths=rf"etc/systemd/system/({'|'.join(map(re.escape, MASKED))})",
        why="units that a guest does without are masked",
    ),
    Allowed(paths=rf"etc/systemd/system-generators/({'|'.join(MASKED_GENERATORS)})", why="masked, too"),
    Allowed(
        paths=r"etc/systemd/system/(dbus-org\.freedesktop\.network1\.service"
        r"|[\w-]+\.target\.wants/systemd-network(d|-generator)\.(service|socket))",
        why="our network is systemd-networkd's",
    ),
    Allowed(paths=r"etc/systemd/(system|user)/[^/]+\.wants", why="folders for units enabled or not"),
    Allowed(paths=r"etc/systemd/system/sshd\.service", why="the alias of ssh.service, which nobody enables"),
    Allowed(
        paths=r"etc/systemd/system/multi-user\.target\.wants/remote-fs\.target",
        why="by its place in /usr, not through /lib",
        releases=("bookworm",),
    ),
    Allowed(paths=r"(usr/)?lib(x?)32", why="mmdebstrap's hook makes them, no package", releases=("trixie",)),
)


#: How a file says that there is no password: never had, locked, or kept in shadow.
CLOSED = frozenset({"*", "!", "!*", "x"})


def lines(text: str) -> object:
    """A file whose order means nothing."""
    return sorted(text.splitlines())


def said(text: str) -> object:
    """A file whose comments mean nothing."""
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def records(text: str) -> object:
    """Diversions: three lines each, in any order."""
    found = text.splitlines()
    return sorted(zip(found[::3], found[1::3], found[2::3], strict=True))


def stanzas(text: str) -> object:
    """dpkg's status: fields in any order, packages too."""
    found = [deb.parse_stanza(stanza) for stanza in text.split("\n\n") if stanza.strip()]
    return {fields["Package"]: fields for fields in found}


def accounts(text: str) -> object:
    """passwd and group without ids, which are fixed in ours, and without the person."""
    rows = [line.split(":") for line in text.splitlines()]
    found = {}
    for name, password, *rest in rows:
        words = [word for word in rest if not word.isdigit()]
        found[name] = (
            "closed" if password in CLOSED else password,
            [",".join(set(word.split(",")) - {"mlvm"}) for word in words],
        )
    return {name: row for name, row in found.items() if name != "mlvm"}


def passwords(text: str) -> object:
    """shadow without dates: nobody has a password, and none expires."""
    rows = [line.split(":") for line in text.splitlines()]
    return {row[0]: "closed" if row[1] in CLOSED else row[1] for row in rows if row[0] != "mlvm"}


def alternative(text: str) -> object:
    """What update-alternatives knows, without manual pages."""
    head, _, body = text.partition("\n\n")
    status, link, *rest = head.splitlines()
    slaves = list(zip(rest[::2], rest[1::2], strict=True))
    rows = body.rstrip("\n").splitlines()
    width = 2 + len(slaves)
    programs = []
    for start in range(0, len(rows), width):
        program, priority, *targets = rows[start : start + width]
        targets += [""] * (len(slaves) - len(targets))
        kept = [target for (name, _), target in zip(slaves, targets, strict=True) if not name.endswith(".gz")]
        programs.append((program, priority, kept))
    return status, link, [slave for slave in slaves if not slave[0].endswith(".gz")], sorted(programs)


@dataclass(frozen=True, kw_only=True)
class Same:
    """Files that may be written differently and must mean the same."""

    paths: str
    meaning: Callable[[str], object]
    releases: tuple[str, ...] = ("bookworm", "trixie")


SAME = (
    Same(paths=r"etc/modules", meaning=said),
    Same(paths=r"etc/(passwd|group|gshadow)", meaning=accounts),
    Same(paths=r"etc/shadow", meaning=passwords),
    Same(paths=r"var/lib/dpkg/status", meaning=stanzas),
    Same(paths=r"var/lib/dpkg/diversions", meaning=records, releases=("trixie",)),
    Same(paths=r"var/lib/dpkg/triggers/File", meaning=lines),
    Same(paths=r"var/lib/dpkg/alternatives/.*", meaning=alternative),
)


@dataclass(frozen=True, kw_only=True)
class Trees:
    """The two trees of a release, unpacked."""

    release: str
    ours: Path
    debian: Path


@pytest.fixture(
    scope="module", params=["bookworm", "trixie", pytest.param("bullseye", marks=pytest.mark.heavy)]
)
def trees(request: pytest.FixtureRequest, chain_home: Home) -> Iterator[Trees]:
    """Our system layer, and the tree that mmdebstrap builds of its packages."""
    with tempfile.TemporaryDirectory(prefix="golden-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # apt becomes a user of its own, who must be let in
        lock = locked(request.param, folder, chain_home)
        image = build(lock, home=chain_home)
        ours, debian = folder / "ours", folder / "debian"
        # An implementation of erofs that is not ours, to be sure of our layers and of our reader.
        options = [f"--extract={ours}", "--preserve", "--xattrs"]
        Tools(image.tools).run("fsck.erofs", [*options, image.layers[0].path])
        conventional(lock, chain_home, folder / "repository", debian)
        yield Trees(release=request.param, ours=ours, debian=debian)


def locked(release: str, folder: Path, home: Home) -> Lock:
    """The lock of a shipped box, or of today where no box has the release."""
    if release == "bookworm":
        lock = Project(folder=shipped("boxes") / "python-3.11", home=home).lock()
        assert lock is not None
        return lock
    if release == "bullseye":
        lock = Project(folder=shipped("boxes") / "old-py39", home=home).lock()
        assert lock is not None  # its system counts here, not its gigabyte of wheels
        return replace(lock, python=replace(lock.python, packages=[]), image=None)
    (folder / "mlvm.yaml").write_text(TRIXIE)
    return Project(folder=folder, home=home).relock()[1]


def conventional(lock: Lock, home: Home, repository: Path, target: Path) -> None:
    """Build a tree of the lock's system with mmdebstrap, without a network."""
    repository.mkdir()
    index = []
    for package in lock.system:
        blob = home.store / "blobs" / package.sha256[:2] / package.sha256
        (repository / f"{package.name}.deb").symlink_to(blob.resolve())
        index.append(
            f"{deb.read(blob).stanza.strip()}\n"
            f"Filename: ./{package.name}.deb\nSize: {package.size}\nSHA256: {package.sha256}\n"
        )
    (repository / "Packages").write_text("\n".join(index))
    wanted = ",".join(f"{package.name}={package.version}" for package in lock.system)
    done = subprocess.run(
        [
            "unshare", "--net", "mmdebstrap", "--mode=root", "--variant=custom", "--format=directory",
            f"--hook-dir={HOOKS}", f"--include={wanted}", "", target, f"deb [trusted=yes] copy:{repository} ./",
        ],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "SOURCE_DATE_EPOCH": str(SOURCE_DATE)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def names(root: Path, file: str) -> dict[int, str]:
    """Id -> name, from a tree's own passwd or group."""
    rows = [line.split(":") for line in (root / "etc" / file).read_text().splitlines()]
    return {int(row[2]): row[0] for row in rows}


def entries(root: Path) -> dict[str, tuple[str, ...]]:
    """Return kind, content, mode, owner, group and attributes of everything below `root`, by its path."""
    users, groups = names(root, "passwd"), names(root, "group")
    found = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder, name)
            status = path.lstat()
            kind, mode = stat.filemode(status.st_mode)[0], f"{stat.S_IMODE(status.st_mode):04o}"
            content = ""
            if kind == "l":
                content, mode = str(path.readlink()), ""
            elif kind == "-":
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            attributes = {
                attribute: os.getxattr(path, attribute, follow_symlinks=False)
                for attribute in os.listxattr(path, follow_symlinks=False)
            }
            found[str(path.relative_to(root))] = (
                kind, content, mode, users[status.st_uid], groups[status.st_gid], str(attributes),
            )  # fmt: skip
    return found


def made_at_boot(root: Path) -> set[str]:
    """Return the paths that systemd-tmpfiles makes or sets right in the guest, by the tree's own rules."""
    found = set()
    for file in (root / "usr/lib/tmpfiles.d").glob("*.conf"):
        for line in file.read_text().splitlines():
            words = line.split()
            if len(words) > 1 and re.fullmatch(r"[dDvqQfLCz][-+!=~^$]*", words[0]):
                found.add(words[1].strip("/").replace("var/run/", "run/"))
    return found


def differing(trees: Trees) -> tuple[dict[str, str], set[str]]:
    """Return what differs and may not, path -> how; and which lines of the lists were needed."""
    ours, debian = entries(trees.ours), entries(trees.debian)
    at_boot = made_at_boot(trees.ours)
    left_alone = [re.escape(name) for name, enabled in scripts_of(trees.release).units.items() if not enabled]
    not_enabled = re.compile(rf"etc/systemd/(system|user)/[^/]+\.wants/({'|'.join(left_alone)})")
    wrong, needed = {}, set()
    for path in sorted(ours.keys() | debian.keys()):
        mine, other = ours.get(path), debian.get(path)
        if mine == other:
            continue
        line = next((one for one in (*SAME, *ALLOWED) if fits(one, path, trees)), None)
        if line is not None:
            needed.add(line.paths)
        elif path not in at_boot and not not_enabled.fullmatch(path):
            wrong[path] = f"ours {mine}, Debian's {other}"
    return wrong, needed


def fits(line: Same | Allowed, path: str, trees: Trees) -> bool:
    """Tell whether a line lets `path` differ as it does."""
    if trees.release not in line.releases or not re.fullmatch(line.paths, path):
        return False
    if isinstance(line, Allowed):
        return True
    files = [root / path for root in (trees.ours, trees.debian)]
    if not all(file.is_file() and not file.is_symlink() for file in files):
        return False
    first, second = (file.stat() for file in files)
    meant = [line.meaning(file.read_text()) for file in files]
    return first.st_mode == second.st_mode and meant[0] == meant[1]


def test_the_layer_is_what_dpkg_makes_of_its_packages(trees: Trees) -> None:
    wrong, needed = differing(trees)
    unneeded = [
        one.paths for one in (*SAME, *ALLOWED) if trees.release in one.releases and one.paths not in needed
    ]

    assert wrong == {}
    assert unneeded == []


def test_programs_of_root_have_their_powers(trees: Trees) -> None:
    """The comparison, said once more in words: were both trees wrong alike, nothing above would notice."""
    found = {
        str(path.relative_to(trees.ours))
        for path in trees.ours.rglob("*")
        if path.is_file() and not path.is_symlink() and path.stat().st_mode & stat.S_ISUID
    }

    assert {"usr/bin/su", "usr/bin/sudo", "usr/bin/passwd", "usr/bin/mount"} <= found


def test_the_cache_of_libraries_is_what_ldconfig_reads(trees: Trees) -> None:
    shown = [
        subprocess.run(
            ["/sbin/ldconfig", "-p", "-C", root / "etc/ld.so.cache"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()[1:]
        for root in (trees.ours, trees.debian)
    ]
    ours, debian = ([line for line in lines if line.startswith("\t")] for lines in shown)

    assert ours == debian
    assert len(ours) > 50


def test_dpkg_is_content_with_its_database(trees: Trees) -> None:
    done = subprocess.run(
        ["dpkg", f"--root={trees.ours}", "--audit"], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
