"""Resolve the Debian part of a lock with the host's apt, in an apt root of our own.

apt checks the archives' signatures and solves dependencies; it sees an empty system, our sources and nothing of the
host's state, and needs no root. `--print-uris` names MD5 sums only, so sizes and SHA-256 digests are taken from the
same signed Packages lists through `apt-cache show`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from mlvm.errors import ProgramError, ResolveError
from mlvm.events import Observer
from mlvm.files import hold, write_whole
from mlvm.lock.document import Archive, DebianPackage
from mlvm.lock.mirrors import nearest
from mlvm.process import require_program, run

ARCHITECTURE = "amd64"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

#: What the guest is made of beside Debian's essential packages, and why each is there.
SYSTEM = (
    "apt",  # a person in the guest may want to install something
    "ca-certificates",  # TLS
    "dbus",  # systemctl and logind talk over it; 1 MB
    "iproute2",  # `ip`, for people and for shutdown scripts
    "kmod",  # modules, static device nodes
    "less",
    "netbase",  # /etc/protocols and /etc/services
    "openssh-server",
    "procps",
    "python3",  # the release's own: the box's Python
    "rsync",  # synced folders
    "sudo",
    "systemd-sysv",  # init
    "tzdata",
    "udev",  # without it systemd waits 90 s for the console's device unit
    "usr-is-merged",  # instead of usrmerge, which brings perl; our trees are merged when they are made
)
GUEST_KERNEL = "linux-image-cloud-amd64"
BOOT = ("busybox-static",)
#: mkfs.erofs reads tar files, and mke2fs is reproducible, only since this release; depmod comes along.
TOOLS_RELEASE = "trixie"
TOOLS = ("e2fsprogs", "erofs-utils", "kmod")

URI_LINE = re.compile(r"^'(?P<uri>[^']+)' \S+ (?P<size>\d+) ", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class AptRoot:
    """A private apt: its folder, its release, and the command prefix's environment."""

    folder: Path
    release: str
    archives: tuple[Archive, ...]

    @property
    def env(self) -> dict[str, str]:
        """The environment of apt programs: ours, with proxies and CA settings kept, in plain English."""
        kept = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
        return {
            **kept,
            "PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin",
            "LC_ALL": "C.UTF-8",
            "APT_CONFIG": str(self.folder / "apt.conf"),
        }

    def lay_out(self, pins: Iterable[DebianPackage]) -> None:
        """Write configuration, sources and pins; lists that are there stay."""
        for name in ("lists/partial", "cache/archives/partial", "parts", "preferences.d", "trusted"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / "status", "")
        write_whole(self.folder / "apt.conf", self._configuration())
        write_whole(self.folder / "sources.sources", "\n".join(map(self._source, self.archives)))
        write_whole(
            self.folder / "preferences",
            "".join(f"Package: {p.name}\nPin: version {p.version}\nPin-Priority: 1001\n\n" for p in pins),
        )

    def _configuration(self) -> str:
        settings = {
            "APT::Architecture": ARCHITECTURE,
            "APT::Architectures": ARCHITECTURE,
            "APT::Install-Recommends": "false",
            "APT::Update::Error-Mode": "any",
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "Acquire::http::Timeout": "30",
            "Dir::Cache": f"{self.folder}/cache",
            "Dir::Etc::main": "/dev/null",
            "Dir::Etc::parts": f"{self.folder}/parts",
            "Dir::Etc::preferences": f"{self.folder}/preferences",
            "Dir::Etc::preferencesparts": f"{self.folder}/preferences.d",
            "Dir::Etc::sourcelist": f"{self.folder}/sources.sources",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::trusted": "/dev/null",
            "Dir::Etc::trustedparts": f"{self.folder}/trusted",
            "Dir::State": str(self.folder),
            "Dir::State::lists": f"{self.folder}/lists",
            "Dir::State::status": f"{self.folder}/status",
            "Dir::Log": f"{self.folder}/log",
        }
        return "".join(f'{name} "{value}";\n' for name, value in settings.items())

    def _source(self, archive: Archive) -> str:
        suites = (
            archive.suite
            if archive.suite.endswith("-security")
            else f"{archive.suite} {archive.suite}-updates"
        )
        return (
            f"Types: deb\nURIs: {nearest(archive.uri)}\nSuites: {suites}\n"
            f"Components: {' '.join(archive.components)}\nSigned-By: {KEYRING}\n"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class DebianPart:
    """What a resolved Debian side consists of."""

    system: tuple[DebianPackage, ...]
    boot: tuple[DebianPackage, ...]
    guest_kernel: str


def resolve_system(root: AptRoot, *, previous: Collection[DebianPackage], observer: Observer) -> DebianPart:
    """Resolve guest system, guest kernel and initramfs tools; versions in `previous` are kept where still offered."""
    with hold(root.folder / "hold"):
        _refresh(root, previous)
        system = _install(root, ("?essential", *SYSTEM))
        kernel = _guest_kernel(root, previous)
        boot = _show(root, (kernel, *BOOT))
    _tell_moved(previous, (*system, *boot), observer)
    return DebianPart(system=system, boot=boot, guest_kernel=kernel)


def resolve_tools(
    root: AptRoot, *, previous: Collection[DebianPackage], observer: Observer
) -> tuple[DebianPackage, ...]:
    """Resolve the file system tools with every library they need, the C library included."""
    with hold(root.folder / "hold"):
        _refresh(root, previous)
        tools = _install(root, TOOLS)
    _tell_moved(previous, tools, observer)
    return tools


def _refresh(root: AptRoot, pins: Iterable[DebianPackage]) -> None:
    if not KEYRING.is_file():
        raise ProgramError(
            "the keys of the Debian archive are not on this host",
            details=f"{KEYRING} is missing",
            hint="sudo apt-get install debian-archive-keyring",
        )
    require_program("gpgv")
    root.lay_out(pins)
    done = run(["apt-get", "update"], env=root.env, check=False, timeout=300)
    if done.returncode != 0:
        raise _explained("the Debian archive cannot be used", done.stdout + done.stderr, signed=True)


def _install(root: AptRoot, names: Sequence[str]) -> tuple[DebianPackage, ...]:
    """Return what apt would install for `names` into an empty system."""
    done = run(
        ["apt-get", "install", "--yes", "--print-uris", *names], env=root.env, check=False, timeout=120
    )
    if done.returncode != 0:
        raise _explained("apt finds no set of Debian packages that fits", done.stdout + done.stderr)
    wanted = []
    for match in URI_LINE.finditer(done.stdout.decode()):
        name, version, _ = unquote(unquote(match["uri"].rsplit("/", 1)[1])).removesuffix(".deb").split("_")
        wanted.append((name, version))
    return _show(root, [f"{name}={version}" for name, version in _with_epochs(root, wanted)])


def _with_epochs(root: AptRoot, wanted: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Pool file names drop a version's epoch; put it back by asking for the candidates."""
    policy = run(
        ["apt-cache", "policy", *(name for name, _ in wanted)], env=root.env, timeout=60
    ).stdout.decode()
    candidates = dict(re.findall(r"^(\S+):\n  Installed: .*\n  Candidate: (\S+)", policy, re.MULTILINE))
    return [(name, candidates.get(name, version)) for name, version in wanted]


def _guest_kernel(root: AptRoot, previous: Collection[DebianPackage]) -> str:
    """Return the package that the guest kernel's meta package stands for; a kept one stays."""
    pattern = re.compile(r"linux-image-\d[^ ,|]*-cloud-amd64")
    for package in previous:
        if (
            pattern.fullmatch(package.name)
            and run(
                ["apt-cache", "show", f"{package.name}={package.version}"], env=root.env, check=False
            ).returncode
            == 0
        ):
            return package.name
    shown = run(
        ["apt-cache", "show", "--no-all-versions", GUEST_KERNEL], env=root.env, timeout=60
    ).stdout.decode()
    found = pattern.search(shown)
    if found is None:
        raise ResolveError(f"`{GUEST_KERNEL}` of {root.release} names no guest kernel")
    return found[0]


def _show(root: AptRoot, names: Sequence[str]) -> tuple[DebianPackage, ...]:
    """Return the packages as the signed lists describe them, sorted by name."""
    done = run(["apt-cache", "show", "--no-all-versions", *names], env=root.env, timeout=60)
    packages: dict[str, DebianPackage] = {}
    for stanza in done.stdout.decode().split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z0-9-]+): (.*)$", stanza, re.MULTILINE))
        if "Filename" in fields:
            packages.setdefault(fields["Package"], _package(root, fields))
    missing = {name.partition("=")[0] for name in names} - packages.keys()
    if missing:
        raise ResolveError(f"the Debian archive does not describe {', '.join(sorted(missing))}")
    return tuple(packages[name] for name in sorted(packages))


