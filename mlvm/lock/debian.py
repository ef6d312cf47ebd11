"""Resolve the Debian part of a lock with the host's apt, in an apt root of our own.

apt checks the archives' signatures and solves dependencies; it sees an empty system, our sources and nothing of the
host's settings or state, and needs no root. Its simulation names versions; sizes, digests and pool paths come from the
signed Packages lists, through `apt-cache show`. Kept versions are pins that win over everything newer.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mlvm.errors import ProgramError, ResolveError
from mlvm.events import Observer
from mlvm.files import hold, write_whole
from mlvm.lock.document import Archive, DebianPackage
from mlvm.lock.mirrors import nearest
from mlvm.process import find_program, run

ARCHITECTURE = "amd64"
KEYRINGS = tuple(Path(f"/usr/share/keyrings/debian-archive-keyring.{ending}") for ending in ("pgp", "gpg"))

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
#: What a release does not have.
MISSING = {"bullseye": frozenset({"usr-is-merged"})}
GUEST_KERNEL = "linux-image-cloud-amd64"
BOOT = ("busybox-static",)
#: mkfs.erofs reads tar files, and mke2fs is reproducible, only since this release; depmod comes along.
TOOLS_RELEASE = "trixie"
TOOLS = ("e2fsprogs", "erofs-utils", "kmod")
#: What boots a box where no QEMU loads the guest kernel: by BIOS and by UEFI.
BOX_TOOLS = ("grub-common", "grub-efi-amd64-bin", "grub-pc-bin")

#: Read by apt before anything else, so that the host's own settings are never seen.
SETTINGS = 'Dir::Etc::main "/dev/null";\nDir::Etc::parts "/dev/null";\n'
INSTALLED = re.compile(r"^Inst (?P<name>[^ :]+)(?::\S+)? \((?P<version>\S+) ", re.MULTILINE)
KERNEL_PACKAGE = re.compile(r"linux-image-\d[^ ,|]*-cloud-amd64")


@dataclass(frozen=True, kw_only=True, slots=True)
class AptRoot:
    """A private apt for the archives of one release: its lists and pins, in a folder that may be thrown away."""

    folder: Path
    release: str
    archives: tuple[Archive, ...]

    def update(self) -> None:
        """Fetch the archives' lists and check their signatures. Raises ProgramError, ResolveError."""
        if find_program("apt-get") is None:
            raise ProgramError(
                "`apt-get` is not installed",
                hint="lock on a Debian or Ubuntu host; building from a lock needs no apt",
            )
        for name in ("lists/partial", "cache/archives/partial"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / "status", "")
        write_whole(self.folder / "apt.conf", SETTINGS)
        keyring = _keyring()
        stanzas = [_source(archive, keyring) for archive in self.archives]
        write_whole(self.folder / "archives.sources", "\n".join(stanzas))
        self.pin(())
        self.ask(
            "apt-get", "update", failing=f"the archive of Debian {self.release} cannot be used", timeout=600
        )

    def pin(self, packages: Iterable[DebianPackage]) -> None:
        """Prefer these versions to all others, wherever they are offered."""
        stanzas = (f"Package: {p.name}\nPin: version {p.version}\nPin-Priority: 1001\n" for p in packages)
        write_whole(self.folder / "preferences", "\n".join(stanzas))

    def ask(self, program: str, *arguments: str, failing: str, timeout: float = 600) -> str:
        """Return what one of apt's programs answers on this root. Raises ResolveError `failing`, in apt's words."""
        options = [part for name, value in self._options().items() for part in ("-o", f"{name}={value}")]
        done = run(
            [program, *options, *arguments], env=_environment(self.folder), check=False, timeout=timeout
        )
        if done.returncode != 0:
            raise _explained(failing, done.stdout + done.stderr)
        return done.stdout.decode(errors="replace")

    def _options(self) -> Mapping[str, object]:
        """Everything apt would else take from the host. Arguments, since apt.conf has no quoting for any path."""
        return {
            "APT::Architecture": ARCHITECTURE,
            "APT::Architectures": ARCHITECTURE,
            "APT::Get::AllowUnauthenticated": "false",
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "root",  # as root, apt would else become a user who cannot enter our folders
            "APT::Update::Error-Mode": "any",  # an archive that does not answer is an error, not a warning
            "Acquire::AllowInsecureRepositories": "false",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "Acquire::http::Timeout": "30",
            "Acquire::https::Timeout": "30",
            **_ca_bundle(),
            "Debug::NoLocking": "true",  # we hold the folder ourselves
            "Dir::Cache": f"{self.folder}/cache",
            "Dir::Etc::preferences": f"{self.folder}/preferences",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::Etc::sourcelist": f"{self.folder}/archives.sources",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::trusted": "/dev/null",
            "Dir::Etc::trustedparts": "/dev/null",
            "Dir::Log": f"{self.folder}/log",
            "Dir::State": self.folder,
            "Dir::State::lists": f"{self.folder}/lists",
            "Dir::State::status": f"{self.folder}/status",
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class DebianPart:
    """What a resolved guest system consists of."""

    system: tuple[DebianPackage, ...]
    apt: tuple[DebianPackage, ...]
    boot: tuple[DebianPackage, ...]
    guest_kernel: str
    box_kernel: DebianPackage


def box_kernel_name(guest_kernel: str) -> str:
    """Return the package of the same guest kernel with drivers for every hypervisor's hardware."""
    return guest_kernel.replace("-cloud-", "-")


def resolve_system(
    root: AptRoot, *, previous: Collection[DebianPackage], observer: Observer, apt: Collection[str] = ()
) -> DebianPart:
    """Resolve guest system, guest kernel and initramfs tools; versions in `previous` are kept where still offered.

    `apt` are packages besides, "git" or "git=1:2.39.5-0+deb12u2"; they come on top of the system and change none of it.
    """
    with hold(root.folder / "hold"):
        root.update()
        names = [name for name in SYSTEM if name not in MISSING.get(root.release, ())]
        system = _install(root, ("?essential", *names), previous=previous, observer=observer)
        more = _besides(root, system, apt, previous=previous)
        kernel = _guest_kernel(root, previous)
        boot = _show(root, [kernel, *BOOT])
        (for_box,) = _show(root, [box_kernel_name(kernel)])
    _tell_moved(previous, (*system, *more, *boot, for_box), observer)
    return DebianPart(system=system, apt=more, boot=boot, guest_kernel=kernel, box_kernel=for_box)


def resolve_tools(
    root: AptRoot, *, previous: Collection[DebianPackage], observer: Observer
) -> tuple[tuple[DebianPackage, ...], tuple[DebianPackage, ...]]:
    """Resolve the file system tools, and those for boxes, with every library they need, the C library included."""
    with hold(root.folder / "hold"):
        root.update()
        tools = _install(root, TOOLS, previous=previous, observer=observer)
        for_box = _install(root, BOX_TOOLS, previous=(*previous, *tools), observer=observer)
    _tell_moved(previous, (*tools, *for_box), observer)
    return tools, for_box


def _install(
    root: AptRoot, names: Iterable[str], *, previous: Collection[DebianPackage], observer: Observer
) -> tuple[DebianPackage, ...]:
    """Return what apt would install for `names` into an empty system, keeping `previous` if that can be."""
    failing = f"apt finds no set of packages of Debian {root.release} that fits"
    root.pin(previous)
    try:
        answer = root.ask("apt-get", "install", "--simulate", *names, failing=failing)
    except ResolveError:
        if not previous:
            raise
        observer.note("the kept Debian packages and the moved ones do not fit together; all of them move")
        root.pin(())
        answer = root.ask("apt-get", "install", "--simulate", *names, failing=failing)
    return _show(root, [f"{match['name']}={match['version']}" for match in INSTALLED.finditer(answer)])


def _besides(
    root: AptRoot,
    system: tuple[DebianPackage, ...],
    apt: Collection[str],
    *,
    previous: Collection[DebianPackage],
) -> tuple[DebianPackage, ...]:
    """Return what apt would install for `apt` on top of the system. Raises ResolveError when that would change it."""
    if not apt:
        return ()
    names = {package.name for package in system}
    # What is written as NAME=VERSION wins over what an earlier lock had; the system's own versions over everything.
    chosen = {text.partition("=")[0] for text in apt if "=" in text} | names
    root.pin((*system, *(package for package in previous if package.name not in chosen)))
    failing = f"apt cannot install `{' '.join(apt)}` on top of the system"
    answer = root.ask(
        "apt-get", "install", "--simulate", "--no-remove", *(f"{p.name}={p.version}" for p in system), *apt,
        failing=failing,
    )  # fmt: skip
    found = {match["name"]: match["version"] for match in INSTALLED.finditer(answer)}
    more = [f"{name}={version}" for name, version in found.items() if name not in names]
    return _show(root, more) if more else ()


def _guest_kernel(root: AptRoot, previous: Collection[DebianPackage]) -> str:
    """Return the package that the guest kernel's meta package stands for; a kept one that is still offered stays."""
    for package in previous:
        if KERNEL_PACKAGE.fullmatch(package.name):
            with suppress(ResolveError):
                return _show(root, [f"{package.name}={package.version}"])[0].name
    failing = f"`{GUEST_KERNEL}` of Debian {root.release} names no guest kernel"
    found = KERNEL_PACKAGE.search(
        root.ask("apt-cache", "show", "--no-all-versions", GUEST_KERNEL, failing=failing)
    )
    if found is None:
        raise ResolveError(failing)
    return found[0]


def _show(root: AptRoot, names: Collection[str]) -> tuple[DebianPackage, ...]:
    """Return the packages as the signed lists describe them, sorted by name."""
    failing = f"the archive of Debian {root.release} does not describe what it offers"
    answer = root.ask("apt-cache", "show", "--no-all-versions", *names, failing=failing)
    packages: dict[str, DebianPackage] = {}
    for stanza in answer.split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z0-9-]+): (.*)$", stanza, re.MULTILINE))
        if "Filename" in fields:
            packages.setdefault(fields["Package"], _package(root, fields))
    if missing := {name.partition("=")[0] for name in names} - packages.keys():
        raise ResolveError(failing, details="missing: " + ", ".join(sorted(missing)))
    return tuple(packages[name] for name in sorted(packages))


