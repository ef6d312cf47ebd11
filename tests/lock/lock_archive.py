"""A Debian archive of a few packages in a folder, signed with a key of its own: small, but real to apt.

Only lists, no .debs: resolving needs no more.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mlvm.lock import debian

Stanza = Mapping[str, str]


def stanza(name: str, version: str = "1.0-1", *, security: bool = False, **fields: str) -> Stanza:
    """A package of a list; `Depends="a, b"` and the like as keywords."""
    pool = "pool/updates" if security else "pool"
    return {
        "Package": name,
        "Version": version,
        "Architecture": "amd64",
        "Maintainer": "Nobody <nobody@example.org>",
        **{key.replace("_", "-"): value for key, value in fields.items()},
        "Filename": f"{pool}/main/{name[0]}/{name}/{name}_{version.rpartition(':')[2]}_amd64.deb",
        "Size": "1000",
        "SHA256": hashlib.sha256(f"{name} {version}".encode()).hexdigest(),
        "Description": f"{name} of a test",
    }


class SmallArchive:
    """The archive below `folder`: `folder/debian` and `folder/debian-security`; `keyring` is what to trust."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keyring = folder / "keyring.gpg"
        self.gnupg = folder / "gnupg"
        self.gnupg.mkdir(parents=True, mode=0o700)
        self.gpg("--passphrase", "", "--quick-generate-key", "test@example.org", "ed25519", "sign", "never")
        self.keyring.write_bytes(self.gpg("--export"))

    def gpg(self, *arguments: str, content: bytes = b"") -> bytes:
        command = ["gpg", "--homedir", str(self.gnupg), "--batch", "--quiet", *arguments]
        return subprocess.run(command, input=content, capture_output=True, check=True).stdout

    def close(self) -> None:
        """End the agent that gpg started for its folder."""
        subprocess.run(["gpgconf", "--homedir", str(self.gnupg), "--kill", "gpg-agent"], check=True)

    def offer(self, release: str, main: Sequence[Stanza], security: Sequence[Stanza] = ()) -> None:
        """Write all suites of a release anew."""
        self.write_suite("debian", release, main)
        self.write_suite("debian", f"{release}-updates", ())
        self.write_suite("debian-security", f"{release}-security", security)

    def write_suite(
        self, archive: str, suite: str, stanzas: Sequence[Stanza], *, made: datetime | None = None
    ) -> Path:
        """Write one suite and sign it; return its InRelease."""
        made = made or datetime.now(UTC)
        dists = self.folder / archive / "dists" / suite
        lists = dists / "main" / "binary-amd64"
        lists.mkdir(parents=True, exist_ok=True)
        text = "\n".join("".join(f"{key}: {value}\n" for key, value in each.items()) for each in stanzas)
        (lists / "Packages").write_text(text)
        digest = hashlib.sha256(text.encode()).hexdigest()
        form = "%a, %d %b %Y %H:%M:%S UTC"
        release = (
            f"Origin: Debian\nLabel: Debian\nSuite: {suite}\nCodename: {suite}\n"
            f"Date: {made.strftime(form)}\nValid-Until: {(made + timedelta(days=7)).strftime(form)}\n"
            "Architectures: amd64 all\nComponents: main\n"
            f"SHA256:\n {digest} {len(text)} main/binary-amd64/Packages\n"
        )
        (dists / "InRelease").write_bytes(self.gpg("--clearsign", content=release.encode()))
        return dists / "InRelease"


def guest(**versions: str) -> list[Stanza]:
    """What a guest is resolved from, each package at "1.0-1" unless said otherwise (`libc6="2.0-1"`)."""

    def of(name: str, **fields: str) -> Stanza:
        return stanza(name, versions.get(name.replace("-", "_"), "1.0-1"), **fields)

    plain = set(debian.SYSTEM) - {"systemd-sysv"} | set(debian.BOOT)
    return [
        of("base-files", Essential="yes", Depends="libc6"),
        of("libc6"),
        of("systemd-sysv", Depends="libsystemd0 (>= 1.0)", Recommends="nothing-of-the-kind"),
        of("libsystemd0", Depends="libc6"),
        *(of(name) for name in sorted(plain)),
        of("linux-image-cloud-amd64", Depends="linux-image-6.1.0-56-cloud-amd64 (= 6.1.174-1)"),
        stanza("linux-image-6.1.0-56-cloud-amd64", "6.1.174-1", Depends="initramfs-tools"),
        stanza("linux-image-6.1.0-56-amd64", "6.1.174-1", Depends="initramfs-tools"),
    ]
