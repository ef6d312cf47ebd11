"""Add a box of a catalog, or of a file, and check more than Vagrant would.

Vagrant believes the catalog: whoever can write it, or stands on the way to it, says what the box is. Here each of these
is asked as well, where it is there: the project's lock (which pins what was published of it), the signature (where
`allowed_signers` lists who may sign), what was offered here before (a catalog that goes back is an old one given for
new), and that the catalog came by a way on which nobody could change it. Only then is the box handed on.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

from mlvm import files
from mlvm.box import catalog as catalogs
from mlvm.box.catalog import Catalog, Entry, version_key
from mlvm.box.parting import join
from mlvm.box.publish import provider_of
from mlvm.box.signatures import signer_of, statement, verify
from mlvm.download import Blobs, Wanted, fetch, read_url
from mlvm.errors import BoxError, DigestError, DownloadError
from mlvm.events import SILENT, Observer, stage
from mlvm.lock.document import BoxPin
from mlvm.paths import Home

#: Addresses that nobody else can answer for.
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Trust:
    """What is known where a box is added: the pins of the project's lock, who may sign, the lock's digest.

    `signers` is None where nobody is listed. With `insecure`, a signature that is missing or wrong is only told of.
    """

    pins: tuple[BoxPin, ...] = ()
    signers: Path | None = None
    lock: str = ""
    insecure: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """A box that may be had: its entry, and where its files are; `checks` say what was verified of it.

    `file` is there instead of files to fetch when the box is on this host already.
    """

    name: str
    entry: Entry
    checks: tuple[str, ...]
    source: str
    wanted: tuple[Wanted, ...] = ()
    file: Path | None = None


@dataclass
class Looking:
    """Looks at what is offered, and gathers what was verified; raises BoxError for what is refused."""

    trust: Trust
    home: Home
    observer: Observer = SILENT
    fingerprint: str | None = None
    checks: list[str] = field(default_factory=list)

    def catalog(self, source: str, *, version: str | None, provider: str | None) -> Offer:
        """Return the box that is meant of the catalog at `source`, a URL or a path."""
        url = source if "://" in source else Path(source).absolute().as_uri()
        if self.fingerprint and urlsplit(url).scheme != "https":
            raise BoxError("only https has a certificate", hint="https://..., or leave out `--fingerprint`")
        found = catalogs.loads(self._read(url), source)
        if self.fingerprint:
            self.checks.append("the server's certificate is the one you named")
        entry = self._choose(found, url, version, provider)
        signed = self._check_signature(found.name, entry)
        pinned = self._check_pin(found.name, entry)
        self._check_way(url, authentic=signed or pinned)
        self._check_lock(found.name, entry)
        return Offer(
            name=found.name,
            entry=entry,
            wanted=_wanted(found.name, entry, url),
            checks=(*self.checks, f"sha256 is what the catalog says: {entry.sha256}"),
            source=url,
        )

    def _read(self, url: str) -> bytes:
        try:
            return read_url(url, limit=catalogs.LARGEST, fingerprint=self.fingerprint)
        except DownloadError as failed:
            if "ingerprint" in failed.details:
                failed.hint = "somebody else may answer there: ask whoever serves it for the fingerprint"
            elif "certificate" in failed.details:
                failed.hint = "for `mlvm box serve`, add the `--fingerprint` that it shows"
            raise

    def file(self, box: Path, *, name: str | None, version: str | None) -> Offer:
        """Return what a box is that came as a file: nobody says anything of it but the project's lock."""
        if version:
            catalogs.checked(version, catalogs.VERSION, "version", "1.0.0")
        sha256 = files.sha256_of(box)
        provider = provider_of(box)
        pin = next((pin for pin in self.trust.pins if (pin.sha256, pin.provider) == (sha256, provider)), None)
        entry = Entry(
            version=version or (pin.version if pin else "0"),
            provider=provider,
            architecture=pin.architecture if pin else "amd64",
            sha256=sha256,
            size=box.stat().st_size,
        )
        name = name or (pin.name if pin else None)
        if name is None:
            raise BoxError("a file does not say what the box is called", hint="add `--name TEAM/NAME`")
        catalogs.checked(name, catalogs.NAME, "name of a box", "team/housing")
        self._check_signature(name, entry)
        self._check_pin(name, entry)
        return Offer(name=name, entry=entry, checks=tuple(self.checks), source=str(box), file=box.absolute())

    def _choose(self, found: Catalog, url: str, version: str | None, provider: str | None) -> Entry:
        pin = self._pin(found.name, provider)
        if pin is not None and version is not None and version_key(version) != version_key(pin.version):
            raise BoxError(
                f"the project's lock pins {pin.version} of `{found.name}`, not {version}",
                hint="ask for that one, or outside the project for another",
            )
        version = pin.version if pin else version
        provider = pin.provider if pin else provider
        fitting = [entry for entry in found.entries if provider in (None, entry.provider)]
        if version is None:
            numbers = [key for entry in fitting if (key := version_key(entry.version))]
            newest = max(numbers, default=None)
            fitting = [entry for entry in fitting if version_key(entry.version) == newest is not None]
        else:
            wanted = version_key(version) or version
            fitting = [entry for entry in fitting if entry.key[0] == wanted]
        if len({entry.provider for entry in fitting}) > 1:
            names = sorted({entry.provider for entry in fitting})
            raise BoxError(f"`{found.name}` is there for {', '.join(names)}", hint="add `--provider NAME`")
        if not fitting:
            there = [f"{one.version} for {one.provider} ({one.architecture})" for one in found.entries]
            raise BoxError(
                f"the catalog has no {version or 'version'} of `{found.name}`"
                + (f" for {provider}" if provider else ""),
                details="\n".join(there[-12:]) or "it has nothing with a SHA-256",
            )
        usual = [entry for entry in fitting if entry.architecture == "amd64"]
        entry = (usual or fitting)[0]
        if version is None:
            self._check_not_older(found.name, url, entry)
        return entry

    def _pin(self, name: str, provider: str | None) -> BoxPin | None:
        """Return what the lock pins of a box; without a provider, when it pins that for one only."""
        pins = [pin for pin in self.trust.pins if pin.name == name and provider in (None, pin.provider)]
        return pins[0] if len(pins) == 1 else None

    def _check_not_older(self, name: str, url: str, newest: Entry) -> None:
        noted = _noted(self.home, _notes(name, newest.provider, url))
        if noted is not None and (version_key(newest.version) or ()) < (version_key(noted) or ()):
            raise BoxError(
                f"the catalog of `{name}` has gone back: {noted} was its newest, and is not there any more",
                details="somebody may give an old catalog for the present one",
                hint="ask whoever publishes it; `--box-version VERSION` takes one that you name",
            )

    def _check_signature(self, name: str, entry: Entry) -> bool:
        """Verify the signature where somebody may sign; else tell whose it is, which is no proof of anything."""
        said = statement(name, entry)
        signers = self.trust.signers
        if signers is None:
            if entry.signature and (key := signer_of(said, entry.signature)):
                self.observer.note(f"signed by {key}, of whom nothing is known here (no allowed_signers)")
            return False
        try:
            who = verify(said, entry.signature, signers)
        except BoxError as refused:
            if not self.trust.insecure:
                raise
            self.observer.note(f"INSECURE, as you asked: {refused.message}; it may be anybody's")
            return False
        self.checks.append(f"signed by {who}")
        return True

    def _check_pin(self, name: str, entry: Entry) -> bool:
        pins = [pin for pin in self.trust.pins if pin.name == name]
        pin = next((pin for pin in pins if pin.provider == entry.provider), None)
        if pin is None:
            if self.trust.pins:
                self.observer.note(f"the project's lock pins no `{name}` for {entry.provider}, only others")
            return False
        # Vagrant's older versions do not look at the architecture: another one is another box in this one's place.
        found = (version_key(entry.version), entry.architecture, entry.sha256)
        if (version_key(pin.version), pin.architecture, pin.sha256) != found:
            raise DigestError(
                f"`{name}` for {entry.provider} is not what the project's lock says",
                details=f"lock:  {pin.version} {pin.architecture} sha256:{pin.sha256}\n"
                f"found: {entry.version} {entry.architecture} sha256:{entry.sha256}",
                hint="if it was published anew, get the new mlvm.lock; if not, do not trust this place",
            )
        self.checks.append(f"the project's lock pins {pin.version} by this sha256")
        return True

    def _check_way(self, url: str, *, authentic: bool) -> None:
        parts = urlsplit(url)
        if authentic or parts.scheme != "http" or parts.hostname in _LOOPBACK:
            return
        if not self.trust.insecure:
            raise BoxError(
                "anybody on the way can change a catalog that comes by plain http",
                details="neither a signature nor a lock says what the box must be",
                hint="https, or list who may sign in `allowed_signers`; `--insecure` goes on without",
            )
        self.observer.note("INSECURE, as you asked: the catalog came by plain http, and may be anybody's")

    def _check_lock(self, name: str, entry: Entry) -> None:
        if entry.lock and self.trust.lock:
            same = entry.lock == self.trust.lock
            if same:
                self.checks.append("it says that it was made from this project's lock")
            elif any(pin.name == name for pin in self.trust.pins):
                self.observer.note("the box says that it was made from another lock than this project's")


