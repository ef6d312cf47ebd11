"""The document: what a good one means, and every complaint about a bad one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from mlvm.errors import SpecError
from mlvm.paths import shipped
from mlvm.spec.document import GIB, MIB, MachineShape, PortForward, Ready, SharedFolder, Spec
from mlvm.spec.reader import load, loads
from mlvm.spec.table import document, machine

EVERYTHING = """\
schema: 1
name: housing
debian: trixie
python: "3.13"
packages:
  - Scikit_Learn [b,a] >=1.5 , <2
  - tomli; python_version < "3.11"
  - tomli>=2; python_version >= "3.11"
machine: {cpus: 4, memory: 1536 MiB, disk: 1TiB}
env: {OMP_NUM_THREADS: 4, GREETING: "hello\\nyou", EMPTY: ""}
network: none
ports: ["8080:80", {guest: 22, host: 2222}, {guest: 9000}]
"""


def complaints(text: str, path: Path | None = None) -> list[str]:
    """Return every complaint about a document, without the spec's own file name."""
    with pytest.raises(SpecError) as raised:
        loads(text, path=path)
    return [line.removeprefix(f"{path or 'mlvm.yaml'}:") for line in raised.value.details.splitlines()]


def test_a_name_is_enough() -> None:
    assert loads("name: small") == Spec(name="small")


def test_sources_have_the_names_that_indexes_use() -> None:
    assert loads("name: small\nsdists: [Zope.Interface, docopt]").sdists == ("docopt", "zope-interface")


def test_everything_that_works_now() -> None:
    assert loads(EVERYTHING) == Spec(
        name="housing",
        debian="trixie",
        python="3.13",
        packages=(
            "scikit-learn[a,b]<2,>=1.5",
            'tomli; python_version < "3.11"',
            'tomli>=2; python_version >= "3.11"',
        ),
        machine=MachineShape(cpus=4, memory=1536 * MIB, disk=1024 * GIB),
        env=MappingProxyType({"OMP_NUM_THREADS": "4", "GREETING": "hello\nyou", "EMPTY": ""}),
        network="none",
        ports=(
            PortForward(host=8080, guest=80),
            PortForward(host=2222, guest=22),
            PortForward(host=9000, guest=9000),
        ),
    )


def test_the_path_is_kept_and_not_compared(tmp_path: Path) -> None:
    path = tmp_path / "mlvm.yaml"
    path.write_text("name: small")

    spec = load(path)

    assert spec.path == path
    assert spec == loads("name: small")


@pytest.mark.parametrize(
    ("lines", "pair"),
    [
        ("", ("bookworm", "3.11")),
        ("debian: bookworm", ("bookworm", "3.11")),
        ("debian: trixie", ("trixie", "3.13")),
        ('python: "3.11"', ("bookworm", "3.11")),
        ("python: '3.13'", ("trixie", "3.13")),
    ],
)
def test_debian_and_python_follow_from_each_other(lines: str, pair: tuple[str, str]) -> None:
    spec = loads(f"name: a\n{lines}\n")

    assert (spec.debian, spec.python) == pair