def _package(root: AptRoot, fields: dict[str, str]) -> DebianPackage:
    security = "pool/updates/" in fields["Filename"]
    return DebianPackage(
        name=fields["Package"],
        version=fields["Version"],
        architecture=fields["Architecture"],
        archive=f"{root.release}-security" if security else root.release,
        filename=fields["Filename"],
        size=int(fields["Size"]),
        sha256=fields["SHA256"],
    )


def _tell_moved(
    previous: Collection[DebianPackage], now: Iterable[DebianPackage], observer: Observer
) -> None:
    kept = {package.name: package.version for package in previous}
    for package in now:
        before = kept.get(package.name, package.version)
        if before != package.version:
            observer.note(f"`{package.name}` {before} has left the mirror; {package.version} is taken")


def _explained(message: str, output: bytes, *, signed: bool = False) -> ResolveError:
    """Return apt's own explanation, shortened to the lines that carry it."""
    lines = [line.strip() for line in output.decode(errors="replace").splitlines()]
    carrying = [line for line in lines if re.match(r"(E:|W:|Err|\S+ : (Depends|Conflicts|Breaks))", line)]
    hint = "check the network and MLVM_DEBIAN_MIRROR"
    if signed and any(word in output for word in (b"NO_PUBKEY", b"BADSIG", b"not signed", b"invalid")):
        hint = "the archive is not what its signature says: do not trust this mirror or this network"
    return ResolveError(message, details="\n".join((carrying or lines)[:12]), hint=hint)
