"""Each way in which Vagrant is known to fail has words of ours and a next command; outputs are recorded (`data/`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlvm.errors import MachineError, MlvmError, ProgramError, StageTimeout
from mlvm.machine.vagrant import reasons, said

DATA = Path(__file__).parent / "data"


def explained(found: said.Failure) -> MlvmError:
    return reasons.explained(found, name="lab", hypervisor="libvirt", verb="up")


def recorded(name: str) -> MlvmError:
    return explained(said.failure((DATA / f"{name}.txt").read_text().splitlines()))


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        (
            "no_provider",
            "Vagrant has no provider `libvirt`",
            "sudo apt-get install vagrant-libvirt, or vagrant plugin install vagrant-libvirt",
        ),
        (
            "unusable_provider",
            "Vagrant cannot use `libvirt` on this host",
            "install it, or choose another: `mlvm up --provider vagrant:libvirt`",
        ),
        (
            "no_box",
            "Vagrant has lost the box of machine `lab`",
            "mlvm up --provider vagrant, which exports it again",
        ),
        (
            "locked",
            "another Vagrant works on machine `lab` just now",
            "wait for its end, then again: `ps -C vagrant` shows it",
        ),
        (
            "interrupted",
            "Vagrant was interrupted, and has removed what it had begun of machine `lab`",
            "mlvm up --name lab",
        ),
        (
            "no_libvirt",
            "libvirt does not answer",
            "sudo systemctl start libvirtd; are you in the group `libvirt`?",
        ),
        (
            "no_ruby",
            "the Vagrantfile of machine `lab` cannot be read",
            "mlvm up --provider vagrant, which writes it anew",
        ),
    ],
)
def test_a_failure_is_explained(name: str, message: str, hint: str) -> None:
    found = recorded(name)
    assert (found.message, found.hint) == (message, hint)


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in DATA.glob("*.txt") if "dominfo" not in path.name)
)
def test_vagrant_s_own_words_are_kept(name: str) -> None:
    assert recorded(name).details


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Errno::ENOSPC: No space left on device @ io_write", "the disk is full"),
        ("An error occurred while downloading: Failure writing output to destination", "the disk is full"),
        (
            "Name `x` of domain about to create is already taken. Please try to run",
            "something of a former machine",
        ),
        ("Volume for domain is already created. Please run", "something of a former machine"),
        (
            "Timed out while waiting for the machine to boot. This means",
            "machine `lab` did not answer by ssh",
        ),
        ("Vagrant cannot forward the specified ports on this VM", "a port of this host that machine `lab`"),
        ("cannot set up guest memory 'pc.ram': Cannot allocate memory", "this host has not enough memory"),
    ],
)
def test_a_text_without_a_class_is_explained(text: str, message: str) -> None:
    assert explained(said.Failure(kind="", text=text)).message.startswith(message)


def test_what_nobody_has_seen_yet_is_shown_as_it_is() -> None:
    found = explained(said.Failure(kind="", text="the moon is full"))
    assert (found.message, found.details) == ("`vagrant up` failed for machine `lab`", "the moon is full")


def test_an_empty_reason_is_said_to_be_one() -> None:
    assert explained(said.Failure(kind="", text="")).details == "it gave no reason"


def test_a_boot_that_takes_too_long_is_a_time_out() -> None:
    assert isinstance(explained(said.Failure(kind="Vagrant::Errors::VMBootTimeout", text="x")), StageTimeout)


def test_an_error_s_words_are_all_filled_in() -> None:
    for reason in reasons.REASONS:
        found = explained(said.Failure(kind=reason.kind.split("|")[0].replace("\\w*", "X"), text=reason.text))
        assert "{" not in found.message + found.hint.replace("{memory: 1 GiB}", "")


@pytest.mark.parametrize("version", ["2.3", "2.3.4", "2.4.9.dev", "3.0"])
def test_a_version_that_will_do(version: str) -> None:
    reasons.check_version(version)


@pytest.mark.parametrize("version", ["", "2.2.19", "1.9", "unknown"])
def test_an_old_version_is_refused(version: str) -> None:
    with pytest.raises(ProgramError, match=r"is too old: 2\.3 is needed"):
        reasons.check_version(version)


def test_every_kind_is_an_error_of_a_machine_or_a_program() -> None:
    assert {reason.error for reason in reasons.REASONS} <= {MachineError, ProgramError, StageTimeout}
