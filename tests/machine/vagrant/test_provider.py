"""The provider without a machine: what is refused, and what Vagrant itself (which starts in a second) says of it."""

from __future__ import annotations

import _thread
import threading
import time
from pathlib import Path

import pytest
from fakes import TapeObserver

from mlvm import files
from mlvm.errors import MachineError, ProgramError
from mlvm.events import SILENT
from mlvm.machine import record as records
from mlvm.machine import table
from mlvm.machine.provider import Limits, State
from mlvm.machine.record import Record
from mlvm.machine.vagrant import domain, layout, mending, provider
from mlvm.machine.vagrant.progress import Stages
from mlvm.machine.vagrant.provider import Driven, VagrantProvider
from mlvm.paths import Home

DATA = Path(__file__).parent / "data"


@pytest.fixture
def record(home: Home) -> Record:
    record = Record(name="lab", provider="vagrant", image_id="0" * 64, project="/x", home=home)
    record.folder.mkdir(parents=True)
    records.save(record)
    return record


def test_it_is_found_by_its_name(record: Record) -> None:
    assert isinstance(table.provider_for(record, warm=False), VagrantProvider)


def test_vagrant_s_own_provider_may_follow_a_colon(home: Home) -> None:
    record = Record(name="lab", provider="vagrant:virtualbox", image_id="0" * 64, project="/x", home=home)
    assert isinstance(table.provider_for(record), VagrantProvider)
    assert layout.hypervisor(record) == "virtualbox"


@pytest.mark.parametrize("wanted", [None, "vagrant", "vagrant:virtualbox"])
def test_a_machine_may_be_asked_for_by_its_provider(home: Home, wanted: str | None) -> None:
    record = Record(name="lab", provider="vagrant:virtualbox", image_id="0" * 64, project="/x", home=home)
    table.check_same(record, wanted)


@pytest.mark.parametrize("wanted", ["qemu", "vagrant:libvirt"])
def test_a_machine_stays_with_its_provider(home: Home, wanted: str) -> None:
    record = Record(name="lab", provider="vagrant:virtualbox", image_id="0" * 64, project="/x", home=home)
    with pytest.raises(MachineError) as caught:
        table.check_same(record, wanted)
    assert caught.value.message == "machine `lab` is run by `vagrant:virtualbox`, and stays so"


def test_a_machine_without_a_vagrantfile_says_what_makes_one(record: Record) -> None:
    with pytest.raises(MachineError) as caught:
        VagrantProvider().start(record, None, observer=SILENT)  # type: ignore[arg-type]
    assert caught.value.hint == "mlvm up --provider vagrant"


