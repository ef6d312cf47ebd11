"""How long a person waits for the command line itself, beside Vagrant's.

`status` is asked with one machine each: ours made and not running, Vagrant's described and not created.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.bench import Bench, environment, seconds_of
from benchmarks.measures import Bar, Measure, Series
from mlvm import process
from mlvm.errors import ProgramError
from mlvm.image.store import Store
from mlvm.machine.create import ensure
from mlvm.paths import Home
from mlvm.project import Project

BOX = "python-3.11"
BAR = Bar(of="ours", limit=150)
#: A provider that answers at once: what is measured is Vagrant, and nothing needs to be installed beside it.
VAGRANTFILE = """\
class Nothing < Vagrant.plugin("2", :provider)
  def state
    Vagrant::MachineState.new(:not_created, "not created", "")
  end
end
class NothingPlugin < Vagrant.plugin("2")
  name "nothing"
  provider("nothing") { Nothing }
end
Vagrant.configure("2") { |config| config.vm.box = "debian/bookworm64" }
"""
PROGRAM = Path(sys.executable).parent / "mlvm"
VERBS = ("--help", "status")


def measure(bench: Bench) -> Sequence[Measure]:
    """Ask both the same two questions."""
    vagrant = process.find_program("vagrant")
    if vagrant is None:
        raise ProgramError(
            "`vagrant`, which is the baseline, is not installed", hint="tools/host-setup bench"
        )
    home = with_a_machine(bench)
    ours = environment(MLVM_HOME=home)
    folder = bench.folder / "vagrant"
    folder.mkdir()
    (folder / "Vagrantfile").write_text(VAGRANTFILE)
    theirs = environment(
        VAGRANT_HOME=bench.folder / "vagrant-home",
        VAGRANT_CHECKPOINT_DISABLE="1",
        VAGRANT_DEFAULT_PROVIDER="nothing",
    )
    contestants = {}
    for verb in VERBS:
        contestants[f"mlvm {verb}"] = lambda verb=verb: seconds_of([PROGRAM, verb], env=ours, cwd=folder)
        contestants[f"vagrant {verb}"] = lambda verb=verb: seconds_of([vagrant, verb], env=theirs, cwd=folder)
    for contestant in contestants.values():
        contestant()  # the first start reads from disk, and Vagrant's makes its home
    seconds = bench.rounds(contestants)
    return [
        Measure(
            name=verb,
            unit="ms",
            ours=_series("mlvm", seconds[f"mlvm {verb}"]),
            baseline=_series("vagrant", seconds[f"vagrant {verb}"]),
            bar=BAR,
        )
        for verb in VERBS
    ]


def with_a_machine(bench: Bench) -> Path:
    """Return a home with one machine, never started."""
    root = bench.folder / "home"
    home = Home(data=root / "data", cache=root / "cache", runtime=root / "run")
    home.store.mkdir(parents=True)
    (home.store / "blobs").symlink_to(Store(bench.home).blobs.folder.resolve())
    project = Project.find(BOX, Path.cwd(), home=home)
    image = project.build(frozen=True)
    ensure(home, BOX, image=image, spec=project.spec(), project=project.folder)
    return root


def _series(name: str, seconds: Sequence[float]) -> Series:
    return Series(name=name, samples=tuple(1000 * one for one in seconds))