def _package(root: AptRoot, fields: Mapping[str, str]) -> DebianPackage:
    security = fields["Filename"].startswith("pool/updates/")
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
    """Say which kept versions could not be kept: a mirror offers only the newest few of each package."""
    kept = {package.name: package.version for package in previous}
    for package in now:
        before = kept.get(package.name, package.version)
        if before != package.version:
            observer.note(
                f"`{package.name}` {before} could not be kept; {package.version} is what the mirror has"
            )


def _keyring() -> Path:
    """Return the keys of the Debian archive as the host's distribution ships them: the one anchor of trust."""
    for path in KEYRINGS:
        if path.is_file():
            return path
    raise ProgramError(
        "the keys of the Debian archive are not on this host",
        details=" and ".join(f"`{path}`" for path in KEYRINGS) + " are both missing",
        hint="sudo apt-get install debian-archive-keyring",
    )


def _source(archive: Archive, keyring: Path) -> str:
    suites = (
        archive.suite if archive.suite.endswith("-security") else f"{archive.suite} {archive.suite}-updates"
    )
    return (
        f"Types: deb\nURIs: {nearest(archive.uri)}\nSuites: {suites}\n"
        f"Components: {' '.join(archive.components)}\nSigned-By: {keyring}\n"
    )


def _environment(folder: Path) -> dict[str, str]:
    """The environment of apt: proxies (apt knows their lower-case names only), plain English, our settings."""
    proxies = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    return {
        **{name.lower(): value for name, value in proxies.items()},
        **proxies,
        "PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin",
        "LC_ALL": "C.UTF-8",
        "APT_CONFIG": f"{folder}/apt.conf",
    }


