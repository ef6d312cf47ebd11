"""The whole document, declared once: every field with its shape, what it is for, and examples.

The reader, the JSON Schema and the reference in docs/spec.md are all made from this table, so a field cannot be in
one and not in another. Fields whose work comes later stand here too, marked `planned`: specs may not use them yet,
but what they will look like is settled, and a mistake in them is told as such.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Any

from mlvm.spec.document import DEBIAN_NUMBER, DEBIAN_PYTHON, GIB, MachineShape, PortForward
from mlvm.spec.fields import Either, Field, ListOf, MapOf, Record, Shape
from mlvm.spec.requirements import RequirementText
from mlvm.spec.scalars import Choice, Size, Text, Truth, Whole, quoted

#: The last number of each Python: a stable Debian release keeps it, and mends with patches.
FULL_PYTHON = MappingProxyType({"3.11": "3.11.2", "3.13": "3.13.5"})

#: The version of the document's rules that this mlvm reads.
SCHEMA = 1

_SHAPE = MachineShape()

NAME_RULE = "a name: lower-case letters, digits, `.`, `_` and `-`, 63 at most, a letter or digit at both ends"


def valid_name(text: str) -> str:
    """Return the nearest valid name to `text`; "box" when nothing of it can be kept."""
    plain = re.sub(r"[^a-z0-9._-]+", "-", text.lower())[:63]
    return plain.strip("._-") or "box"


def _better_name(text: str) -> str | None:
    near = valid_name(text)
    if near == text:
        return None
    return (
        f"`{text[:60]}` is not a name; `{near}` would be one"
        if text.isprintable() and near != "box"
        else None
    )


name = Text(
    pattern="[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?", rule=NAME_RULE, longest=63, improve=_better_name
)


def release_of(python: str) -> str | None:
    """Return the Debian release that brings this Python, if one does."""
    return next((release for release, brought in DEBIAN_PYTHON.items() if brought == python), None)


def pairs() -> str:
    """Name every Debian release with its Python, for complaints."""
    return ", or ".join(
        f"`debian: {release}` with `python: {quoted(python)}`" for release, python in DEBIAN_PYTHON.items()
    )


def _better_python(text: str) -> str | None:
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3}){0,2}", text):
        return None
    if release_of(text):
        return None
    if release_of(minor := ".".join(text.split(".")[:2])):
        return f"the release decides the last number of python {text}; write {quoted(minor)}"
    return f"python {text} is in no Debian release known here; use {pairs()}; others not yet"


_OTHER_RELEASES = dict.fromkeys(
    ("buster", "bullseye", "10", "11", "forky", "14", "ubuntu", "jammy", "noble"), "not yet: other releases"
) | dict.fromkeys(
    ("stable", "oldstable", "testing", "sid", "unstable"),
    "it moves from release to release; name the release",
)
_NUMBERS = {
    f"{before}{number}": release
    for release, number in DEBIAN_NUMBER.items()
    for before in ("", "debian ", "debian-", "debian")
}

_versioned = r"[0-9]{1,4}(?:\.[0-9]{1,4}){0,2}"
_relative = r"(?![/~\\])(?![A-Za-z]:[\\/])"
_module = r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*"
_absolute = r"/(?!\.\.?(?:/|$))[^:\0\n]*"


def _both_ports(text: str) -> str | None:
    if re.fullmatch("[0-9]{1,5}", text):
        return f'write both ends, the host\'s first: "{text}:{text}"'
    return None


def _port(values: dict[str, Any]) -> PortForward:
    return PortForward(guest=values["guest"], host=values.get("host", values["guest"]))


def _port_from_text(text: str) -> PortForward:
    host, guest = text.split(":")
    return PortForward(guest=int(guest), host=int(host))


_port_number = Whole(least=1, most=65535)
_short_port = (
    r"(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"  # 1 to 65535
)
port = Either(
    short=Text(
        pattern=f"{_short_port}:{_short_port}",
        rule='two ports as "HOST:GUEST"',
        longest=11,
        improve=_both_ports,
    ),
    from_text=_port_from_text,
    long=Record(
        fields={
            "guest": Field(shape=_port_number, text="TCP port in the machine.", required=True),
            "host": Field(shape=_port_number, text="Port on 127.0.0.1 of the host; else the guest's."),
        },
        make=_port,
        noun="two ports",
    ),
)

share = Either(
    short=Text(
        pattern=f"{_relative}[^:\\0\\n]+:{_absolute}",
        rule='a shared folder as "FOLDER:PLACE", relative to the spec and absolute in the machine',
    ),
    from_text=str,
    long=Record(
        fields={
            "folder": Field(
                shape=Text(pattern=f"{_relative}[^:\\0\\n]+", rule="a folder, relative to the spec"),
                text="Folder of the host, relative to the spec.",
                required=True,
            ),
            "at": Field(
                shape=Text(pattern=_absolute, rule="an absolute path in the machine"),
                text="Where it appears in the machine.",
                required=True,
            ),
            "write": Field(shape=Truth(), text="Whether the machine may write to it.", default=False),
        },
        make=str,
        noun="a share",
    ),
)

_MACHINE: dict[str, Field] = {
    "cpus": Field(shape=Whole(least=1, most=255), text="Virtual CPUs.", examples=[4], default=_SHAPE.cpus),
    "memory": Field(
        shape=Size(least=256), text="RAM.", examples=["4 GiB"], default=f"{_SHAPE.memory // GIB} GiB"
    ),
    "disk": Field(
        shape=Size(least=1024),
        text="Room for what the machine writes; takes only what is written on the host.",
        examples=["32 GiB"],
        default=f"{_SHAPE.disk // GIB} GiB",
    ),
    "gpu": Field(
        shape=Whole(least=0, most=16),
        text="GPUs of the host to pass through.",
        examples=[1],
        planned="GPU passthrough",
    ),
    "cpu_weight": Field(
        shape=Whole(least=1, most=10000),
        text="Share of the CPUs when machines compete; 100 is everybody's default.",
        examples=[50],
        planned="limits shared between machines",
    ),
    "disk_iops": Field(
        shape=Whole(least=1, most=10_000_000),
        text="Disk operations a second, at most.",
        examples=[2000],
        planned="limits shared between machines",
    ),
}
_TOP_LEVEL = "it stands at the top level, not in `machine`"
machine: Record[dict[str, Any]] = Record(
    fields=_MACHINE,
    make=dict,
    noun="a mapping",
    elsewhere={
        **dict.fromkeys(("cpu", "cores", "vcpus"), "write `cpus`"),
        **dict.fromkeys(("ram", "mem"), "write `memory`"),
        **dict.fromkeys(("env", "network", "ports", "share", "python", "debian", "packages"), _TOP_LEVEL),
    },
)

_COUNTED = {"count": Field(shape=Whole(least=1, most=64), text="How many of them.", default=1)}

_cuda: Record[dict[str, Any]] = Record(
    fields={
        "version": Field(
            shape=Text(pattern=_versioned, rule='a CUDA version such as "12.4"'),
            text="CUDA toolkit.",
            examples=["12.4"],
            required=True,
        ),
        "cudnn": Field(
            shape=Text(pattern=_versioned, rule='a cuDNN version such as "9.1"'),
            text="cuDNN.",
            examples=["9.1"],
        ),
        "nvcc": Field(shape=Truth(), text="Whether the compiler is wanted.", default=False),
        "driver": Field(
            shape=Text(pattern=_versioned, rule='a driver version such as "550.54"'),
            text="Oldest driver that will do.",
            examples=["550.54"],
        ),
        "arch": Field(
            shape=ListOf(item=Text(pattern=r"[0-9]{1,2}\.[0-9]", rule='a compute capability such as "8.6"')),
            text="Compute capabilities it must run on.",
            examples=[["8.0", "9.0"]],
        ),
    },
    make=dict,
    noun="a mapping",
)

_apt: Shape[object] = ListOf(
    item=Text(pattern=r"[a-z0-9][a-z0-9+.-]+(?:=[A-Za-z0-9.+:~-]+)?", rule="a Debian package, such as `git`")
)

_FIELDS: dict[str, Field] = {
    "schema": Field(
        shape=Whole(
            least=SCHEMA,
            most=SCHEMA,
            improve=lambda text: (
                f"this mlvm reads schema {SCHEMA}; a newer one may know {text}"
                if re.fullmatch("[0-9]{1,4}", text)
                else None
            ),
        ),
        text="Version of the document's rules.",
        default=SCHEMA,
    ),
    "name": Field(
        shape=name,
        text="Name of the box, and of its machine unless `up --name` gives another.",
        examples=["housing"],
        required=True,
    ),
    "template": Field(
        shape=Text(
            pattern=rf"[a-z0-9][a-z0-9-]*|{_relative}.+\.ya?ml",
            rule="the name of a shipped template, or a path relative to the spec that ends in `.yaml`",
        ),
        text="What to inherit: a shipped template, or a file relative to the spec.",
        examples=["science", "../base.yaml"],
    ),
    "debian": Field(
        shape=Choice(words_=tuple(DEBIAN_PYTHON), meant=_NUMBERS | _OTHER_RELEASES),
        text="Debian release. Follows from `python` when only that is given.",
        examples=["bookworm"],
        default="bookworm",
    ),
    "python": Field(
        shape=Text(
            pattern="|".join(re.escape(version) for version in DEBIAN_PYTHON.values()),
            rule='a Python version such as "3.11"',
            improve=_better_python,
        ),
        text="Python version, one that the release brings; in quotes. Follows from `debian` when only that is given.",
        examples=["3.11"],
        default="3.11",
    ),
    "packages": Field(
        shape=ListOf(item=RequirementText(), longest=2000),
        text="Python packages, as requirements (PEP 508). `ipykernel` is always there.",
        examples=[["numpy>=2,<3", "pandas"]],
    ),
    "requirements": Field(
        shape=Text(
            pattern=rf"{_relative}(?:.*/)?(?:pyproject\.toml|[^/]+\.txt)",
            rule="a `.txt` file of requirements or a `pyproject.toml`, relative to the spec",
        ),
        text="File with more of them: a `requirements.txt`, or a `pyproject.toml` with `project.dependencies`.",
        examples=["requirements.txt", "pyproject.toml"],
    ),
    "index": Field(
        shape=MapOf(
            key="[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?",
            key_rule="a package's name",
            value=Text(pattern=r"https://[^\s@]+", rule="an `https://` URL without user or password"),
        ),
        text="Package index per package, instead of PyPI.",
        examples=[{"torch": "https://download.pytorch.org/whl/cu124"}],
        planned="other indexes than PyPI",
    ),
    "apt": Field(
        shape=_apt,
        text="Debian packages.",
        examples=[["git", "ffmpeg"]],
        planned="Debian packages beside Python's own",
    ),
    "cuda": Field(
        shape=_cuda, text="CUDA runtime.", examples=[{"version": "12.4", "cudnn": "9.1"}], planned="CUDA"
    ),
    "machine": Field(
        shape=machine, text="What the virtual machine is given.", examples=[{"cpus": 4, "memory": "8 GiB"}]
    ),
    "machines": Field(
        shape=MapOf(
            key=name.pattern,
            key_rule="a name of lower-case letters, digits, `.`, `_` and `-`",
            value=Record(fields=_MACHINE | _COUNTED, make=dict, noun="a mapping"),
            most=64,
        ),
        text="Several machines of this box, by name.",
        examples=[{"head": {"cpus": 2}, "worker": {"count": 3, "memory": "8 GiB"}}],
        planned="several machines from one spec",
    ),
    "preload": Field(
        shape=ListOf(item=Text(pattern=_module, rule="a module's name, such as `sklearn.svm`")),
        text="Modules that a warm machine's kernel has imported before it is asked for.",
        examples=[["numpy", "pandas"]],
    ),
    "env": Field(
        shape=MapOf(
            key="[A-Za-z_][A-Za-z0-9_]*",
            key_rule="a variable's name",
            value=Text(pattern=r"[^\0]*", rule="text without zero bytes", longest=10_000, digits_too=True),
        ),
        text="Environment variables of kernels and commands in the machine. No secrets: everybody reads a spec.",
        examples=[{"OMP_NUM_THREADS": "2"}],
    ),
    "share": Field(
        shape=ListOf(item=share),
        text="Folders of the host to see in the machine.",
        examples=[["./data:/data"]],
        planned="shared folders",
    ),
    "network": Field(
        shape=Choice(
            words_=("user", "none"), meant={"no": "none", "off": "none", "false": "none", "nat": "user"}
        ),
        text="`user`: the machine reaches out, nothing reaches in but `ports`. `none`: it reaches nothing.",
        default="user",
    ),
    "ports": Field(
        shape=ListOf(
            item=port, longest=64, same=lambda p: p.host, twice="port {} of the host is there twice"
        ),
        text='TCP ports of the machine to reach at 127.0.0.1 of the host, as "HOST:GUEST" in quotes.',
        examples=[["8888:8888"], [{"guest": 80, "host": 8080}]],
    ),
}

_IN_MACHINE = "it stands in `machine`"
document: Record[dict[str, Any]] = Record(
    fields=_FIELDS,
    make=dict,
    noun="a mapping of fields",
    elsewhere=MappingProxyType(
        dict.fromkeys(_MACHINE, _IN_MACHINE)
        | dict.fromkeys(("ram", "mem"), "write `memory` in `machine`")
        | dict.fromkeys(("cpu", "cores"), "write `cpus` in `machine`")
        | dict.fromkeys(("dependencies", "pip", "conda"), "write `packages`, or `requirements` for a file")
        | dict.fromkeys(("environment", "variables"), "write `env`")
        | dict.fromkeys(("os", "distro", "release", "image", "base", "box"), "write `debian`, or `template`")
        | dict.fromkeys(("volumes", "mounts"), "write `share`")
        | dict.fromkeys(("inherit", "extends", "from"), "write `template`")
        | {"version": "`schema` is the version of these rules; the lock has the packages' versions"}
    ),
)
