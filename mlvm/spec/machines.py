"""What the document says of machines: the shape of one, and the names, order and readiness of several.

`machine` and `machines` share their fields: what stands in `machine` holds for every one of `machines` that does not
say otherwise. Checks that concern more than one field, or more than one machine, are made here, with the place of what
is wrong.
"""

from __future__ import annotations

import graphlib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from mlvm.spec.complaints import Mark, Place
from mlvm.spec.document import GIB, MachineShape, Member, PortForward, Ready
from mlvm.spec.fields import Either, Field, ListOf, Record, Shape
from mlvm.spec.nodes import Keyed, Listing, Node
from mlvm.spec.scalars import Size, Text, Whole, nearest

_SHAPE = MachineShape()
#: Names of boxes, machines and hosts.
NAME_PATTERN = "[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?"
#: What a host may be called, at most.
LONGEST_NAME = 63
LEAST_MEMORY = 256
PORTS_ELSEWHERE = "with several machines, `ports` stands at the machine it is meant for"

#: What people write for it.
ELSEWHERE = MappingProxyType(
    dict.fromkeys(("cpu", "cores", "vcpus"), "write `cpus`") | dict.fromkeys(("ram", "mem"), "write `memory`")
)

memory: Either[tuple[int, int | None]] = Either(
    short=Size(least=LEAST_MEMORY),
    from_short=lambda size: (size, None),
    long=Record(
        fields={
            "max": Field(
                shape=Size(least=LEAST_MEMORY),
                text="RAM it starts with, and the most it can have.",
                examples=["4 GiB"],
                required=True,
            ),
            "min": Field(
                shape=Size(least=LEAST_MEMORY),
                text="The least that `mlvm set` may leave it.",
                examples=["1 GiB"],
                required=True,
            ),
        },
        make=lambda values: (values["max"], values["min"]),
        noun="a mapping",
    ),
)

MACHINE: dict[str, Field] = {
    "cpus": Field(shape=Whole(least=1, most=255), text="Virtual CPUs.", examples=[4], default=_SHAPE.cpus),
    "memory": Field(
        shape=memory,
        text="RAM; with `min` and `max`, RAM that goes back to the host when the machine does not need it.",
        examples=["4 GiB", {"min": "1 GiB", "max": "4 GiB"}],
        default=f"{_SHAPE.memory // GIB} GiB",
    ),
    "disk": Field(
        shape=Size(least=1024),
        text="Room for what the machine writes; takes only what is written on the host.",
        examples=["32 GiB"],
        default=f"{_SHAPE.disk // GIB} GiB",
    ),
    "gpu": Field(
        shape=Whole(least=0, most=16),
        text="GPUs of the host to give to the machine (docs/cuda.md).",
        examples=[1],
        default=_SHAPE.gpu,
    ),
    "cpu_weight": Field(
        shape=Whole(least=1, most=10000),
        text="Share of the CPUs when machines compete.",
        examples=[50],
        default=_SHAPE.cpu_weight,
    ),
    "disk_iops": Field(
        shape=Whole(least=10, most=10_000_000),
        text="Disk operations a second, at most; else as many as the host can do.",
        examples=[2000],
    ),
}

ready: Record[Ready] = Record(
    fields={
        "port": Field(
            shape=Whole(least=1, most=65535),
            text="TCP port that answers inside the machine.",
            examples=[8080],
        ),
        "command": Field(
            shape=Text(pattern=r"[^\0]*\S[^\0]*", rule="a command line", longest=2000),
            text="Command line that succeeds inside the machine (run by its shell, as the ordinary user).",
            examples=["test -e /run/ready"],
        ),
        "seconds": Field(
            shape=Whole(least=1, most=86400),
            text="How long that may take.",
            examples=[300],
            default=Ready().seconds,
        ),
    },
    make=lambda values: Ready(**values),
    noun="a mapping",
)


def member(port: Shape[PortForward]) -> Record[dict[str, Any]]:
    """Return the shape of one of `machines`; `port` is that of one forwarded port."""
    fields = {
        **MACHINE,
        "count": Field(shape=Whole(least=1, most=64), text="How many of them.", examples=[3], default=1),
        "after": Field(
            shape=ListOf(
                item=Text(pattern=NAME_PATTERN, rule="the name of one of `machines`", longest=LONGEST_NAME),
                same=lambda name: name,
            ),
            text="Machines that must be ready before this one is started.",
            examples=[["head"]],
        ),
        "ready": Field(
            shape=ready,
            text="When it counts as ready; else as soon as it runs.",
            examples=[{"port": 22}, {"command": "test -e /run/ready", "seconds": 300}],
        ),
        "ports": Field(
            shape=ListOf(
                item=port, longest=64, same=lambda p: p.host, twice="port {} of the host is there twice"
            ),
            text="As `ports` at the top level, for this machine.",
            examples=[["8080:80"]],
        ),
    }
    return Record(fields=fields, make=dict, noun="a mapping", elsewhere=ELSEWHERE)


def shape_of(values: Mapping[str, Any]) -> MachineShape:
    """Return the shape that the fields of `machine` give."""
    rest = {name: value for name, value in values.items() if name in MACHINE and name != "memory"}
    if "memory" not in values:
        return MachineShape(**rest)
    most, least = values["memory"]
    return MachineShape(**rest, memory=most, memory_min=least)