def test_a_machine_that_was_never_started_is_destroyed_without_vagrant(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    VagrantProvider().destroy(record, observer=SILENT)
    assert VagrantProvider().state(record).state is State.ABSENT


def test_a_missing_vagrant_is_said_with_what_installs_it(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlvm.process.find_program", lambda _: None)
    with pytest.raises(ProgramError) as caught:
        Driven(record, SILENT).status()
    assert (caught.value.message, caught.value.hint) == (
        "`vagrant` is not installed",
        "sudo apt-get install vagrant vagrant-libvirt",
    )


def test_forks_and_limits_are_refused(record: Record) -> None:
    with pytest.raises(MachineError, match="Vagrant, which runs machine `lab`, cannot fork a machine"):
        VagrantProvider().fork(record, None, [], observer=SILENT)  # type: ignore[arg-type]
    with pytest.raises(MachineError, match="cannot change the limits of a running machine"):
        VagrantProvider().limit(record, Limits(cpu_weight=1), observer=SILENT)


@pytest.mark.parametrize("verb", ["guest", "suspend", "snapshot", "ssh_command"])
def test_what_needs_a_running_machine_says_that_it_is_stopped(record: Record, verb: str) -> None:
    more = {"suspend": {"observer": SILENT}, "snapshot": {"name": "x", "observer": SILENT}}.get(verb, {})
    with pytest.raises(MachineError, match="machine `lab`: it is stopped"):
        getattr(VagrantProvider(), verb)(record, **more)


def test_ports_of_a_machine_that_is_gone_are_taken_back_silently(record: Record) -> None:
    VagrantProvider().unforward(record, {"a": 1})


def test_a_person_s_own_settings_do_not_lead_vagrant_astray(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAGRANT_CWD", "/elsewhere")
    monkeypatch.setenv("VAGRANT_DEFAULT_PROVIDER", "docker")
    driven = Driven(record, SILENT)
    assert driven.env is not None
    assert "VAGRANT_CWD" not in driven.env
    assert driven.env["VAGRANT_DEFAULT_PROVIDER"] == "libvirt"


def test_vagrant_s_words_become_stages() -> None:
    tape = TapeObserver()
    entered: list[str] = []
    stages = Stages(tape, entered.append)
    for line in (DATA / "up.log").read_text().splitlines():
        stages.hear(line)
    assert tape.stages == entered == ["box", "firmware", "guest kernel"]
    assert tape.notes == []


def test_machines_begin_and_end_one_after_the_other(record: Record) -> None:
    with (
        mending.hold_common(record, SILENT),
        pytest.raises(BlockingIOError),
        files.hold(record.home.machines / ".holds" / ".vagrant", wait=False),
    ):
        pass


def test_disks_go_to_the_pool_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert domain.pool() == "default"
    monkeypatch.setenv("MLVM_LIBVIRT_POOL", "large")
    assert domain.pool() == "large"


@pytest.mark.vagrant
class TestWithVagrant:
    """Vagrant itself, which boots nothing here."""

    @pytest.fixture(autouse=True)
    def own_home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("VAGRANT_HOME", str(tmp_path / "vagrant"))

    def test_a_machine_that_is_not_there_is_told_by_its_word(self, record: Record) -> None:
        mending.prepare(record, 'Vagrant.configure("2") { |c| c.vm.box = "x" }\n', box="x", digest="")
        virtualbox = Record(
            **{**{f: getattr(record, f) for f in record.__slots__}, "provider": "vagrant:qemu"}
        )
        with pytest.raises(ProgramError, match="Vagrant has no provider `qemu`"):
            Driven(virtualbox, SILENT).state_word()

    def test_a_vagrantfile_that_is_no_ruby_is_explained(self, record: Record) -> None:
        mending.prepare(record, "this is ( no ruby", box="x", digest="")
        with pytest.raises(MachineError, match="the Vagrantfile of machine `lab` cannot be read"):
            Driven(record, SILENT).up(provider="libvirt")

    def test_a_box_that_is_not_what_was_exported_is_refused(self, record: Record) -> None:
        mending.prepare(record, 'Vagrant.configure("2") { |c| c.vm.box = "x" }\n', box="x", digest="")
        files.write_whole(layout.box_file(record), b"not the box")
        with pytest.raises(MachineError, match="the box of machine `lab` is not what was exported"):
            Driven(record, SILENT).take_box("mlvm/x", "0" * 64)

    def test_the_version_will_do(self, record: Record) -> None:
        mending.prepare(record, 'Vagrant.configure("2") {}\n', box="x", digest="")
        provider.reasons.check_version(Driven(record, SILENT).version())

    def test_an_interrupt_reaches_vagrant_and_is_waited_for(self, record: Record) -> None:
        mending.prepare(
            record,
            'require "fileutils"\nbegin\n  FileUtils.touch("begun")\n  sleep 60\nensure\n'
            '  FileUtils.touch("cleaned")\nend\n',
            box="x",
            digest="",
        )

        def interrupt() -> None:
            while not (layout.root(record) / "begun").exists():
                time.sleep(0.05)
            _thread.interrupt_main()

        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            Driven(record, SILENT).up(provider="libvirt")
        assert (layout.root(record) / "cleaned").exists()
