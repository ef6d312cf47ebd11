"""From a wish for CUDA to what uv is asked for, and from what uv found to the lock's record of it.

NVIDIA's `cuda-toolkit` says which versions of its packages make up a release of CUDA. These become constraints, so
that whatever brings CUDA libraries along (a framework, or the spec itself) brings those of one release; packages that
frameworks leave open are pinned with the rest. cuDNN is apart from it, and has a constraint of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from packaging.pylock import Package, Pylock
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from mlvm.lock.compatibility import Build, Table, cudnn_package
from mlvm.lock.document import CudaRecord
from mlvm.lock.fit import Fit
from mlvm.spec.document import Spec

#: What every box with CUDA has: the runtime and the compiler at run time, which most programs load.
RUNTIME = ("cudart", "nvrtc")
#: What nvcc needs beside itself, by the names of `cuda-toolkit`'s extras.
COMPILER = ("nvcc", "nvvm", "crt", "cccl")

_RUNTIME_WHEEL = re.compile(r"nvidia-cuda-runtime(?:-cu1[12])?")
_CUDNN_WHEEL = re.compile(r"nvidia-cudnn-cu[0-9]+")
#: NVIDIA's packages that are a layer of their own.
OF_CUDA = re.compile(r"nvidia-.+|cuda-toolkit")


@dataclass(frozen=True, kw_only=True, slots=True)
class Wishes:
    """What uv is asked for: the spec's requirements with CUDA's, and constraints on whatever is brought along."""

    requirements: tuple[str, ...]
    constraints: tuple[str, ...] = ()


def parted(packages: Iterable[Package]) -> tuple[list[Package], list[Package]]:
    """Part locked packages into those of CUDA, which are gigabytes and seldom move, and all others."""
    every = list(packages)
    cuda = [package for package in every if OF_CUDA.fullmatch(str(package.name))]
    return cuda, [package for package in every if package not in cuda]


def wishes(spec: Spec, fit: Fit, table: Table) -> Wishes:
    """Return what to ask uv for; without `cuda` in the spec that is what the spec says."""
    if spec.cuda is None:
        return Wishes(requirements=spec.packages)
    wish = spec.cuda
    requirements = [_with_extra(text, fit) for text in spec.packages]
    constraints = [text for builds in fit.builds.values() for text in _versions(builds, table)]
    if release := _release(spec, fit, table):
        left_out = {
            name for builds in fit.builds.values() if builds for name in table.conflicts(builds[-1], release)
        }
        wanted = {*RUNTIME, *(COMPILER if wish.nvcc else ())}
        extras = sorted(extra for extra in wanted if not any(_brings(extra, name) for name in left_out))
        requirements.append(f"cuda-toolkit[{','.join(extras)}]=={release}")
        constraints += [
            f"{name}{table.part(release, name)}"
            for name in sorted(table.toolkits[release])
            if name not in left_out
        ]
    else:
        constraints += [text for builds in fit.builds.values() for text in _by_number(builds, wish.version)]
    if wish.cudnn:
        requirements.append(f"{cudnn_package(wish.version)}=={wish.cudnn}.*")
    return Wishes(requirements=tuple(requirements), constraints=tuple(constraints))


def _brings(extra: str, name: str) -> bool:
    """Tell whether an extra of `cuda-toolkit` brings a package: a framework may want another version of that one."""
    word = {"cudart": "cuda-runtime"}.get(extra, f"cuda-{extra}")
    return re.fullmatch(rf"nvidia-{word}(-cu1[0-9])?", name) is not None


def _with_extra(text: str, fit: Fit) -> str:
    """Return a framework's requirement with the extra that brings NVIDIA's wheels."""
    requirement = Requirement(text)
    builds = fit.builds.get(canonicalize_name(requirement.name), ())
    if builds and builds[-1].extra:
        requirement.extras.add(builds[-1].extra)
    return str(requirement)


def _versions(builds: tuple[Build, ...], table: Table) -> Iterable[str]:
    """Yield constraints that keep a framework to the builds that fit."""
    if not builds:
        return
    name, fitting = builds[0].framework, {build.version for build in builds}
    lowest, highest = min(fitting), max(fitting)
    between = {b.version for b in table.builds[name] if lowest < b.version < highest} - fitting
    yield f"{name}>={lowest},<={highest}" + "".join(f",!={version}" for version in sorted(between))


def _by_number(builds: tuple[Build, ...], cuda: str) -> Iterable[str]:
    """Yield constraints on those of NVIDIA's packages that are numbered like CUDA itself, where no release fits."""
    minor = ".".join(cuda.split(".")[:2])
    for name, wanted in builds[-1].wants.items() if builds else ():
        numbered = re.fullmatch(r"nvidia-(cuda-(runtime|nvrtc|nvcc|cupti)|nvjitlink)(-cu1[12])?", name)
        if numbered and "==" not in str(wanted):
            yield f"{name}=={minor}.*"


def _release(spec: Spec, fit: Fit, table: Table) -> str | None:
    """Return the release of CUDA to take: the one the frameworks are built for, else the newest that is meant."""
    assert spec.cuda is not None
    newest = [builds[-1] for builds in fit.builds.values() if builds]
    for build in newest:
        if build.wants and (found := table.toolkit_for(build, spec.cuda.version)):
            return found
    if any(build.bundled or build.wants for build in newest):
        return None  # they bring what they want: another CUDA beside that helps nobody
    meant = table.releases(spec.cuda.version)
    return meant[-1] if meant else None


def needs_of(spec: Spec, table: Table) -> CudaRecord:
    """Return what the spec's CUDA needs of a host, before there is a lock."""
    assert spec.cuda is not None
    minor = ".".join(spec.cuda.version.split(".")[:2])
    known = [driver for driver in (table.oldest_driver(minor), spec.cuda.driver) if driver]
    driver = max(known, key=Version, default="")
    return CudaRecord(version=minor, cudnn="", driver=driver, arch="", table=table.date)


def record_of(pylock: Pylock, spec: Spec, fit: Fit, table: Table) -> CudaRecord | None:
    """Return what the lock says of CUDA; None when there is none among its wheels."""
    versions = {str(package.name): str(package.version) for package in pylock.packages}
    cuda = _cuda_in(versions, fit)
    if not cuda:
        return None
    drivers = [table.oldest_driver(cuda) or "", (spec.cuda.driver if spec.cuda else None) or ""]
    known = [Version(driver) for driver in drivers if driver]
    locked = [
        build
        for builds in fit.builds.values()
        for build in builds
        if versions.get(build.framework) == str(build.version) and build.lowest_arch
    ]
    return CudaRecord(
        version=cuda,
        cudnn=next((v for name, v in sorted(versions.items()) if _CUDNN_WHEEL.fullmatch(name)), ""),
        driver=str(max(known)) if known else "",
        arch=max((build.lowest_arch for build in locked), key=Version, default=""),
        table=table.date,
    )


def _cuda_in(versions: Mapping[str, str], fit: Fit) -> str:
    """Return the CUDA among locked versions, "12.1": of the runtime's wheel, else of a framework that carries it."""
    for name, version in sorted(versions.items()):
        if _RUNTIME_WHEEL.fullmatch(name):
            return ".".join(version.split(".")[:2])
    for builds in fit.builds.values():
        for build in builds:
            if build.bundled and versions.get(build.framework) == str(build.version):
                return build.cuda
    return ""
