"""`mlvm box publish`, `serve`, `add`: boxes for teammates, and from them."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from mlvm import files
from mlvm.box.add import Looking, Offer, Trust, fetched, is_catalog
from mlvm.box.parting import PART_SIZE
from mlvm.box.publish import Published
from mlvm.box.publish import publish as publish_box
from mlvm.box.signatures import SIGNERS
from mlvm.cli.parser import Arguments
from mlvm.cli.shared import observing
from mlvm.errors import BoxError, SpecError
from mlvm.events import Observer
from mlvm.lock.document import BoxPin, Lock
from mlvm.lock.text import digest_of, dumps
from mlvm.paths import LOCK_NAME, Home
from mlvm.project import Project
from mlvm.terminal import printable, size


def publish(arguments: Arguments) -> int:
    """Publish a project's boxes, or one box."""
    what = Path(arguments.what)
    if what.is_dir() or ("/" not in arguments.what and not what.exists()):
        return _publish_project(arguments)
    for option in ("provider", "record"):
        if getattr(arguments, option):
            raise BoxError(
                f"`--{option}` is for a project; a file is what it is", hint=f"leave `--{option}` out"
            )
    with observing(_progress(arguments)) as observer:
        done = _publish(what, _name_of(what, arguments), arguments, observer)
    _say([done], arguments)
    return 0


def _publish_project(arguments: Arguments) -> int:
    """Make each box that is asked for from the project's lock, beside the catalog, and publish it."""
    target = (
        arguments.what
        if "/" in arguments.what or not Path(arguments.what).is_dir()
        else f"./{arguments.what}"
    )
    project = Project.find(target, Path.cwd(), home=Home.find())
    catalog = Path(arguments.catalog)
    done = []
    with observing(_progress(arguments)) as observer:
        lock = project.fresh_lock(frozen=arguments.frozen, observer=observer)
        name = arguments.name or f"mlvm/{lock.name}"
        catalog.mkdir(parents=True, exist_ok=True)
        for provider in arguments.provider or ["libvirt"]:
            with tempfile.TemporaryDirectory(dir=catalog, prefix=files.TEMPORARY) as folder:
                box = Path(folder) / f"{provider}.box"
                project.export_box(provider, output=box, frozen=True, observer=observer)
                done.append(_publish(box, name, arguments, observer, lock=digest_of(lock)))
    if arguments.record:
        _record(project, lock, done)
    _say(done, arguments)
    return 0


def _progress(arguments: Arguments) -> str:
    """Return how to show progress: never by drawing over ssh-keygen, which asks for a passphrase on the terminal."""
    return "plain" if arguments.sign and arguments.progress == "auto" else str(arguments.progress)


def _publish(box: Path, name: str, arguments: Arguments, observer: Observer, *, lock: str = "") -> Published:
    return publish_box(
        box,
        catalog=Path(arguments.catalog),
        name=name,
        version=arguments.box_version,
        url=arguments.url,
        lock=lock,
        key=Path(arguments.sign).expanduser() if arguments.sign else None,
        part_size=arguments.part_size or PART_SIZE,
        observer=observer,
    )


def _name_of(box: Path, arguments: Arguments) -> str:
    """Return what was asked for, else what `mlvm box export` calls its files after."""
    if arguments.name:
        return str(arguments.name)
    name, dash, _ = box.stem.rpartition("-")
    if not dash:
        raise BoxError(f"what is `{box.name}` to be called?", hint="add `--name TEAM/NAME`")
    return f"mlvm/{name}"


def _record(project: Project, lock: Lock, done: list[Published]) -> None:
    """Pin what was published in the project's lock; what it pinned of the same boxes before goes."""
    new = [
        BoxPin(
            name=one.name,
            version=one.entry.version,
            provider=one.entry.provider,
            architecture=one.entry.architecture,
            sha256=one.entry.sha256,
        )
        for one in done
    ]
    taken = {(pin.name, pin.provider, pin.architecture) for pin in new}
    kept = [pin for pin in lock.published if (pin.name, pin.provider, pin.architecture) not in taken]
    pins = sorted((*kept, *new), key=lambda pin: (pin.name, pin.provider, pin.architecture))
    files.write_whole(project.lock_path, dumps(replace(lock, published=tuple(pins))))


def _say(done: list[Published], arguments: Arguments) -> None:
    if arguments.json:
        rows = [
            {
                "catalog": str(one.document),
                "name": one.name,
                "version": one.entry.version,
                "provider": one.entry.provider,
                "sha256": one.entry.sha256,
                "size": one.entry.size,
                "parts": len(one.entry.parts),
                "signed": bool(one.entry.signature),
                "new": one.new,
            }
            for one in done
        ]
        print(json.dumps(rows, indent=1))
        return
    for one in done:
        entry = one.entry
        how = "" if one.new else ", was published already"
        print(f"{one.name} {entry.version} for {entry.provider}: {size(entry.size or 0)}{how}")
        print(f"sha256:{entry.sha256}")
        print("signed" if entry.signature else "not signed (`--sign KEY` does)")
        if len(entry.parts) > 1:
            print(
                f"{len(entry.parts)} parts: `mlvm box add` joins them, and `mlvm box serve` gives them whole; "
                "Vagrant alone cannot get this one from a web host"
            )
        print(f"catalog: {one.document}" + (f", for Vagrant at {_told(entry.url)}" if entry.url else ""))
    if arguments.record:
        print(f"pinned in {LOCK_NAME}: commit it")