@contextmanager
def fetched(
    offer: Offer, *, home: Home, fingerprint: str | None = None, observer: Observer = SILENT
) -> Iterator[Path]:
    """Fetch what is offered, check its digests, and yield the box as one file, which may be gone after the block."""
    if offer.file is not None:
        yield offer.file
        return
    blobs = Blobs(home.store / "blobs")
    with files.hold(
        home.store / "holds" / "store",
        shared=True,
        waiting=lambda: observer.note("waiting: the store is being pruned"),
    ):
        fetch(offer.wanted, blobs, observer=observer, fingerprint=fingerprint)
        places = [blobs.path(wanted.sha256) for wanted in offer.wanted]
        if len(places) == 1:
            yield places[0]
        else:
            with tempfile.TemporaryDirectory(dir=home.store, prefix=files.TEMPORARY) as folder:
                whole = Path(folder) / "whole.box"
                with stage(observer, "pack", f"joining {len(places)} parts"):
                    join(places, whole, sha256=offer.entry.sha256)
                yield whole
    _note(home, offer)


def is_catalog(source: str) -> bool:
    """Tell whether `source` is a catalog (a URL, or a small file that begins like JSON) rather than a box."""
    if "://" in source and urlsplit(source).scheme != "file":
        return True
    path = Path(unquote(urlsplit(source).path)) if "://" in source else Path(source)
    try:
        with path.open("rb") as stream:
            return stream.read(1) == b"{"
    except OSError as broken:
        raise BoxError(f"`{source}` cannot be read: {broken.strerror}") from None


