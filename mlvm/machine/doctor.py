"""What machines need of this host, checked one by one, each with the one command that mends it.

Every check is a function of what it is given, so that tests can give it any host; `examine` gathers the facts
of this one. Nothing here changes the host. A check that fails itself is a failed check, never an exception.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from mlvm import process
from mlvm.errors import MlvmError
from mlvm.image.document import Artifact
from mlvm.lock.document import CudaRecord
from mlvm.machine import gpu, pci
from mlvm.machine.check import Check, Grade
from mlvm.machine.qemu import accelerator, cpu_share
from mlvm.machine.qemu.accelerator import Verdict
from mlvm.machine.qemu.host import QEMU, Accelerator, HostProbe, probe_host
from mlvm.machine.vagrant import domain
from mlvm.paths import SOCKET_PATH_LIMIT, Home
from mlvm.spec.document import GIB, MIB, MachineShape

#: Programs that must be there, and what for.
PROGRAMS: Mapping[str, str] = {
    QEMU: "runs machines",
    "qemu-img": "makes the disks of forked machines",
    "ssh": "opens a shell in one",
    "ssh-keygen": "makes the keys of one",
    "gpgv": "checks Debian's signatures",
}
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
#: Free space below which a build or a machine's disk will soon be in trouble.
CACHE_SPACE, DATA_SPACE = 4 * GIB, 4 * GIB
_LONGEST_SOCKET = "/agent-0.sock"
#: Twelve digits of a name's digest, as `Home.sockets` has it.
_FOLDER_LENGTH = 13


def examine(
    home: Home, *, vmlinuz: Artifact | None = None, cuda: CudaRecord | None = None, root: Path = pci.ROOT
) -> list[Check]:
    """Check this host. With a guest kernel at hand, KVM is tried with it; else only looked at.

    `cuda` is what a lock needs of the host; `root` is where its `sys`, `proc` and `dev` are.
    """
    checks = list(_guarded(_checks(home, vmlinuz)))
    try:
        return checks + gpu.examine(root, cuda=cuda)
    except OSError as error:
        return [*checks, Check(name="gpu", grade=Grade.FAIL, found=str(error))]


def _checks(home: Home, vmlinuz: Artifact | None) -> Iterator[tuple[str, Callable[[], Check]]]:
    for program, purpose in PROGRAMS.items():
        yield (
            program,
            lambda program=program, purpose=purpose: check_program(  # type: ignore[misc]
                program, purpose, process.find_program(program)
            ),
        )
    yield "qemu version", lambda: check_qemu(probe_host())
    yield "kvm device", lambda: check_kvm_device(accelerator.KVM)
    yield "accelerator", lambda: check_accelerator(_verdict(home, vmlinuz))
    yield "cpu shares", lambda: Check(name="cpu shares", grade=Grade.OK, found=cpu_share.how())
    yield "user namespaces", lambda: check_user_namespaces(Path("/proc/sys"), root=os.getuid() == 0)
    yield "memory", lambda: check_memory(_memory_available(Path("/proc/meminfo")), MachineShape().memory)
    yield "store space", lambda: check_space("store space", home.cache, _free(home.cache), CACHE_SPACE)
    yield "machine space", lambda: check_space("machine space", home.data, _free(home.data), DATA_SPACE)
    yield "vagrant", lambda: check_vagrant(process.find_program("vagrant"), domain.answers)
    yield "keyring", lambda: check_keyring(KEYRING)
    yield "socket paths", lambda: check_sockets(home.runtime)


def _guarded(checks: Iterator[tuple[str, Callable[[], Check]]]) -> Iterator[Check]:
    for name, check in checks:
        try:
            yield check()
        except MlvmError as error:
            yield Check(name=name, grade=Grade.FAIL, found=error.message, mend=error.hint)
        except OSError as error:
            yield Check(name=name, grade=Grade.FAIL, found=str(error))


def check_program(name: str, purpose: str, path: str | None) -> Check:
    """Tell whether a program is there."""
    if path is None:
        package = process.PACKAGES.get(name, name)
        mend = f"sudo apt-get install {package}"
        return Check(name=name, grade=Grade.FAIL, found=f"missing; it {purpose}", mend=mend)
    return Check(name=name, grade=Grade.OK, found=path)


def check_qemu(probe: HostProbe) -> Check:
    """Tell QEMU's version; `probe_host` raises when it is too old."""
    return Check(name="qemu version", grade=Grade.OK, found=probe.qemu_version)


