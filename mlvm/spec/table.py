"""The whole document, declared once: every field with its shape, what it is for, and examples.

The reader, the JSON Schema and the reference in docs/spec.md are all made from this table, so a field cannot be in
one and not in another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from types import MappingProxyType
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from mlvm.spec.document import (
    DEBIAN_NUMBER,
    DEBIAN_PYTHON,
    PYTHONS,
    CudaWish,
    PortForward,
    SharedFolder,
)
from mlvm.spec.fields import Either, EitherWord, Field, ListOf, MapOf, Record, Shape
from mlvm.spec.machines import ELSEWHERE, LONGEST_NAME, MACHINE, NAME_PATTERN, member
from mlvm.spec.requirements import RequirementText
from mlvm.spec.scalars import Choice, Text, Truth, Whole, quoted

#: The last number of each release's Python: a stable Debian release keeps it, and mends with patches.
FULL_PYTHON = MappingProxyType({"bullseye": "3.9.2", "bookworm": "3.11.2", "trixie": "3.13.5"})

#: The version of the document's rules that this mlvm reads.
SCHEMA = 1

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


name = Text(pattern=NAME_PATTERN, rule=NAME_RULE, longest=LONGEST_NAME, improve=_better_name)


def release_of(python: str) -> str | None:
    """Return the Debian release that brings this Python, if one does."""
    return next((release for release, brought in DEBIAN_PYTHON.items() if brought == python), None)


def pythons_allowed(limit: SpecifierSet) -> list[str]:
    """Return the Pythons of which some version is within `limit`."""
    return [python for python in PYTHONS if any(limit.contains(one) for one in full_pythons(python))]


def pythons_for(limit: SpecifierSet) -> list[str]:
    """Return the Pythons within `limit`, best first: those that a current release brings, then the newest.

    An old release is for whoever asks for it, and so is a free-threaded Python.
    """
    own = [(python, release) for release, python in DEBIAN_PYTHON.items() if release != "bullseye"]
    fitting = [python for python, release in own if limit.contains(full_pythons(python, release)[0])]
    return [*fitting, *reversed([one for one in pythons_allowed(limit) if not one.endswith("t")])]


def full_pythons(python: str, debian: str | None = None) -> list[str]:
    """Return what the exact version may turn out to be: one for a release's own Python, else the lock decides."""
    if debian is not None and DEBIAN_PYTHON[debian] == python:
        return [FULL_PYTHON[debian]]
    return [f"{python.rstrip('t')}.{number}" for number in range(40)]


def listed(pythons: Iterable[str]) -> str:
    """Name Pythons as they are written, for complaints."""
    return ", ".join(f'"{python}"' for python in pythons)


def _better_python(text: str) -> str | None:
    found = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,3})?)(?:\.[0-9]{1,3})?(t?)", text)
    if found is None or text in PYTHONS:
        return None
    minor = found[1] + found[2]
    if minor in PYTHONS:
        return f"the lock decides the last number of python {text}; write {quoted(minor)}"
    return f"python {text} cannot be had; there are {listed(PYTHONS)}"


_OTHER_RELEASES = dict.fromkeys(
    ("buster", "10", "forky", "14", "ubuntu", "jammy", "noble"), "not yet: other releases"
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
_project = "[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_place = r"/(?!\.\.?(?:/|$))[^:/\0\n][^:\0\n]*"


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
    from_short=_port_from_text,
    long=Record(
        fields={
            "guest": Field(shape=_port_number, text="TCP port in the machine.", required=True),
            "host": Field(shape=_port_number, text="Port on 127.0.0.1 of the host; else the guest's."),
        },
        make=_port,
        noun="two ports",
    ),
)

# Nothing above the spec: a project that comes from somebody else must not get at its reader's other files.
_below = rf"{_relative}(?!(?:.*/)?\.\.(?:[/:]|$))[^:\0\n]+"


def _better_folder(text: str) -> str | None:
    if ".." in text.split(":", maxsplit=1)[0].split("/"):
        return "a shared folder is the spec's own or one below it: without `..`"
    return None


def _share_from_text(text: str) -> SharedFolder:
    folder, place, *mode = text.split(":")
    return SharedFolder(folder=folder, at=place, write=mode == ["rw"])