RELEASES = "`bullseye` or `bookworm` or `trixie`"
PYTHONS = '"3.9", "3.10", "3.11", "3.12", "3.13", "3.14", "3.14t"'


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("packges: []", "2:1: packges: there is no `packges`; did you mean `packages`?"),
        ("memory: 2 GiB", "2:1: memory: there is no `memory` here: it stands in `machine`"),
        ("dependencies: []", ("2:1: dependencies: there is no `dependencies` here: write `packages`, "
         "or `requirements` for a file")),
        ("machine: {ram: 2 GiB}", "2:11: machine.ram: there is no `ram` here: write `memory`"),
        ("machine: {env: {}}", ("2:11: machine.env: there is no `env` here: it stands at the top level, "
         "not in `machine`")),
        ("machine: {xyz: 1}", ("2:11: machine.xyz: there is no `xyz`; known here: cpus, memory, disk, gpu, "
         "cpu_weight, disk_iops")),
        ("schema: 2", "2:9: schema: this mlvm reads schema 1; a newer one may know 2"),
        ("debian: 12", f"2:9: debian: `12` is not {RELEASES}; write `bookworm`"),
        ("debian: Debian 12", f"2:9: debian: `Debian 12` is not {RELEASES}; did you mean `bookworm`?"),
        ("debian: bokworm", f"2:9: debian: `bokworm` is not {RELEASES}; did you mean `bookworm`?"),
        ("debian: buster", f"2:9: debian: `buster` is not {RELEASES}: not yet: other releases"),
        ("debian: stable", (f"2:9: debian: `stable` is not {RELEASES}: it moves from "
         "release to release; name the release")),
        ('python: "3.8"', f"2:9: python: python 3.8 cannot be had; there are {PYTHONS}"),
        ('python: "3.13t"', f"2:9: python: python 3.13t cannot be had; there are {PYTHONS}"),
        ('python: "3.14.2t"', '2:9: python: the lock decides the last number of python 3.14.2t; write "3.14t"'),
        ('python: "3.11.4"', '2:9: python: the lock decides the last number of python 3.11.4; write "3.11"'),
        ("python: cpython", '2:9: python: `cpython` is not a Python version such as "3.11"'),
        ("packages: numpy", ("2:11: packages: must be a list, each entry a package such as `numpy>=2,<3`, "
         "and is `numpy`")),
        ("packages: [[numpy]]", "2:12: packages[0]: must be a package such as `numpy>=2,<3`, and is a list"),
        ("packages: [numpy=1.2]", ("2:17: packages[0]: `numpy=1.2` is not a requirement: a single `=` is conda's; "
         "write `numpy==1.2`")),
        ('packages: ["numpy 1.2"]', "2:19: packages[0]: `numpy 1.2` is not a requirement: write `numpy==1.2`"),
        ("packages: [numpy, pandas, NumPy<2]", "2:27: packages[2]: `numpy` is there twice; first in line 2"),
        ("packages: [a @ https://b/c]", ("2:12: packages[0]: `a @ https://b/c` names a URL; "
         "not yet: packages that are not on an index")),
        ("packages: [python]", "2:12: packages[0]: Python itself is chosen by the field `python`"),
        ("machine: {memory: 2G}", "2:19: machine.memory: `2G` is not how sizes are written here; write `2 GiB`"),
        ("machine: {memory: 2048}", "2:19: machine.memory: `2048` has no unit; write `2048 MiB`"),
        ("machine: {memory: 1.5 GiB}", ("2:19: machine.memory: `1.5 GiB` is not how sizes are written here; "
         "write `1536 MiB`")),
        ("machine: {memory: 100 MiB}", ("2:19: machine.memory: `100 MiB` is out of range; "
         "write a size such as `4 GiB`, at least `256 MiB`")),
        ("machine: {memory: 2 parsec}", ("2:19: machine.memory: `2 parsec` has no unit known here; "
         "write a size such as `4 GiB`, at least `256 MiB`")),
        ("machine: {memory: much}", ("2:19: machine.memory: must be a size such as `4 GiB`, at least `256 MiB`, "
         "and is `much`")),
        ("machine: {disk: 1000 MiB}", ("2:17: machine.disk: `1000 MiB` is out of range; "
         "write a size such as `4 GiB`, at least `1 GiB`")),
        ("machine: {cpus: 0}", "2:17: machine.cpus: must be a whole number from 1 to 255, and is 0"),
        ('machine: {cpus: "2"}', "2:17: machine.cpus: must be a whole number from 1 to 255, without quotes"),
        ("machine: {cpus: many}", "2:17: machine.cpus: must be a whole number from 1 to 255, and is `many`"),
        ("machine: []", ("2:10: machine: must be a mapping (`cpus: ...`, `memory: ...`, `disk: ...`, ...), "
         "and is a list")),
        ("env: {A-B: x}", "2:7: env.A-B: `A-B` is not a variable's name"),
        ("env: {A: [x]}", "2:10: env.A: must be text without zero bytes, and is a list"),
        ("env: [A]", "2:6: env: must be a mapping from a variable's name to text without zero bytes, and is a list"),
        ("network: bridged", "2:10: network: `bridged` is not `user` or `none`"),
        ("ports: [8888]", ("2:9: ports[0]: `8888` without quotes is a whole number to YAML; "
         'write both ends, the host\'s first: "8888:8888"')),
        ('ports: ["1:70000"]', '2:9: ports[0]: `1:70000` is not two ports as "HOST:GUEST"'),
        ('ports: ["1:2", "1:3"]', "2:16: ports[1]: port 1 of the host is there twice"),
        ("ports: [{host: 1}]", "2:9: ports[0]: `guest` is missing"),
        ("requirements: /etc/passwd.txt", ("2:15: requirements: `/etc/passwd.txt` is not a `.txt` file of requirements "
         "or a `pyproject.toml`, relative to the spec")),
        ("requirements: nowhere.txt", "2:15: requirements: there is no file `nowhere.txt`"),
        ("template: scince", "2:11: template: there is no template called `scince`; did you mean `science`?"),
        ("template: x-y-z", "2:11: template: there is no template called `x-y-z`; there are `minimal`, `science`"),
        ("template: nowhere.yaml", "2:11: template: there is no file `nowhere.yaml`"),
        ("apt: [Git]", "2:7: apt[0]: `Git` is not a Debian package, such as `git`"),
        ('cuda: {cudnn: "9.1"}', "2:7: cuda: `version` is missing"),
        ("cuda: {version: 12.10}", ('2:17: cuda.version: `12.10` without quotes is the number 12.1 to YAML; '
         'write "12.10"')),
        ("cuda: {version: '12', nvcc: yes}", "2:29: cuda.nvcc: must be `true` or `false`, and is `yes`"),
        ("sdists: [a_b, A-B]", "2:15: sdists[1]: `a-b` is there twice"),
        ("sdists: [docopt==1]", "2:10: sdists[0]: `docopt==1` is not a package's name"),
        ("index: {a_b: https://a, A-B: https://b}", "2:8: index: `A-B` is there twice, in two spellings"),
        ("index: {torch: http://a}", ("2:16: index.torch: `http://a` is not an `https://` URL without user "
         "or password")),
        ('share: ["/etc:/data"]', ('2:9: share[0]: `/etc:/data` is not a shared folder as "FOLDER:PLACE" or '
         '"FOLDER:PLACE:rw", relative to the spec and absolute in the machine')),
        ('share: ["../x:/x"]', ("2:9: share[0]: a shared folder is the spec's own or one below it: "
         "without `..`")),
        ("share: [{folder: a/../../b}]", ("2:18: share[0].folder: a shared folder is the spec's own or one below it: "
         "without `..`")),
        ('share: ["aa:/x", "bb:/x"]', "2:18: share[1]: `/x` is there twice"),
        ("share: true", ('2:8: share: must be `rw`, `ro` or a list, each entry a shared folder as "FOLDER:PLACE" or '
         '"FOLDER:PLACE:rw", relative to the spec and absolute in the machine, and is `true`')),
        ("machine: {memory: 2 G}", ("2:19: machine.memory: `2 G` is not how sizes are written here; "
         "write `2 GiB`")),
        ("machine: {memory: {max: 2 GiB}}", "2:19: machine.memory: `min` is missing"),
        ("machine: {memory: {max: 1 GiB, min: 2 GiB}}", "2:19: machine.memory: `min` is more than `max`"),
        ("machine: {cpu_weight: 0}", ("2:23: machine.cpu_weight: must be a whole number from 1 to 10000, "
         "and is 0")),
        ("machine: {disk_iops: 5}", ("2:22: machine.disk_iops: must be a whole number from 10 to 10000000, "
         "and is 5")),
        ("machines: {a: {after: [c]}, b: {}}", ("2:24: machines.a.after[0]: there is no machine `c`; "
         "there are `a`, `b`")),
        ("machines: {worker: {after: [haed]}, head: {}}", ("2:29: machines.worker.after[0]: there is no machine "
         "`haed`; did you mean `head`?")),
        ("machines: {a: {after: [a]}}", "2:23: machines.a.after: it comes after itself"),
        ("machines: {a: {after: [b]}, b: {after: [a]}}", ("2:23: machines.a.after: it comes after `b`, which comes "
         "after `a`: nothing could be started first")),
        ("machines: {a: {ready: {seconds: 5}}}", ("2:23: machines.a.ready: it needs one of `port` and `command`")),
        ("machines: {a: {ready: {port: 1, command: x}}}", ("2:23: machines.a.ready: it needs one of `port` and "
         "`command`")),
        ("machines: {a: {ports: ['1:1']}, b: {ports: ['1:2']}}", ("2:44: machines.b.ports: port 1 of the host is "
         "that of `a`")),
        ("machines: {a: {count: 2, ports: ['1:1']}}", ("2:33: machines.a.ports: 2 machines cannot share ports of "
         "the host")),
        ("machines: {a: {count: 2}, a-1: {}}", ("2:32: machines.a-1: one of these is called `a-1`, and so is one "
         "of `a`")),
        ("machines: {a: {}}\nports: ['1:1']", ("3:8: machines: with several machines, `ports` stands at the "
         "machine it is meant for")),
        (f"machines: {{{'b' * 62}: {{}}}}", (f"2:76: machines.{'b' * 57}...: with `a-` before it, the name is "
         "longer than 63")),
        ("machines: {a: {cores: 2}}", ("2:16: machines.a.cores: there is no `cores` here: write `cpus`")),
         ("machine: {gpu: 17}", "2:16: machine.gpu: must be a whole number from 0 to 16, and is 17"),
    ],
)  # fmt: skip
def test_a_complaint(line: str, complaint: str) -> None:
    assert complaints(f"name: a\n{line}\n") == [complaint]


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("Foo Bar", "1:7: name: `Foo Bar` is not a name; `foo-bar` would be one"),
        ("2024", '1:7: name: `2024` without quotes is a whole number to YAML; write "2024"'),
        ('"?"', ("1:7: name: `?` is not a name: lower-case letters, digits, `.`, `_` and `-`, 63 at most, "
         "a letter or digit at both ends")),
        ('"../up"', "1:7: name: `../up` is not a name; `up` would be one"),
        ('"a\\n"', ("1:7: name: `a\\n` is not a name: lower-case letters, digits, `.`, `_` and `-`, 63 at most, "
         "a letter or digit at both ends")),
        ("a" * 64, "1:7: name: longer than 63 characters"),
    ],
)  # fmt: skip
def test_a_bad_name(name: str, complaint: str) -> None:
    assert complaints(f"name: {name}") == [complaint]


