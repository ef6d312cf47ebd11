"""Hand a box that was verified to Vagrant, under its name and version.

Vagrant knows versions only from catalogs. So it gets one of our own, on this host, in which nothing stands but what was
verified here; and Vagrant checks the digest once more while it takes the box. It remembers that catalog, so its own
`vagrant box update` finds what `mlvm box add` has brought, and nothing that nobody has verified.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from mlvm import files
from mlvm.box import catalog as catalogs
from mlvm.box.add import Offer
from mlvm.box.catalog import path_of
from mlvm.box.publish import read
from mlvm.errors import BoxError, ProgramError
from mlvm.events import Observer, stage
from mlvm.paths import Home
from mlvm.process import find_program, run

_EXISTS = "BoxAlreadyExists"


def hand_to_vagrant(offer: Offer, box: Path, *, home: Home, observer: Observer, force: bool = False) -> Path:
    """Have Vagrant take the file `box`; return our catalog of what was verified.

    Nothing to do when Vagrant has the version and got it from here. Raises BoxError in Vagrant's words, ProgramError
    when there is no Vagrant.
    """
    if find_program("vagrant") is None:
        raise ProgramError(
            "`vagrant` is not installed",
            hint="install it, or `--output DIR` unpacks the box, checked, without",
        )
    document = home.data / "boxes" / path_of(offer.name)
    entry = offer.entry
    with files.hold(document.with_suffix(".hold")), stage(observer, "pack", f"to Vagrant: {offer.name}"):
        before = read(document, offer.name)
        known = before.find(entry)
        whole = catalogs.Entry(
            version=entry.version,
            provider=entry.provider,
            architecture=entry.architecture,
            sha256=entry.sha256,
            url=f"file://{quote(str(box))}",
        )
        files.write_whole(document, catalogs.dumps(before.with_entry(whole)))
        try:
            failure = _add(offer, document, force=force)
        except BaseException:
            _restore(document, before)
            raise
        if failure and not (failure[0] == _EXISTS and known is not None and known.sha256 == entry.sha256):
            _restore(document, before)
            raise _explained(offer, *failure)
        if failure:
            observer.note("Vagrant has this very box already")
    return document


def _add(offer: Offer, document: Path, *, force: bool) -> tuple[str, str] | None:
    """Run `vagrant box add`; return the class and words of its error, if any."""
    done = run(
        [
            *("vagrant", "--machine-readable", "box", "add", "--provider", offer.entry.provider),
            *("--box-version", offer.entry.version, *(["--force"] if force else [])),
            document.as_uri(),
        ],
        check=False,
    )
    if done.returncode == 0:
        return None
    for line in done.stdout.decode(errors="replace").splitlines():
        _, _, kind, *rest = [*line.split(",", 4), "", "", ""]
        if kind == "error-exit":
            words = rest[1].replace("%!(VAGRANT_COMMA)", ",").replace("\\n", "\n")
            return rest[0].rpartition("::")[2], words.strip()
    said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()[-8:]
    return "", "\n".join(said)


def _restore(document: Path, before: catalogs.Catalog) -> None:
    if before.entries:
        files.write_whole(document, catalogs.dumps(before))
    else:
        document.unlink(missing_ok=True)


def _explained(offer: Offer, kind: str, words: str) -> BoxError:
    if kind == _EXISTS:
        return BoxError(
            f"Vagrant has a {offer.entry.version} of `{offer.name}` for {offer.entry.provider} already",
            details="it did not come through `mlvm box add`, so nobody knows what it is",
            hint="`--force` puts the one that was verified in its place",
        )
    return BoxError("Vagrant did not take the box", details=words)
