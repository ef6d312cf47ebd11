"""The table of compatibility: which builds of frameworks there are, and what each goes with.

Dated data, made by `tools/compatibility.py` from the wheels themselves and shipped as `compatibility.json`. A newer
one in the user's data folder wins, so that it can be updated without a new mlvm. Looking something up needs no network
and says one of three things: it fits, it does not, or nobody knows.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from mlvm.errors import LockError
from mlvm.files import write_whole
from mlvm.paths import Home

SCHEMA = 1
NAME = "compatibility.json"
SHIPPED = Path(__file__).parent / NAME
#: More than this is no table.
MOST_BYTES = 8 << 20
_DATE = re.compile(r"20[0-9]{2}-[0-9]{2}-[0-9]{2}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Build:
    """One version of a framework as it is on the index; `extra` is what brings NVIDIA's wheels along.

    `wants` are the versions of NVIDIA's packages that it requires; `cuda` is what it was built with, "12.1", or empty
    when it takes any of CUDA `cuda_major`; `bundled` when CUDA's libraries are inside of it. `arch` and `ptx` are the
    compute capabilities that its kernels are for, as machine code and as code that newer GPUs translate; both empty
    when that is not known.
    """

    framework: str
    version: Version
    pythons: tuple[str, ...]
    extra: str = ""
    cuda: str = ""
    cuda_major: int = 0
    cudnn: str = ""
    wants: Mapping[str, SpecifierSet]
    arch: tuple[str, ...] = ()
    ptx: tuple[str, ...] = ()
    bundled: bool = False

    @property
    def pinned(self) -> bool:
        """Whether it goes with the one CUDA that it was built with, rather than with any from some on."""
        runtime = next((str(wanted) for name, wanted in self.wants.items() if _is_runtime(name)), "==")
        return bool(self.cuda) and runtime.startswith("==")

    def runs_on(self, capability: str) -> bool | None:
        """Tell whether its kernels run on a GPU of this compute capability; None when that is not known."""
        if not self.arch and not self.ptx:
            return None
        wanted = _numbers(capability)
        same = any(_numbers(a)[0] == wanted[0] and _numbers(a) <= wanted for a in self.arch)
        return same or any(_numbers(a) <= wanted for a in self.ptx)

    @property
    def lowest_arch(self) -> str:
        """The oldest compute capability that its kernels run on, or empty."""
        return min((*self.arch, *self.ptx), key=_numbers, default="")


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A whole table. `toolkits` are NVIDIA's packages by release of CUDA; `cudnn` its releases by package name."""

    date: str
    path: Path
    drivers: Mapping[str, str]
    drivers_source: str
    cudnn: Mapping[str, tuple[str, ...]]
    toolkits: Mapping[str, Mapping[str, str]]
    builds: Mapping[str, tuple[Build, ...]]

    def oldest_driver(self, cuda: str) -> str | None:
        """Return the oldest driver for a CUDA such as "12.1"; None when that is not known."""
        major, _, rest = cuda.partition(".")
        return self.drivers.get(f"{major}.{rest.partition('.')[0]}") or self.drivers.get(major)

    def releases(self, cuda: str) -> list[str]:
        """Return the releases of CUDA that "12", "12.1" or "12.1.1" means, oldest first."""
        wanted = _numbers(cuda)
        return [release for release in self.toolkits if _numbers(release)[: len(wanted)] == wanted]

    def cudnn_releases(self, cuda: str, cudnn: str) -> list[str]:
        """Return the releases of cuDNN for a CUDA that "8.9" means, oldest first."""
        wanted = _numbers(cudnn)
        known = self.cudnn.get(cudnn_package(cuda), ())
        return [release for release in known if _numbers(release)[: len(wanted)] == wanted]

    def toolkit_for(self, build: Build, cuda: str) -> str | None:
        """Return the release that `cuda` means whose packages `build` wants, or None when there is none such."""
        best: tuple[int, Version] | None = None
        found = None
        for release in self.releases(cuda):
            wrong = self.conflicts(build, release)
            runtimes = [name for name in build.wants if _is_runtime(name)]
            known = any(name == "cuda-toolkit" or name in self.toolkits[release] for name in runtimes)
            if not known or any(name in wrong for name in runtimes):
                continue
            if wrong and not build.pinned:
                continue
            rank = (-len(wrong), Version(release))
            if best is None or rank > best:
                best, found = rank, release
        return found

    def conflicts(self, build: Build, release: str) -> list[str]:
        """Return the packages of a release that `build` wants in other versions."""
        parts = {**self.toolkits[release], "cuda-toolkit": release}
        return [
            name for name, wanted in build.wants.items() if name in parts and not _meet(wanted, parts[name])
        ]

    def part(self, release: str, name: str) -> str:
        """Return the specifier of a package of a release: most are pinned, some only bounded."""
        text = self.toolkits[release][name]
        return text if text[0] in "<>=!~" else f"=={text}"

    def goes_with(self, build: Build, cuda: str) -> bool | None:
        """Tell whether `build` goes with `cuda`; None when that is not known."""
        if not build.cuda and not build.cuda_major:
            return None
        if build.cuda == cuda:
            # What it was built with is right, whatever `cuda-toolkit` says: that of 12.5.1 names the parts of 12.5.0.
            return True
        if build.cuda and (build.pinned or not build.wants):
            wanted = _numbers(cuda)
            if _numbers(build.cuda)[: len(wanted)] != wanted[:2]:
                return False
            return not build.wants or not self.releases(cuda) or self.toolkit_for(build, cuda) is not None
        if not self.releases(cuda):
            return None
        return self.toolkit_for(build, cuda) is not None