def check_kvm_device(device: Path) -> Check:
    """Tell whether this user may use KVM at all."""
    name = "kvm device"
    if not device.exists():
        found = f"no {device}: machines are emulated, about ten times slower"
        return Check(
            name=name, grade=Grade.WARN, found=found, mend="sudo modprobe kvm_intel || sudo modprobe kvm_amd"
        )
    if not os.access(device, os.R_OK | os.W_OK):
        found = f"you may not use {device}"
        return Check(
            name=name, grade=Grade.WARN, found=found, mend="sudo usermod -aG kvm $USER  # then log in again"
        )
    return Check(name=name, grade=Grade.OK, found=str(device))


def check_accelerator(verdict: Verdict | None) -> Check:
    """Tell what runs the guest's instructions, and why."""
    name = "accelerator"
    if verdict is None:
        found = "not tried yet: there is no image whose guest kernel could be booted"
        return Check(name=name, grade=Grade.WARN, found=found, mend="mlvm build")
    grade = Grade.OK if verdict.accelerator is not Accelerator.TCG else Grade.WARN
    return Check(name=name, grade=grade, found=f"{verdict.accelerator}: {verdict.reason}")


def check_user_namespaces(sysctl: Path, *, root: bool) -> Check:
    """Tell whether an ordinary user may make namespaces; some build steps run in one."""
    name = "user namespaces"
    if root:
        return Check(name=name, grade=Grade.OK, found="not needed by root")
    for knob, bad, good in (
        ("kernel/unprivileged_userns_clone", "0", "1"),
        ("user/max_user_namespaces", "0", "10000"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
    ):
        key = knob.replace("/", ".")
        if (value := _read(sysctl / knob)) == bad:
            mend = f"sudo sysctl -w {key}={good}"
            return Check(name=name, grade=Grade.WARN, found=f"{key} is {value}", mend=mend)
    return Check(name=name, grade=Grade.OK, found="allowed")


def check_memory(available: int, wanted: int) -> Check:
    """Tell whether there is memory for one machine of the usual size."""
    found = f"{available / GIB:.1f} GiB available; a machine takes {wanted / GIB:.1f} GiB unless its spec says less"
    if available < wanted:
        mend = "put a smaller `machine: {memory: 1G}` in mlvm.yaml, or close something"
        return Check(name="memory", grade=Grade.WARN, found=found, mend=mend)
    return Check(name="memory", grade=Grade.OK, found=found)


def check_space(name: str, folder: Path, free: int, wanted: int) -> Check:
    """Tell whether there is room on the disk."""
    found = f"{free / GIB:.1f} GiB free for `{folder}`"
    if free < 256 * MIB:
        return Check(name=name, grade=Grade.FAIL, found=found, mend="mlvm prune")
    if free < wanted:
        return Check(name=name, grade=Grade.WARN, found=found, mend="mlvm prune")
    return Check(name=name, grade=Grade.OK, found=found)


def check_vagrant(path: str | None, libvirt_answers: Callable[[], bool]) -> Check:
    """Tell whether machines may be run by Vagrant; nothing else needs it."""
    name = "vagrant"
    if path is None:
        found = "not installed; only `mlvm up --provider vagrant` needs it"
        return Check(name=name, grade=Grade.OK, found=found)
    if not libvirt_answers():
        found = f"{path}; libvirt, its usual provider here, does not answer"
        return Check(name=name, grade=Grade.WARN, found=found, mend="sudo systemctl start libvirtd")
    return Check(name=name, grade=Grade.OK, found=f"{path}; libvirt answers")


def check_keyring(path: Path) -> Check:
    """Tell whether Debian's keys are there; without them no package list can be trusted."""
    if not path.is_file():
        mend = "sudo apt-get install debian-archive-keyring"
        return Check(name="keyring", grade=Grade.FAIL, found=f"no `{path}`", mend=mend)
    return Check(name="keyring", grade=Grade.OK, found=str(path))


def check_sockets(runtime: Path) -> Check:
    """Tell whether the path of a machine's sockets is short enough for the system."""
    length = len(os.fsencode(runtime)) + _FOLDER_LENGTH + len(_LONGEST_SOCKET)
    found = f"{length} of {SOCKET_PATH_LIMIT} bytes in `{runtime}`"
    if length > SOCKET_PATH_LIMIT:
        return Check(
            name="socket paths", grade=Grade.FAIL, found=found, mend="export XDG_RUNTIME_DIR=/run/user/$UID"
        )
    return Check(name="socket paths", grade=Grade.OK, found=found)


def _verdict(home: Home, vmlinuz: Artifact | None) -> Verdict | None:
    if missing := accelerator.obstacle(accelerator.KVM):
        return Verdict(accelerator=Accelerator.TCG, reason=missing)
    return None if vmlinuz is None else accelerator.choose(home, probe_host(), vmlinuz)


def _free(folder: Path) -> int:
    """Return the free bytes where `folder` is or would be made."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _memory_available(meminfo: Path) -> int:
    for line in _read(meminfo).splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