def _told(url: str) -> str:
    return url.rsplit("/", 3)[0]


def serve(arguments: Arguments) -> int:
    """Serve until somebody ends it."""
    from mlvm.box.certificate import own_certificate
    from mlvm.box.serve import make_server

    folder = Path(arguments.path)
    certificate = own_certificate(Home.find(), arguments.address)
    with make_server(
        folder, address=arguments.address, port=arguments.port, certificate=certificate
    ) as server:
        port = server.server_address[1]
        shown = {"0.0.0.0": "THIS-HOST", "::": "THIS-HOST"}.get(arguments.address, arguments.address)  # noqa: S104
        shown = f"[{shown}]" if ":" in shown else shown
        base = f"https://{shown}:{port}"
        if not server.is_local:
            print(
                f"NOTE: everybody who can reach {arguments.address}:{port} can get all boxes in `{folder}`",
                file=sys.stderr,
            )
        print(f"fingerprint sha256:{certificate.fingerprint}")
        for name in server.shelf.names():
            print(f"mlvm box add {base}/{name}.json --fingerprint sha256:{certificate.fingerprint}")
            print(f"vagrant box add --cacert {certificate.certificate} {base}/{name}.json")
        print("serving; Ctrl-C ends it", flush=True)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        # `main` lets a closed pipe end us; here that is a client that hung up, which ends nothing but its connection.
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return 0
    return 0


def add(arguments: Arguments) -> int:
    """Check a box and hand it on."""
    from mlvm.box.certificate import checked_fingerprint

    home = Home.find()
    fingerprint = checked_fingerprint(arguments.fingerprint) if arguments.fingerprint else None
    with observing(arguments.progress) as observer:
        trust, where = _trust(arguments, home)
        if where:
            observer.note(f"in project {where}")
        looking = Looking(trust=trust, home=home, observer=observer, fingerprint=fingerprint)
        if is_catalog(arguments.source):
            if arguments.name:
                raise BoxError("a catalog says itself what the box is called", hint="leave `--name` out")
            offer = looking.catalog(
                arguments.source, version=arguments.box_version, provider=arguments.provider
            )
        else:
            box = Path(arguments.source)
            offer = looking.file(box, name=arguments.name, version=arguments.box_version)
        with fetched(offer, home=home, fingerprint=fingerprint, observer=observer) as box:
            place = _hand_on(offer, box, arguments, home, observer)
    _say_added(offer, place, arguments)
    return 0


def _trust(arguments: Arguments, home: Home) -> tuple[Trust, Path | None]:
    """Return what the project here knows, and its folder; outside of one, what was said."""
    try:
        project = Project.find(None, Path.cwd(), home=home)
    except SpecError:
        project = None
    lock = project.lock() if project else None
    signers = project.folder / SIGNERS if project else None
    if arguments.signers:
        signers = Path(arguments.signers)
        if not signers.is_file():
            raise BoxError(f"there is no `{signers}`", hint="it lists who may sign: see ssh-keygen(1)")
    elif signers is not None and not signers.exists():
        signers = None
    trust = Trust(
        pins=lock.published if lock else (),
        signers=signers,
        lock=digest_of(lock) if lock else "",
        insecure=arguments.insecure,
    )
    return trust, project.folder if project else None


def _hand_on(offer: Offer, box: Path, arguments: Arguments, home: Home, observer: Observer) -> str:
    """Give the box to Vagrant, or unpack it where that was asked for; return where it is now."""
    if not arguments.output:
        from mlvm.box.handing import hand_to_vagrant

        hand_to_vagrant(offer, box, home=home, observer=observer, force=arguments.force)
        return "vagrant"
    from mlvm.box.foreign import take

    return str(take(box, Path(arguments.output).absolute()).folder)


def _say_added(offer: Offer, place: str, arguments: Arguments) -> None:
    entry = offer.entry
    if arguments.json:
        document = {
            "name": offer.name,
            "version": entry.version,
            "provider": entry.provider,
            "sha256": entry.sha256,
            "checks": list(offer.checks),
            "place": place,
        }
        print(json.dumps(document))
        return
    for check in offer.checks:
        print(printable(f"checked: {check}"))
    print(
        f"{offer.name} {entry.version} for {entry.provider}: "
        + ("Vagrant has it" if place == "vagrant" else place)
    )