def test_a_missing_name() -> None:
    assert complaints("debian: trixie") == ["1:1: `name` is missing"]


def test_all_complaints_come_at_once_in_order() -> None:
    text = "nme: a\nenv: {A: 1.5}\nmachine:\n  cpus: 0\n  memory: 2G\nnetwork: no\n"

    assert [line.split(": ")[0] for line in complaints(text)] == ["1:1", "1:1", "2:10", "4:9", "5:11", "6:10"]


def test_the_most_complaints_are_counted() -> None:
    lines = complaints("name: a\n" + "".join(f"x{number}: 1\n" for number in range(100)))

    assert len(lines) == 41
    assert lines[-1] == "... and 60 more"


def test_hostile_text_is_not_shown_as_it_is() -> None:
    (line,) = complaints('name: a\n"\\e[2J": 1\n')

    assert line.startswith("2:1: \\x1b[2J: there is no `\\x1b[2J`")


def test_what_decides_the_lock() -> None:
    spec = loads(EVERYTHING)

    assert replace(spec, machine=MachineShape(), env={}, ports=(), network="user").resolution_inputs() == (
        spec.resolution_inputs()
    )


@pytest.mark.parametrize(
    "path",
    sorted([*shipped("templates").glob("*.yaml"), *shipped("boxes").glob("*/mlvm.yaml")]),
    ids=lambda path: f"{path.parent.name}/{path.name}",
)
def test_every_shipped_document_loads_under_its_own_name(path: Path) -> None:
    assert load(path).name == (path.stem if path.parent.name == "templates" else path.parent.name)


