"""The doctor's checks with hosts of our choosing, and on this one."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlvm.errors import ProgramError
from mlvm.machine import doctor
from mlvm.machine.doctor import Check, Grade
from mlvm.machine.qemu.accelerator import Verdict
from mlvm.machine.qemu.host import Accelerator
from mlvm.paths import Home
from mlvm.spec.document import GIB


def test_a_missing_program_names_its_package() -> None:
    assert doctor.check_program("ssh-keygen", "makes the keys of one", None) == Check(
        name="ssh-keygen",
        grade=Grade.FAIL,
        found="missing; it makes the keys of one",
        mend="sudo apt-get install openssh-client",
    )


def test_a_program_that_is_there() -> None:
    assert doctor.check_program("ssh", "", "/usr/bin/ssh") == Check(
        name="ssh", grade=Grade.OK, found="/usr/bin/ssh"
    )


def test_no_kvm_is_a_warning(tmp_path: Path) -> None:
    check = doctor.check_kvm_device(tmp_path / "kvm")

    assert check.grade is Grade.WARN
    assert check.mend == "sudo modprobe kvm_intel || sudo modprobe kvm_amd"


def test_a_verdict_carries_its_reason() -> None:
    verdict = Verdict(accelerator=Accelerator.TCG, reason="/dev/kvm is there, but no guest kernel boots")

    assert doctor.check_accelerator(verdict) == Check(
        name="accelerator", grade=Grade.WARN, found="tcg: /dev/kvm is there, but no guest kernel boots"
    )


@pytest.mark.parametrize(
    ("knob", "value", "mend"),
    [
        ("kernel/unprivileged_userns_clone", "0", "sudo sysctl -w kernel.unprivileged_userns_clone=1"),
        ("user/max_user_namespaces", "0", "sudo sysctl -w user.max_user_namespaces=10000"),
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ],
)
def test_user_namespaces_switched_off(tmp_path: Path, knob: str, value: str, mend: str) -> None:
    (tmp_path / knob).parent.mkdir()
    (tmp_path / knob).write_text(value + "\n")

    assert doctor.check_user_namespaces(tmp_path, root=False).mend == mend
    assert doctor.check_user_namespaces(tmp_path, root=True).grade is Grade.OK


def test_user_namespaces_allowed(tmp_path: Path) -> None:
    assert doctor.check_user_namespaces(tmp_path, root=False).grade is Grade.OK


def test_too_little_memory_for_one_machine() -> None:
    check = doctor.check_memory(GIB, 2 * GIB)

    assert check.grade is Grade.WARN
    assert check.found == "1.0 GiB available; a machine takes 2.0 GiB unless its spec says less"


@pytest.mark.parametrize(("free", "grade"), [(0, Grade.FAIL), (GIB, Grade.WARN), (9 * GIB, Grade.OK)])
def test_space(free: int, grade: Grade) -> None:
    assert doctor.check_space("store space", Path("/cache"), free, 4 * GIB).grade is grade


def test_a_runtime_folder_that_is_too_deep() -> None:
    assert doctor.check_sockets(Path("/tmp/mlvm-1000-12345678")).grade is Grade.OK
    assert doctor.check_sockets(Path("/" + "x" * 80)).grade is Grade.FAIL


def test_a_check_that_fails_itself_is_a_failed_check() -> None:
    def broken() -> Check:
        raise ProgramError(
            "`qemu-system-x86_64` is not installed", hint="sudo apt-get install qemu-system-x86"
        )

    assert list(doctor._guarded(iter([("qemu version", broken)]))) == [
        Check(
            name="qemu version",
            grade=Grade.FAIL,
            found="`qemu-system-x86_64` is not installed",
            mend="sudo apt-get install qemu-system-x86",
        )
    ]


@pytest.mark.boot
def test_this_host_is_examined(home: Home) -> None:
    checks = {check.name: check for check in doctor.examine(home)}

    assert checks["qemu-system-x86_64"].grade is Grade.OK
    assert checks["memory"].found.endswith("unless its spec says less")
    assert not home.data.exists()
