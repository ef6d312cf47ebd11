"""Make mlvm/lock/compatibility.json: which framework goes with which Python, CUDA, cuDNN and GPU.

Everything comes from the wheels on the package index themselves, by name of source:
  tags      the names of a version's wheels say which Pythons it was built for
  requires  Requires-Dist in METADATA says which of NVIDIA's wheels it wants, exactly or at least
  build     what the build wrote into the wheel (torch/version.py, tensorflow's build_info.py)
  code      for which GPUs the first of its kernels were compiled, read from the library itself
The oldest driver of each CUDA is NVIDIA's own table, typed in below with its place and date.

    .venv/bin/python tools/compatibility.py [FILE]

asks the index some hundred times and reads some megabytes of each wheel; it takes some minutes.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from far_wheel import FarWheel, wheels_of
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

TARGET = Path(__file__).parent.parent / "mlvm" / "lock" / "compatibility.json"

#: Typed in from NVIDIA's page: the oldest Linux driver on which programs of a CUDA run.
DRIVERS = {
    "source": "https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html",
    "read": "2026-11-24",
    "oldest": {
        "10.0": "410.48", "10.1": "418.39", "10.2": "440.33", "11": "450", "12": "525", "13": "580",
    },
}  # fmt: skip

#: Older ones would be asked for by nobody who can run them: their Pythons are in no Debian known here.
OLDEST = {"torch": "1.8", "tensorflow": "2.5", "jax": "0.4.30"}
#: NVIDIA's packages of CUDA 11 and 12 end in this; those of 13 have no ending.
SUFFIX = re.compile(r"-cu1[0-9]$")
#: cuDNN is apart from the toolkit, a package for each CUDA.
CUDNN = ("nvidia-cudnn-cu11", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13")
#: What a version's marker is asked for.
GUEST = {
    "platform_system": "Linux",
    "sys_platform": "linux",
    "platform_machine": "x86_64",
    "os_name": "posix",
}

Row = dict[str, Any]


def main(arguments: list[str]) -> None:
    """Write the table."""
    target = Path(arguments[0]) if arguments else TARGET
    table = {
        "schema": 1,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "made": "by tools/compatibility.py, from wheel names, METADATA and members on the package index",
        "drivers": DRIVERS,
        "cudnn": {package: releases_of(package) for package in CUDNN},
        "toolkits": toolkits(),
        "frameworks": {"torch": torch(), "tensorflow": tensorflow(), "jax": jax()},
    }
    target.write_text(text_of(table))
    print(f"wrote {target}: {target.stat().st_size} bytes")


def text_of(table: Mapping[str, Any]) -> str:
    """Return the table as JSON, a row a line, so that an update reads as one in version control."""

    def listed(rows: Iterable[Any], indent: str) -> str:
        return "[\n" + ",\n".join(indent + " " + json.dumps(row) for row in rows) + "\n" + indent + "]"

    def keyed(rows: Mapping[str, Any], indent: str, write: Callable[[Any], str]) -> str:
        return (
            "{\n"
            + ",\n".join(f"{indent} {json.dumps(k)}: {write(v)}" for k, v in rows.items())
            + "\n"
            + indent
            + "}"
        )

    parts = {key: json.dumps(table[key]) for key in ("schema", "date", "made", "drivers")}
    parts["cudnn"] = keyed(table["cudnn"], " ", json.dumps)
    parts["toolkits"] = keyed(table["toolkits"], " ", json.dumps)
    parts["frameworks"] = keyed(table["frameworks"], " ", lambda rows: listed(rows, "  "))
    return "{\n" + ",\n".join(f" {json.dumps(key)}: {text}" for key, text in parts.items()) + "\n}\n"


def usable(name: str) -> dict[Version, list[FarWheel]]:
    """Return the wheels of a project that a guest can use, by version, without pre-releases."""
    found: dict[Version, list[FarWheel]] = {}
    for file in wheels_of(name):
        _, version, _, tags = parse_wheel_filename(file["filename"])
        fits = any(t.platform == "any" or re.match(r"(many)?linux.*_x86_64$", t.platform) for t in tags)
        if fits and not version.is_prerelease and version >= Version(OLDEST.get(name, "0")):
            found.setdefault(version, []).append(FarWheel(file))
    return dict(sorted(found.items()))


def pythons(wheels: Iterable[FarWheel]) -> list[str]:
    """Return the Pythons that wheels are built for; free-threaded builds are called `3.13t`."""
    found = set()
    for wheel in wheels:
        for tag in parse_wheel_filename(wheel.file["filename"])[3]:
            if match := re.fullmatch(r"cp3([0-9]+)", tag.interpreter):
                found.add((int(match[1]), "t" if tag.abi.endswith("t") else ""))
    return [f"3.{minor}{threads}" for minor, threads in sorted(found)]


def releases_of(name: str) -> list[str]:
    """Return the versions of a project that a guest can use."""
    return [str(version) for version in usable(name)]


def toolkits() -> dict[str, dict[str, str]]:
    """Return which versions of NVIDIA's packages make up each release of CUDA."""
    versions = usable("cuda-toolkit")

    def parts(wheels: list[FarWheel]) -> dict[str, str]:
        wanted = requirements(wheels[0], extra="all")
        return {name: str(one.specifier).removeprefix("==") for name, one in sorted(wanted.items())}

    with ThreadPoolExecutor(8) as pool:
        return dict(zip(map(str, versions), pool.map(parts, versions.values()), strict=True))