@pytest.mark.parametrize(
    ("record", "name", "example"),
    [
        (record, name, example)
        for record in (document, machine)
        for name, one in record.fields.items()
        for example in (*one.examples, *([] if one.default is None else [one.default]))
    ],
)
def test_examples_and_defaults_are_right(record: object, name: str, example: object) -> None:
    """Every example in the table can be read by the field's own shape."""
    import json

    from mlvm.spec import nodes
    from mlvm.spec.complaints import Place, Report
    from mlvm.spec.fields import Record

    assert isinstance(record, Record)
    report = Report()
    node = nodes.parse(json.dumps(example), "example", at=Place(report=report))
    assert node is not None

    value = record.fields[name].shape.read(node, Place(report=report))

    assert report.complaints == []
    assert value is not None


def test_several_machines_each_say_what_the_one_would_say() -> None:
    spec = loads(
        "name: a\n"
        "machine: {cpus: 1, memory: 1 GiB}\n"
        "machines:\n"
        "  head: {ready: {port: 22}, ports: ['8080:80']}\n"
        "  worker: {count: 2, cpus: 3, after: [head], memory: {min: 1 GiB, max: 2 GiB}}\n"
        "  last: {after: [worker]}\n"
    )

    head, first, second, last = spec.machines
    assert [spec.machine_of(one) for one in spec.machines] == ["a-head", "a-worker-1", "a-worker-2", "a-last"]
    assert (head.shape.cpus, head.shape.memory, head.ready, head.after) == (1, GIB, Ready(port=22), ())
    assert (first.shape.cpus, first.shape.memory, first.shape.memory_min) == (3, 2 * GIB, GIB)
    assert (first.after, second.after, last.after) == (("head",), ("head",), ("worker-1", "worker-2"))
    assert spec.member_called("worker-1") is first
    assert spec.member_called("a-worker-2") is second
    assert spec.member_called("worker") is None