def cudnn_package(cuda: str) -> str:
    """Return the name of the wheel with cuDNN for a CUDA such as "12.1"."""
    return f"nvidia-cudnn-cu{cuda.partition('.')[0]}"


def _meet(wanted: SpecifierSet, part: str) -> bool:
    """Tell whether a version can be both: `part` is one, "12.1.105.*", or the bounds of one, "<14,>=13.0.88"."""
    if part[0].isdigit():
        return wanted.contains(part.removesuffix(".*"))
    bounds = SpecifierSet(part)
    lowest = [one.version for one in (*bounds, *wanted) if one.operator in {">=", "=="}]
    return any(bounds.contains(version) and wanted.contains(version) for version in lowest)


def _is_runtime(name: str) -> bool:
    return name == "cuda-toolkit" or name.startswith("nvidia-cuda-runtime")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def find(home: Home | None = None) -> Table:
    """Return the table that counts: the user's own where it is newer, else the shipped one. Raises LockError."""
    shipped = load(SHIPPED)
    if home is None or not (home.data / NAME).exists():
        return shipped
    own = load(home.data / NAME)
    return own if own.date > shipped.date else shipped


def use(source: Path, home: Home, *, sha256: str | None = None) -> Table:
    """Make the table in file `source` the user's own, after reading it whole. Raises LockError."""
    try:
        content = source.read_bytes()
    except OSError as broken:
        raise LockError(f"`{source}` cannot be read: {broken.strerror}") from None
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and sha256.removeprefix("sha256:").lower() != found:
        raise LockError(
            f"`{source}` is not the table it should be",
            details=f"its sha256 is {found}, {sha256} is wanted",
            hint="fetch it again",
        )
    table = load(source)
    home.data.mkdir(parents=True, exist_ok=True)
    write_whole(home.data / NAME, content.decode())
    return table


def load(path: Path) -> Table:
    """Read a table. Raises LockError when it is none."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError("it is too large")
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema"] != SCHEMA:
            raise ValueError(f"its schema is {document['schema']!r}; this mlvm reads {SCHEMA}")
        if not _DATE.fullmatch(document["date"]):
            raise ValueError("it has no date")
        return Table(
            date=document["date"],
            path=path,
            drivers=dict(document["drivers"]["oldest"]),
            drivers_source=str(document["drivers"]["source"]),
            cudnn={name: tuple(releases) for name, releases in document["cudnn"].items()},
            toolkits={release: dict(parts) for release, parts in document["toolkits"].items()},
            builds={
                framework: tuple(_build(framework, row) for row in rows)
                for framework, rows in document["frameworks"].items()
            },
        )
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        InvalidSpecifier,
        InvalidVersion,
    ) as broken:
        what = f"`{broken.args[0]}` is missing" if isinstance(broken, KeyError) else str(broken)
        raise LockError(
            f"`{path}` is not a table of compatibility: {what[:200]}",
            hint="remove it: a table is shipped with mlvm",
        ) from None


def _build(framework: str, row: Mapping[str, Any]) -> Build:
    return Build(
        framework=framework,
        version=Version(row["version"]),
        pythons=tuple(row["pythons"]),
        extra=row.get("extra", ""),
        cuda=row.get("cuda", ""),
        cuda_major=row.get("cuda_major", 0),
        cudnn=row.get("cudnn", ""),
        wants={name: SpecifierSet(text) for name, text in row.get("wants", {}).items()},
        arch=tuple(row.get("arch", ())),
        ptx=tuple(row.get("ptx", ())),
        bundled=bool(row.get("bundled", False)),
    )