def requirements(wheel: FarWheel, *, extra: str = "") -> dict[str, Requirement]:
    """Return NVIDIA's packages among what a wheel requires in a guest, by name."""
    found: dict[str, Requirement] = {}
    for one in wheel.metadata().requires_dist or ():
        name = canonicalize_name(one.name)
        marker = one.marker is None or one.marker.evaluate(
            {**GUEST, "extra": extra, "python_version": "3.11"}
        )
        if marker and (name.startswith(("nvidia-", "jax-")) or name in {"cuda-toolkit", "jaxlib"}):
            found[name] = one
    return found


def row(version: Version, built_for: list[str], wanted: Mapping[str, Requirement], *, extra: str = "") -> Row:
    """Return what tags and requirements say."""
    found: Row = {"version": str(version), "pythons": built_for, "from": ["tags"]}
    if extra:
        found["extra"] = extra
    plain = {SUFFIX.sub("", name): one for name, one in wanted.items()}
    if "nvidia-cuda-runtime" in plain or "cuda-toolkit" in plain:
        found["from"].append("requires")
        runtime = plain.get("nvidia-cuda-runtime")
        toolkit = plain.get("cuda-toolkit")
        found["wants"] = {
            name: str(one.specifier)
            for name, one in sorted(wanted.items())
            if name.startswith(("nvidia-", "cuda-"))
        }
        pinned = re.fullmatch(r"==([0-9]+)\.([0-9]+)[.0-9*]*", str((toolkit or runtime).specifier))  # type: ignore[union-attr]
        if pinned:
            found["cuda"] = f"{pinned[1]}.{pinned[2]}"
        else:
            major = re.search(r"-cu([0-9]+)$", next((n for n in wanted if SUFFIX.search(n)), ""))
            found["cuda_major"] = int(major[1]) if major else 13
        if "nvidia-cudnn" in plain:
            found["cudnn"] = str(plain["nvidia-cudnn"].specifier)
    return found


def with_code(found: Row, machine: set[int], ptx: set[int]) -> Row:
    """Add the GPUs that kernels were compiled for."""
    if machine:
        found["from"].append("code")
        found["arch"] = [f"{a // 10}.{a % 10}" for a in sorted(machine)]
        if ptx:
            found["ptx"] = [f"{a // 10}.{a % 10}" for a in sorted(ptx)]
    return found