def _share(values: dict[str, Any]) -> SharedFolder:
    return SharedFolder(folder=values["folder"], at=values.get("at"), write=values.get("write", False))


share = Either(
    short=Text(
        pattern=f"{_below}:{_place}(?::r[ow])?",
        rule='a shared folder as "FOLDER:PLACE" or "FOLDER:PLACE:rw", relative to the spec and absolute in the machine',
        improve=_better_folder,
    ),
    from_short=_share_from_text,
    long=Record(
        fields={
            "folder": Field(
                shape=Text(pattern=_below, rule="a folder, relative to the spec", improve=_better_folder),
                text="Folder of the host, relative to the spec.",
                required=True,
            ),
            "at": Field(
                shape=Text(pattern=_place, rule="an absolute path in the machine"),
                text="Where it appears in the machine; else at /work/NAME.",
            ),
            "write": Field(shape=Truth(), text="Whether the machine may write to it.", default=False),
        },
        make=_share,
        noun="a share",
    ),
)
shares = EitherWord(
    words_={
        "rw": (SharedFolder(folder=".", write=True),),
        "ro": (SharedFolder(folder="."),),
    },
    other=ListOf(item=share, longest=64, same=lambda one: one.at or one.folder, twice="`{}` is there twice"),
)

_TOP_LEVEL = "it stands at the top level, not in `machine`"
machine: Record[dict[str, Any]] = Record(
    fields=MACHINE,
    make=dict,
    noun="a mapping",
    elsewhere={
        **ELSEWHERE,
        **dict.fromkeys(("env", "network", "ports", "share", "python", "debian", "packages"), _TOP_LEVEL),
    },
)

members = member(port)

cuda: Record[CudaWish] = Record(
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
        "allow_unknown": Field(
            shape=Truth(),
            text="Whether pairs that the table of compatibility does not know are let pass.",
            default=False,
        ),
    },
    make=lambda values: CudaWish(**values),
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
            pattern="|".join(re.escape(version) for version in PYTHONS),
            rule='a Python version such as "3.11"',
            improve=_better_python,
        ),
        text="Python version, in quotes: 3.9 to 3.14 on any release, and 3.14t, free-threaded. Follows from "
        "`debian` when only that is given.",
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
            key=_project,
            key_rule="a package's name",
            value=Text(pattern=r"https://[^\s@]+", rule="an `https://` URL without user or password"),
        ),
        text="Package index per package, instead of PyPI; passwords stay in your netrc.",
        examples=[{"torch": "https://download.pytorch.org/whl/cu124"}],
    ),
    "sdists": Field(
        shape=ListOf(
            item=Text(pattern=_project, rule="a package's name"),
            same=canonicalize_name,
        ),
        text="Packages to build from their sources, in a throw-away machine without network.",
        examples=[["docopt"]],
    ),
    "editable": Field(
        shape=ListOf(
            item=Text(pattern=_below, rule="a folder, relative to the spec", improve=_better_folder),
            longest=32,
            same=lambda folder: folder.rstrip("/"),
        ),
        text="Folders of the project with a `pyproject.toml`, whose code the machine imports from where it is.",
        examples=[["."]],
    ),
    "apt": Field(
        shape=_apt,
        text="Debian packages, `NAME` or `NAME=VERSION`.",
        examples=[["git", "ffmpeg"]],
    ),
    "cuda": Field(
        shape=cuda, text="CUDA runtime (docs/cuda.md).", examples=[{"version": "12.4", "cudnn": "9.1"}]
    ),
    "machine": Field(
        shape=machine, text="What the virtual machine is given.", examples=[{"cpus": 4, "memory": "8 GiB"}]
    ),
    "machines": Field(
        shape=MapOf(
            key=NAME_PATTERN,
            key_rule="a name of lower-case letters, digits, `.`, `_` and `-`",
            value=members,
            most=64,
        ),
        text="Several machines instead of one, by name; each may say what `machine` says, and more.",
        examples=[{"head": {"ready": {"port": 22}}, "worker": {"count": 3, "after": ["head"]}}],
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
        shape=shares,
        text="Folders of the host to see in the machine. Without it the project's own, as /work/NAME, to read and "
        "write; `ro`: read-only; `[]`: none.",
        examples=[["./data:/data"], "ro", []],
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
        dict.fromkeys(MACHINE, _IN_MACHINE)
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