def _wanted(name: str, entry: Entry, url: str) -> tuple[Wanted, ...]:
    """Return the files to fetch, by their place beside the catalog where it says that, else by their own."""
    said_by = "the catalog"
    if not entry.parts:
        place = urljoin(url, entry.url)
        whole = f"{name} {entry.version}"
        return (Wanted(name=whole, urls=(place,), sha256=entry.sha256, size=entry.size, said_by=said_by),)
    return tuple(
        Wanted(
            name=part.path,
            urls=(urljoin(url, part.path),),
            sha256=part.sha256,
            size=part.size,
            said_by=said_by,
        )
        for part in entry.parts
    )


def _notes(name: str, provider: str, url: str) -> str:
    """Return the name of the note on what was taken of a box from a catalog."""
    return hashlib.sha256(f"{name} {provider} {url}".encode()).hexdigest()[:24]


def _noted(home: Home, note: str) -> str | None:
    """Return the newest version that was taken, or None."""
    try:
        found = json.loads((home.data / "boxes" / "newest" / f"{note}.json").read_text())["version"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


def _note(home: Home, offer: Offer) -> None:
    """Note the version that was taken, unless a newer one was before."""
    entry, note = offer.entry, _notes(offer.name, offer.entry.provider, offer.source)
    numbers = version_key(entry.version)
    if numbers is not None and numbers > (version_key(_noted(home, note) or "0") or ()):
        said = {
            "name": offer.name,
            "provider": entry.provider,
            "source": offer.source,
            "version": entry.version,
        }
        files.write_whole(home.data / "boxes" / "newest" / f"{note}.json", json.dumps(said) + "\n")