def torch() -> list[Row]:
    """Rows of torch: CUDA is what version.py says it was built with."""

    def one(item: tuple[Version, list[FarWheel]]) -> Row:
        version, wheels = item
        wheel = wheels[0]
        found = row(version, pythons(wheels), requirements(wheel))
        if built := re.search(r"^cuda(?:: \S+)? = '([0-9.]+)'", wheel.read("torch/version.py"), re.MULTILINE):
            found["cuda"] = built[1]
            found["from"].append("build")
        found["bundled"] = "wants" not in found
        libraries = ("/libtorch_cuda.so", "/libtorch_cuda_cu.so")
        return with_code(found, *wheel.gpu_code(*libraries))

    return _each(one, usable("torch"))


def tensorflow() -> list[Row]:
    """Rows of tensorflow: its build_info says CUDA, cuDNN and GPUs; NVIDIA's wheels come with extra `and-cuda`."""

    def one(item: tuple[Version, list[FarWheel]]) -> Row:
        version, wheels = item
        wheel = wheels[0]
        wanted = requirements(wheel, extra="and-cuda")
        found = row(version, pythons(wheels), wanted, extra="and-cuda" if wanted else "")
        text = wheel.read("tensorflow/python/platform/build_info.py")
        if built := re.search(r"OrderedDict\((\[.*\])\)", text):
            info = dict(ast.literal_eval(built[1]))
            if info.get("is_cuda_build"):
                found["from"].append("build")
                found["cuda"] = ".".join(info["cuda_version"].split(".")[:2])
                found.setdefault("cudnn", f"=={info['cudnn_version']}.*")
                arch = info.get("cuda_compute_capabilities", [])
                found["arch"] = [f"{a[3:-1]}.{a[-1]}" for a in arch if a.startswith("sm_")]
                found["ptx"] = [f"{a[8:-1]}.{a[-1]}" for a in arch if a.startswith("compute_")]
        found["bundled"] = False
        return found

    return _each(one, usable("tensorflow"))


def jax() -> list[Row]:
    """Rows of jax: a version for each CUDA, whose plugin says what it wants; Pythons are those of its jaxlib."""
    libraries = usable("jaxlib")
    plugins = {major: usable(f"jax-cuda{major}-plugin") for major in (12, 13)}

    def one(item: tuple[Version, list[FarWheel]]) -> list[Row]:
        version, wheels = item
        rows = []
        for major, known in plugins.items():
            extra = f"cuda{major}"
            wanted = requirements(wheels[0], extra=extra)
            plugin, library = wanted.get(f"jax-cuda{major}-plugin"), wanted.get("jaxlib")
            if plugin is None or library is None:
                continue
            chosen = _newest(known, plugin)
            built_for = _newest(libraries, library)
            if chosen is None or built_for is None:
                continue
            needs = requirements(known[chosen][0], extra="with-cuda")
            both = set(pythons(known[chosen])) & set(pythons(libraries[built_for]))
            found = row(version, sorted(both, key=_python_key), needs, extra=extra)
            found["bundled"] = False
            rows.append(with_code(found, *known[chosen][0].gpu_code("/_prng.so")))
        return rows

    return [found for rows in _each(one, usable("jax")) for found in rows]


def _newest(known: Mapping[Version, object], wanted: Requirement) -> Version | None:
    return max((version for version in known if version in wanted.specifier), default=None)


def _python_key(text: str) -> tuple[int, str]:
    minor = re.fullmatch(r"3\.([0-9]+)(t?)", text)
    assert minor
    return int(minor[1]), minor[2]


def _each(
    one: Callable[[tuple[Version, list[FarWheel]]], Any], versions: Mapping[Version, list[FarWheel]]
) -> list[Any]:
    with ThreadPoolExecutor(6) as pool:
        return list(pool.map(one, versions.items()))


if __name__ == "__main__":
    main(sys.argv[1:])