def test_a_spec_without_machines_has_one() -> None:
    assert loads("name: a\n").machines == ()


@pytest.mark.parametrize(
    ("line", "shares"),
    [
        ("env: {}", None),
        ("share: []", ()),
        ("share: ro", (SharedFolder(folder="."),)),
        ("share: rw", (SharedFolder(folder=".", write=True),)),
        ('share: ["./data:/data"]', (SharedFolder(folder="./data", at="/data"),)),
        ('share: ["data:/a b:rw"]', (SharedFolder(folder="data", at="/a b", write=True),)),
        ("share: [{folder: data, write: true}]", (SharedFolder(folder="data", write=True),)),
    ],
)
def test_what_is_shared(line: str, shares: tuple[SharedFolder, ...] | None) -> None:
    assert loads(f"name: a\n{line}\n").share == shares


@pytest.mark.parametrize(
    ("lines", "pair"),
    [
        ("", ("bookworm", "3.11")),
        ("debian: trixie", ("trixie", "3.13")),
        ('python: "3.9"', ("bullseye", "3.9")),
        ('python: "3.12"', ("bookworm", "3.12")),
        ('python: "3.14t"', ("bookworm", "3.14t")),
        ('debian: bookworm\npython: "3.13"', ("bookworm", "3.13")),
        ('debian: trixie\npython: "3.9"', ("trixie", "3.9")),
    ],
)
def test_any_python_on_any_release(lines: str, pair: tuple[str, str]) -> None:
    spec = loads(f"name: a\n{lines}\n")

    assert (spec.debian, spec.python) == pair


@pytest.mark.parametrize(("debian", "own"), [("trixie", True), ("bookworm", False)])
def test_whose_python_it_is(debian: str, own: bool) -> None:
    assert loads(f'name: a\ndebian: {debian}\npython: "3.13"\n').debians_python == own
