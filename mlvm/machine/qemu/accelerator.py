"""Which accelerator to use, by proof.

A usable /dev/kvm is not enough: there are hosts (nested virtualisation, some clouds) where it opens, machines
are made, and no guest kernel gets past its first steps. So the real guest kernel is booted under KVM with a
guest that says one line (`probe_guest`), under a deadline. The verdict holds for this boot of the host, this
QEMU and this guest kernel; without proof the answer is TCG, and the reason is kept for `mlvm doctor`.
"""

from __future__ import annotations

import json
import os
import select
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from mlvm import process
from mlvm.errors import MlvmError
from mlvm.events import SILENT, Observer
from mlvm.files import hold, write_whole
from mlvm.image.document import Artifact
from mlvm.machine.qemu import probe_guest
from mlvm.machine.qemu.host import Accelerator, HostProbe
from mlvm.paths import Home

#: Seconds a guest under working KVM may take to its first program. It takes one; emulation takes two.
DEADLINE = 6.0
KVM = Path("/dev/kvm")


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The accelerator to use, and why, in words for a person."""

    accelerator: Accelerator
    reason: str


def choose(home: Home, host: HostProbe, vmlinuz: Artifact, *, observer: Observer = SILENT) -> Verdict:
    """Return the accelerator for this host and guest kernel, proving KVM once per boot of the host."""
    if missing := obstacle(KVM):
        return Verdict(accelerator=Accelerator.TCG, reason=missing)
    path = home.cache / "accelerator.json"
    key = verdict_key(host, vmlinuz)
    with hold(path.with_suffix(".hold")):
        if known := remembered(path, key):
            return known
        observer.note("trying whether KVM works on this host")
        verdict = prove_kvm(host, vmlinuz)
        write_whole(path, json.dumps({"key": key, **asdict(verdict)}) + "\n", mode=0o600)
    if verdict.accelerator is Accelerator.TCG:
        observer.note(f"machines are emulated, which is slow: {verdict.reason}")
    return verdict


def obstacle(device: Path) -> str | None:
    """Return why KVM need not be tried, or None."""
    if not device.exists():
        return f"this host has no {device}: no hardware virtualisation, or it is switched off in the firmware"
    if not os.access(device, os.R_OK | os.W_OK):
        return f"you may not use {device}; `sudo usermod -aG kvm $USER` lets you, after the next login"
    return None


def verdict_key(host: HostProbe, vmlinuz: Artifact) -> dict[str, str]:
    """Return what a verdict depends on."""
    return {"boot_id": host.boot_id, "qemu": host.qemu_version, "vmlinuz": vmlinuz.sha256}


def remembered(path: Path, key: dict[str, str]) -> Verdict | None:
    """Return the verdict kept at `path` if it is about `key`; whatever cannot be read is not there."""
    try:
        kept = json.loads(path.read_text())
        if kept["key"] == key:
            return Verdict(accelerator=Accelerator(kept["accelerator"]), reason=str(kept["reason"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None


def prove_kvm(host: HostProbe, vmlinuz: Artifact, *, seconds: float = DEADLINE) -> Verdict:
    """Boot the guest kernel under KVM and say what came of it."""
    try:
        took = boot(host, vmlinuz, Accelerator.KVM, seconds=seconds)
    except MlvmError as failed:
        return Verdict(accelerator=Accelerator.TCG, reason=f"{KVM} is there, but {failed.message}")
    return Verdict(accelerator=Accelerator.KVM, reason=f"a guest kernel booted under it in {took:.1f} s")


def boot(host: HostProbe, vmlinuz: Artifact, accelerator: Accelerator, *, seconds: float) -> float:
    """Boot the smallest guest and return after how many seconds it spoke.

    Raises MlvmError with what it did instead.
    """
    with tempfile.NamedTemporaryFile(prefix="mlvm-probe-", suffix=".cpio") as archive:
        archive.write(probe_guest.initramfs())
        archive.flush()
        began = time.monotonic()
        argv = probe_command(host, vmlinuz.path, Path(archive.name), accelerator)
        reading, writing = os.pipe()
        with (
            os.fdopen(reading, "rb", buffering=0) as output,
            os.fdopen(writing, "wb", buffering=0) as sink,
            process.spawn(argv, stdout=sink, stderr=sink),
        ):
            sink.close()  # ours; the end of QEMU's is the end of the output
            said = _read_until(output.fileno(), probe_guest.LINE.strip(), deadline=began + seconds)
        took = time.monotonic() - began
    if probe_guest.LINE.strip() in said:
        return took
    last = said.decode(errors="replace").strip().splitlines()[-3:]
    stopped = f"a guest kernel did not get as far as its first program in {seconds:.0f} s"
    raise MlvmError(stopped if took >= seconds else f"QEMU ended: {' / '.join(last) or 'it said nothing'}")


def probe_command(host: HostProbe, vmlinuz: Path, archive: Path, accelerator: Accelerator) -> list[str]:
    """Return the command line of the smallest machine."""
    return [
        *(host.qemu, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", "q35", "-accel", accelerator.value),
        *("-cpu", "host" if accelerator is Accelerator.KVM else "max", "-m", "256M"),
        *("-kernel", str(vmlinuz), "-initrd", str(archive)),
        *("-append", "console=ttyS0 panic=-1 loglevel=4"),
        *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
    ]


def _read_until(descriptor: int, wanted: bytes, *, deadline: float) -> bytes:
    """Return what comes out of `descriptor` until it holds `wanted`, ends, or `deadline` passes."""
    said = b""
    while wanted not in said and (left := deadline - time.monotonic()) > 0:
        if select.select([descriptor], [], [], left)[0]:
            data = os.read(descriptor, 4096)
            if not data:
                break
            said += data
    return said
