"""Build an image: fetch what is missing, then make what is missing, offline.

Every artifact is made under a hold of its own, so two builds share the work: one makes, the other waits and says so.
Nothing here depends on who builds, where, or when; `mlvm.image.verify` holds that to be true.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from mlvm.download import Wanted, fetch
from mlvm.errors import BuildError
from mlvm.events import SILENT, Observer, stage
from mlvm.files import folder_whole, hold
from mlvm.image.document import BUILDER, LAYERS, Artifact, Image, Plan, Step
from mlvm.image.plan import deb_called, plan, tools_id, wheels
from mlvm.image.store import Store
from mlvm.image.tools import unpack_tools
from mlvm.lock.document import DebianPackage, Lock
from mlvm.lock.mirrors import wanted_debs, wanted_wheels
from mlvm.lock.text import dumps
from mlvm.paths import Home
from mlvm.process import run

#: The agent comes with mlvm itself and not from the lock: its digest is shown, not recorded.
NOT_RECORDED = frozenset({"agent"})
#: Longest first, so that no core waits for the other at the end.
ORDER = ("system", "python", "modules", "initramfs", "vmlinuz", "agent")


def build(lock: Lock, *, home: Home, observer: Observer = SILENT, workers: int = 0) -> Image:
    """Return the image of `lock`, made of what the store has and what is still to be made.

    `workers` steps run at once (0: as many as there are CPUs). Raises DownloadError, DigestError, BuildError.
    """
    store, planned = Store(home), plan(lock)
    with store.using():
        image = store.find_image(planned.image_id)
        if image is None:
            missing = [
                planned.step(name) for name in ORDER if store.find_artifact(planned.step(name).id) is None
            ]
            fetch(_wanted(lock, store, missing), store.blobs, observer=observer)
            with stage(observer, "build", lock.name) as outcome:
                _unpack_tools(lock, store)
                _make_all(lock, missing, store, observer=observer, workers=workers)
                image = _assemble(lock, planned, store)
                outcome.append(f"image {image.id[:12]}, {len(missing)} of {len(planned.steps)} parts made")
        check_record(lock, image)
        store.write_image(image, tools_id=tools_id(lock), blobs=_blobs(lock))
    return image


def check_record(lock: Lock, image: Image) -> None:
    """Compare the image's digests with those in the lock. Raises BuildError when one differs."""
    if lock.image is None or lock.image.builder != BUILDER:
        return
    digests = image.digests()
    wrong = [
        f"{name}: the lock says sha256:{wanted}, built was sha256:{digests.get(name)}"
        for name, wanted in lock.image.digests.items()
        if name not in NOT_RECORDED and digests.get(name) != wanted
    ]
    if wrong:
        raise BuildError(
            "the image is not the one that the lock describes",
            details="\n".join(wrong),
            hint="mlvm verify tells whether this host builds the same twice; if it does, the record is wrong",
        )


def recorded_digests(image: Image) -> dict[str, str]:
    """Return the digests that belong into a lock: of every part that the lock alone decides."""
    return {name: digest for name, digest in image.digests().items() if name not in NOT_RECORDED}


def _wanted(lock: Lock, store: Store, missing: Sequence[Step]) -> list[Wanted]:
    """Return the downloads that the missing steps need; the tools when anything is missing."""
    names = {step.name for step in missing}
    debs: list[DebianPackage] = []
    if not store.tools_folder(tools_id(lock)).is_dir():
        debs += lock.tools
    if "system" in names:
        debs += lock.system
    if names & {"modules", "initramfs", "vmlinuz"}:
        debs += lock.boot
    return [*wanted_debs(lock, debs), *(wanted_wheels(lock) if "python" in names else [])]


def _blobs(lock: Lock) -> list[str]:
    return [package.sha256 for package in lock.debs()] + [digest for _, digest in wheels(lock)]


def _unpack_tools(lock: Lock, store: Store) -> None:
    folder = store.tools_folder(tools_id(lock))
    if not folder.is_dir():
        with folder_whole(folder) as half:
            unpack_tools((store.blobs.path(package.sha256) for package in lock.tools), half)


def _make_all(lock: Lock, missing: Sequence[Step], store: Store, *, observer: Observer, workers: int) -> None:
    text = dumps(lock).encode()
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        jobs = {pool.submit(_make, step, text, store, observer): step for step in missing}
        try:
            for done, job in enumerate(as_completed(jobs), 1):
                job.result()
                observer.stage_progress("build", done, len(jobs), jobs[job].name)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _make(step: Step, lock_text: bytes, store: Store, observer: Observer) -> None:
    """Make one artifact in a process of its own, unless somebody else just did."""

    def waiting() -> None:
        observer.note(f"another build is making `{step.name}`; waiting for it")

    with hold(store.folder / "holds" / step.id, waiting=waiting):
        if store.find_artifact(step.id) is not None:
            return
        _clear_damaged(store.artifact_folder(step.id), step, observer)
        command = [
            sys.executable,
            "-I",
            "-c",
            _BOOTSTRAP,
            str(Path(__file__).parents[2]),
            str(store.folder),
            step.name,
        ]
        done = run(command, stdin=lock_text, check=False, env=_environment())
    if done.returncode != 0:
        raise _failure(step, done.returncode, done.stdout, done.stderr)


#: Runs the step with our own package first on the path, whatever environment this process was started in.
_BOOTSTRAP = (
    "import sys; root = sys.argv.pop(1); sys.path.insert(0, root); "
    "from mlvm.image.step import main; raise SystemExit(main())"
)


def _environment() -> dict[str, str]:
    return {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}


def _clear_damaged(folder: Path, step: Step, observer: Observer) -> None:
    if folder.exists():
        observer.note(f"`{step.name}` in the store is damaged; it is made anew")
        with folder_whole(folder.with_name(f".tmp-damaged-{os.getpid()}-{step.id}")) as grave:
            folder.rename(grave / "was")


def _failure(step: Step, code: int, said: bytes, complained: bytes) -> BuildError:
    try:
        known = json.loads(said)
        return BuildError(f"`{step.name}`: {known['message']}", details=known["details"], hint=known["hint"])
    except (ValueError, KeyError):
        words = complained.decode(errors="replace").strip().splitlines()[-12:]
        ended = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        return BuildError(f"making `{step.name}` {ended}", details="\n".join(words), hint="mlvm doctor")


def _assemble(lock: Lock, planned: Plan, store: Store) -> Image:
    parts: dict[str, Artifact] = {}
    for step in planned.steps:
        artifact = store.find_artifact(step.id)
        if artifact is None:
            raise BuildError(
                f"`{step.name}` vanished from the store while the image was built", hint="mlvm build"
            )
        parts[step.name] = artifact
    return Image(
        id=planned.image_id,
        name=lock.name,
        python=str(lock.inputs["python"]),
        debian=str(lock.inputs["debian"]),
        kernel_release=deb_called(lock, lock.guest_kernel).name.removeprefix("linux-image-"),
        layers=tuple(parts[name] for name in LAYERS),
        vmlinuz=parts["vmlinuz"],
        initramfs=parts["initramfs"],
        tools=store.tools_folder(tools_id(lock)),
    )