def members_of(machines: Mapping[str, Mapping[str, Any]], machine: Mapping[str, Any]) -> tuple[Member, ...]:
    """Return the machines that `machines` mean, each by its own name, in the order written."""
    names = {name: names_of(name, values.get("count", 1)) for name, values in machines.items()}
    return tuple(
        Member(
            name=one,
            shape=shape_of({**machine, **values}),
            after=tuple(other for name in values.get("after", ()) for other in names[name]),
            ready=values.get("ready"),
            ports=values.get("ports", ()),
        )
        for name, values in machines.items()
        for one in names[name]
    )


def names_of(name: str, count: int) -> tuple[str, ...]:
    """Return the names of `count` machines called `name`."""
    return (name,) if count == 1 else tuple(f"{name}-{number}" for number in range(1, count + 1))


def check(values: Mapping[str, Any], node: Keyed, at: Place) -> None:
    """Complain of what is wrong between the fields of `machine` and `machines` in one document."""
    _check_memory(node.find("machine"), values.get("machine", {}), at.below("machine"))
    machines, found = values.get("machines"), node.find("machines")
    if not machines or not isinstance(found, Keyed):
        return
    at = at.below("machines")
    for name, one in machines.items():
        _check_memory(found.find(name), one, at.below(name))
        _check_ready(found.find(name), at.below(name))
    if (ports := node.find("ports")) is not None:
        at.complain(ports.mark, PORTS_ELSEWHERE)
    _check_names(machines, found, str(values.get("name", "")), at)
    _check_ports(machines, found, at)
    _check_order(machines, found, at)


def _check_memory(node: Node | None, values: Mapping[str, Any], at: Place) -> None:
    most, least = values.get("memory", (0, None))
    if least is not None and least > most and isinstance(node, Keyed) and (found := node.find("memory")):
        at.below("memory").complain(found.mark, "`min` is more than `max`")


def _check_ready(node: Node | None, at: Place) -> None:
    found = node.find("ready") if isinstance(node, Keyed) else None
    if isinstance(found, Keyed) and (found.find("port") is None) == (found.find("command") is None):
        at.below("ready").complain(found.mark, "it needs one of `port` and `command`")


def _check_names(machines: Mapping[str, Mapping[str, Any]], node: Keyed, box: str, at: Place) -> None:
    """Complain of machines that would have the same name, or one that is too long for a host."""
    seen: dict[str, str] = {}
    for name, one in machines.items():
        mark = _mark(node, name)
        for each in names_of(name, one.get("count", 1)):
            if each in seen:
                at.below(name).complain(
                    mark, f"one of these is called `{each}`, and so is one of `{seen[each]}`"
                )
            seen[each] = name
        longest = max(len(each) for each in names_of(name, one.get("count", 1)))
        if len(box) + 1 + longest > LONGEST_NAME:
            at.below(name).complain(mark, f"with `{box}-` before it, the name is longer than {LONGEST_NAME}")


def _check_ports(machines: Mapping[str, Mapping[str, Any]], node: Keyed, at: Place) -> None:
    """Complain of ports of the host that more than one machine would have."""
    taken: dict[int, str] = {}
    for name, one in machines.items():
        if one.get("ports") and one.get("count", 1) > 1:
            at.below(name).below("ports").complain(
                _mark(node, name, "ports"), f"{one['count']} machines cannot share ports of the host"
            )
        for port in one.get("ports", ()):
            if other := taken.get(port.host):
                at.below(name).below("ports").complain(
                    _mark(node, name, "ports"), f"port {port.host} of the host is that of `{other}`"
                )
            taken[port.host] = name


def _check_order(machines: Mapping[str, Mapping[str, Any]], node: Keyed, at: Place) -> None:
    """Complain of `after` that names nobody, or that leads back to where it started."""
    known: dict[str, tuple[str, ...]] = {}
    for name, one in machines.items():
        known[name] = tuple(other for other in one.get("after", ()) if other in machines)
        for number, other in enumerate(one.get("after", ())):
            if other not in machines:
                where = at.below(name).below("after").below(number)
                where.complain(_mark(node, name, "after", number), _nobody(other, machines))
    try:
        graphlib.TopologicalSorter(known).prepare()
    except graphlib.CycleError as cycle:
        ring = list(reversed(cycle.args[1]))  # each stands before what it comes after
        first = ring[0]
        said = ", which comes after ".join(f"`{name}`" for name in ring[1:])
        at.below(first).below("after").complain(
            _mark(node, first, "after"),
            "it comes after itself"
            if len(ring) == 2
            else f"it comes after {said}: nothing could be started first",
        )


def _nobody(name: str, known: Iterable[str]) -> str:
    guess = nearest(name, tuple(known))
    hint = f"; did you mean `{guess}`?" if guess else f"; there are {', '.join(f'`{one}`' for one in known)}"
    return f"there is no machine `{name}`{hint}"


def _mark(node: Keyed, *path: str | int) -> Mark:
    """Return the place of what `path` leads to, as far as it goes."""
    found: Node = node
    for step in path:
        if isinstance(step, int):
            if not isinstance(found, Listing) or step >= len(found.items):
                break
            found = found.items[step]
        else:
            inner = found.find(step) if isinstance(found, Keyed) else None
            if inner is None:
                break
            found = inner
    return found.mark
