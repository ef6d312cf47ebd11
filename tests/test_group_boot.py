"""Several real machines: brought up one after the other is ready, reached through the host, taken down in reverse."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from mlvm import group
from mlvm.errors import MachineError
from mlvm.events import SILENT, Observer
from mlvm.machine.provider import State
from mlvm.machine.record import load
from mlvm.machine.table import provider_for
from mlvm.paths import LOCK_NAME, Home, shipped
from mlvm.project import Project

pytestmark = [pytest.mark.boot, pytest.mark.network]

SPEC = """\
name: pair
debian: bookworm
machine: {{cpus: 1, memory: 768 MiB, disk: 1 GiB}}
machines:
  second: {{after: [first], ready: {{command: "grep -q second /etc/hostname"}}}}
  first: {{ready: {{port: 22}}, ports: ["{port}:8000"]}}
  never: {{after: [second], ready: {{command: "echo not yet >&2; exit 3", seconds: 2}}}}
  last: {{after: [never]}}
"""


class Tape(Observer):
    """Keeps which stage of which machine began or ended, in order."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def stage_started(self, stage: str, detail: str = "") -> None:
        self.heard.append(f"begin {stage}")

    def stage_finished(self, stage: str, seconds: float, detail: str = "") -> None:
        self.heard.append(f"end {stage}")


@pytest.fixture(scope="module")
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def project(chain_home: Home, port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("pair")
    (folder / "mlvm.yaml").write_text(SPEC.format(port=port))
    (folder / LOCK_NAME).write_bytes((shipped("boxes") / "python-3.11" / LOCK_NAME).read_bytes())
    found = Project(folder=folder, home=chain_home)
    yield found
    for record in group.members(found)[1]:
        provider_for(record).destroy(record, observer=SILENT)


def test_one_comes_up_with_what_it_needs_and_in_order(project: Project) -> None:
    tape = Tape()

    records = group.up(project, "second", observer=tape)

    assert [record.name for record in records] == ["pair-second", "pair-first"]
    assert tape.heard.index("end first: ready") < tape.heard.index("begin second: firmware")
    assert tape.heard[-1] == "end second: ready"
    assert load(project.home, "pair-last") is None


def test_one_reaches_another_through_a_port_of_the_host(project: Project, port: int) -> None:
    first, second = (load(project.home, f"pair-{name}") for name in ("first", "second"))
    assert first is not None
    assert second is not None
    serve = "cd /etc && setsid python3 -m http.server 8000 > /dev/null 2>&1 & echo"
    provider_for(first).guest(first).run(["sh", "-c", serve])
    ask = f"import urllib.request as u; print(u.urlopen('http://10.0.2.2:{port}/hostname', timeout=60).read().decode())"
    again = f'for i in 1 2 3 4 5; do python3 -c "{ask}" && exit; sleep 2; done'

    done = provider_for(second).guest(second).run(["sh", "-c", again], timeout=300)

    assert done.stdout.decode().strip() == "pair-first"


def test_one_that_is_not_ready_is_named_with_what_was_not_started(project: Project) -> None:
    with pytest.raises(MachineError) as raised:
        group.up(project, observer=SILENT)

    assert raised.value.message.startswith(
        "machine `never` did not come up: machine `pair-never` runs, and was not"
    )
    assert raised.value.details.splitlines()[0] == "not yet"
    assert "not started: last" in raised.value.details
    assert "running: first, second" in raised.value.details


def test_they_stop_in_the_reverse_order(project: Project) -> None:
    spec, records = group.members(project)
    order: list[str] = []

    def stop(record, observer) -> None:
        provider_for(record).stop(record, observer=observer)
        order.append(record.name)

    group.down(spec, records, stop, observer=SILENT)

    assert order == ["pair-never", "pair-second", "pair-first"]
    assert {provider_for(one).state(one).state for one in records} == {State.STOPPED}