def _ca_bundle() -> dict[str, str]:
    """The certificates that the user's other programs trust, for mirrors behind https."""
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        if path := os.environ.get(name):
            return {"Acquire::https::CaInfo": path}
    return {}


#: What apt says, and what to do then; the first that fits counts.
HINTS = (
    (
        rb"NO_PUBKEY|Missing key",
        "the host's keys are too old for this release: upgrade `debian-archive-keyring`",
    ),
    (
        rb"not valid yet|is expired|has expired",
        "is the clock of this host right? else the mirror is out of date",
    ),
    (
        rb"BADSIG|NODATA|NOSPLIT|not signed|invalid|Bad signature|[Hh]ash.*mismatch|unexpected size",
        "the archive is not what its signature says: do not trust this mirror or this network",
    ),
    (
        rb"Unable to locate|unmet dependencies|has no installation candidate",
        "the mirror may be in the middle of an update: try again in an hour",
    ),
)


def _explained(message: str, output: bytes) -> ResolveError:
    """Return apt's own explanation, shortened to the lines that carry it."""
    lines = [line.strip() for line in output.decode(errors="replace").splitlines()]
    carrying = [
        line for line in lines if re.match(r"(E:|W:|Err:|\S+ : (Pre)?(Depends|Conflicts|Breaks):)", line)
    ]
    hints = (hint for pattern, hint in HINTS if re.search(pattern, output))
    return ResolveError(
        message,
        details="\n".join(dict.fromkeys(carrying or lines[-12:]))[:3000],
        hint=next(hints, "check the network, and MLVM_DEBIAN_MIRROR if it is set"),
    )
