"""What a spec asks for, held against the table of compatibility: refused before anything is fetched if it cannot be.

Frameworks are looked at one by one: of the builds that the spec's requirement allows, those for its Python, of these
those for its CUDA, its cuDNN and its GPUs. Where nothing is left, the complaint names what was asked for and the
nearest that works. What the table does not know is not taken for wrong: without `cuda` the resolver finds out, with it
the spec has to say that unknown pairs are let pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from mlvm.errors import ResolveError
from mlvm.lock.compatibility import Build, Table, cudnn_package
from mlvm.spec.document import CudaWish, Spec

#: Where compilers for older CUDAs are, since NVIDIA's wheels of these hold none.
OLD_COMPILERS = (
    "Debian's non-free archive has 11.8 (bookworm) and 12.4 (trixie): `apt-get install nvidia-cuda-toolkit`"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Misfit:
    """One thing that does not go together, what would, and whether it is only not known to."""

    what: str
    nearest: str = ""
    unknown: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """The builds of each framework in the spec that fit it, everything that does not, and what is let pass unknown."""

    builds: Mapping[str, tuple[Build, ...]]
    misfits: tuple[Misfit, ...]
    let_pass: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise ResolveError when something does not go together."""
        if not self.misfits:
            return
        first = self.misfits[0]
        hint = first.nearest
        if all(misfit.unknown for misfit in self.misfits):
            hint = "put `allow_unknown: true` into `cuda` to try it, or: " + (hint or "mlvm compat")
        if len(self.misfits) == 1:
            raise ResolveError(first.what, hint=hint)
        raise ResolveError(
            "what the spec asks for does not go together",
            details="\n".join(f"{m.what}: {m.nearest}" if m.nearest else m.what for m in self.misfits),
            hint=hint,
        )


def fit(spec: Spec, table: Table) -> Fit:
    """Hold `spec` against `table`: pure, and quick."""
    misfits = list(_cuda_misfits(spec.cuda, table)) if spec.cuda else []
    if any(not misfit.unknown for misfit in misfits):
        spec = replace(spec, cuda=None)  # what is wrong by itself is not told again of every framework
    misfits += _unused_index(spec)
    builds: dict[str, tuple[Build, ...]] = {}
    for requirement in map(Requirement, spec.packages):
        name = canonicalize_name(requirement.name)
        if (
            name not in table.builds
            or requirement.url
            or (requirement.marker and not _applies(requirement, spec))
        ):
            continue
        if name in spec.index:
            what = f"`{requirement}` is of another index, which the table does not know"
            misfits.append(Misfit(what=what, unknown=True))
            continue
        found = _framework(requirement, spec, table)
        if isinstance(found, Misfit):
            misfits.append(found)
        else:
            builds[name] = found
    let_pass = spec.cuda is None or spec.cuda.allow_unknown
    return Fit(
        builds=builds,
        misfits=tuple(misfit for misfit in misfits if not (misfit.unknown and let_pass)),
        let_pass=tuple(misfit.what for misfit in misfits if misfit.unknown and let_pass),
    )


def _unused_index(spec: Spec) -> Iterable[Misfit]:
    """Yield what has an index of its own and is not asked for: uv would never look there."""
    asked = {canonicalize_name(Requirement(text).name) for text in spec.packages}
    for name in sorted(spec.index.keys() - asked):
        yield Misfit(
            what=f"`{name}` has an index and is not among the packages", nearest=f"`{name}` in `packages`"
        )


def _applies(requirement: Requirement, spec: Spec) -> bool:
    environment = {
        "python_version": spec.python.rstrip("t"),
        "sys_platform": "linux",
        "platform_machine": "x86_64",
    }
    return requirement.marker is None or requirement.marker.evaluate({**environment, "extra": ""})


def _cuda_misfits(wish: CudaWish, table: Table) -> Iterable[Misfit]:
    """Yield what is wrong with the wish for CUDA alone."""
    releases = table.releases(wish.version)
    pinned = {build.cuda for builds in table.builds.values() for build in builds}
    minor = ".".join(wish.version.split(".")[:2])
    if not releases and minor not in pinned:
        newest = max(table.toolkits, key=Version, default="0")
        known = _near(wish.version, {".".join(r.split(".")[:2]) for r in table.toolkits} | (pinned - {""}))
        yield Misfit(
            what=f"no CUDA {wish.version} is known in NVIDIA's wheels (table of {table.date})",
            nearest=f"cuda {known}",
            unknown=Version(wish.version) > Version(newest),
        )
        return
    if wish.cudnn and not table.cudnn_releases(wish.version, wish.cudnn):
        package = cudnn_package(wish.version)
        known = _near(wish.cudnn, {".".join(r.split(".")[:2]) for r in table.cudnn.get(package, ())})
        newest = (table.cudnn.get(package) or ("0",))[-1]
        yield Misfit(
            what=f"there is no cuDNN {wish.cudnn} for CUDA {wish.version} in NVIDIA's wheels (table of {table.date})",
            nearest=f"cudnn {known}" if known else "",
            unknown=Version(wish.cudnn) > Version(newest),
        )
    oldest = table.oldest_driver(minor)
    if wish.driver and oldest and Version(wish.driver) < Version(oldest):
        newer = _cuda_for_driver(wish.driver, table)
        yield Misfit(
            what=f"driver {wish.driver} is too old for CUDA {wish.version}, which needs {oldest} or newer",
            nearest=f"driver {oldest}" + (f", or cuda {newer}" if newer else ""),
        )
    if wish.nvcc and int(wish.version.split(".")[0]) < 13:
        yield Misfit(
            what=f"NVIDIA's wheels of CUDA {wish.version} hold no nvcc, only its assembler and headers",
            nearest=f"cuda 13 or later, or no `nvcc` ({OLD_COMPILERS} in the machine)",
        )


def _cuda_for_driver(driver: str, table: Table) -> str:
    """Return the newest CUDA that runs on a driver, or empty."""
    found = [cuda for cuda, oldest in table.drivers.items() if Version(oldest) <= Version(driver)]
    return max(found, key=Version, default="")


def _framework(requirement: Requirement, spec: Spec, table: Table) -> tuple[Build, ...] | Misfit:
    """Return the builds of a framework that fit, or why none does."""
    every = [
        b for b in table.builds[canonicalize_name(requirement.name)] if _meant(b, requirement, spec.cuda)
    ]
    asked = [build for build in every if requirement.specifier.contains(build.version)]
    if not asked:
        return Misfit(what=f"`{requirement}` is not in the table of {table.date}", unknown=True)
    name = _called(asked)
    fitting = [build for build in asked if spec.python in build.pythons]
    if not fitting:
        return _no_python(name, asked, every, spec)
    if spec.cuda is None:
        return tuple(fitting)
    return _for_cuda(requirement, fitting, every, spec, table)


def _meant(build: Build, requirement: Requirement, wish: CudaWish | None) -> bool:
    """Tell whether a row is the one for the extra that the requirement names, or that the wished CUDA implies."""
    if not build.extra or build.extra in requirement.extras:
        return True
    if any(extra.startswith("cuda") for extra in requirement.extras):
        return False
    if wish is None or build.extra == "and-cuda":
        return True
    return build.extra == f"cuda{wish.version.split('.')[0]}"


def _no_python(name: str, asked: Sequence[Build], every: Sequence[Build], spec: Spec) -> Misfit:
    pythons = {python for build in asked for python in build.pythons if not python.endswith("t")}
    near = _near(spec.python, pythons)
    others = [build.version for build in every if spec.python in build.pythons]
    suggestions = [f"python {near}"] if near else []
    if others:
        newest = max(build.version for build in asked)
        newer = [version for version in others if version > newest]
        bound = f">= {_short(min(newer))}" if newer else f"<= {_short(max(others))}"
        suggestions.append(f"{asked[0].framework} {bound}")
    return Misfit(what=f"{name} has no Python {spec.python} build", nearest=", or ".join(suggestions))


def _for_cuda(
    requirement: Requirement, fitting: list[Build], every: Sequence[Build], spec: Spec, table: Table
) -> tuple[Build, ...] | Misfit:
    """Return those that go with the wished CUDA, cuDNN and GPUs, or say which of them none goes with."""
    wish = spec.cuda
    assert wish is not None
    usable = [build for build in every if spec.python in build.pythons]
    name = _called(fitting)
    for what, test, instead in _tests(wish, table):
        answers = [(build, test(build)) for build in fitting]
        left = [build for build, answer in answers if answer]
        unknown = [build for build, answer in answers if answer is None]
        if not left and unknown and wish.allow_unknown:
            left = unknown
        if not left and (unknown or _may_be_newer(requirement, wish, table)):
            return Misfit(
                what=f"whether {name} works with {what} is not known (table of {table.date})",
                nearest=", or ".join(instead(fitting)),
                unknown=True,
            )
        if not left:
            others = [build for build in usable if test(build)] or [
                build for build in every if spec.python in build.pythons and test(build)
            ]
            nearest = [_with_its_cuda(build, wish, table) for build in _nearest(others, fitting)]
            return Misfit(
                what=f"{name} does not work with {what}", nearest=", or ".join([*instead(fitting), *nearest])
            )
        fitting = left
        usable = [build for build in usable if test(build)]
    return tuple(fitting)


_Test = Callable[[Build], bool | None]
_Instead = Callable[[Sequence[Build]], list[str]]


def _tests(wish: CudaWish, table: Table) -> Iterable[tuple[str, _Test, _Instead]]:
    """Yield what is asked of each build: its name, the question, and what to do instead where the answer is no."""
    yield (
        f"CUDA {wish.version}",
        lambda build: table.goes_with(build, wish.version),
        lambda b: _cudas(b, wish, table),
    )
    if wish.cudnn is not None:
        yield f"cuDNN {wish.cudnn}", lambda build: _takes_cudnn(build, wish, table), _cudnns
    for wanted in wish.arch:
        yield f"compute capability {wanted}", partial(Build.runs_on, capability=wanted), lambda builds: []


def _may_be_newer(requirement: Requirement, wish: CudaWish, table: Table) -> bool:
    """Tell whether a framework newer than the table could be meant, with a CUDA newer than the table."""
    newest = max(build.version for build in table.builds[canonicalize_name(requirement.name)])
    newer = requirement.specifier.contains(f"{newest.major}.{newest.minor + 1}.0")
    return newer and Version(wish.version) > max(map(Version, table.toolkits), default=Version("0"))


def _with_its_cuda(build: Build, wish: CudaWish, table: Table) -> str:
    cuda = "" if table.goes_with(build, wish.version) else f" with cuda {build.cuda}" if build.cuda else ""
    return f"{build.framework} {_short(build.version)}{cuda}"


def _takes_cudnn(build: Build, wish: CudaWish, table: Table) -> bool | None:
    assert wish.cudnn is not None
    if not build.cudnn:
        return None
    if build.cudnn.startswith("==") and not build.cudnn.endswith("*"):
        pinned, wanted = Version(build.cudnn[2:]).release, Version(wish.cudnn).release
        return pinned[: len(wanted)] == wanted
    wanted_by = SpecifierSet(build.cudnn)
    return any(wanted_by.contains(release) for release in table.cudnn_releases(wish.version, wish.cudnn))


def _cudnns(builds: Sequence[Build]) -> list[str]:
    """Name the cuDNN that the newest build goes with."""
    wanted = builds[-1].cudnn
    return [f"cudnn {wanted.removeprefix('==').removesuffix('.*')}"] if wanted.startswith("==") else []


def _cudas(builds: Sequence[Build], wish: CudaWish, table: Table) -> list[str]:
    """Name the CUDA nearest to the wish that any of the builds goes with."""
    known = {build.cuda for build in builds if build.cuda and (build.pinned or not build.wants)}
    for build in builds:
        if not build.pinned and build.wants:
            known |= {".".join(r.split(".")[:2]) for r in table.toolkits if table.goes_with(build, r)}
    near = _near(wish.version, known)
    return [f"cuda {near}"] if near else []


def _nearest(usable: Sequence[Build], asked: Sequence[Build]) -> list[Build]:
    """Return the build that is nearest to those asked for: the next newer, else the last older one."""
    newest = max(build.version for build in asked)
    newer = [build for build in usable if build.version > newest]
    return newer[:1] or list(usable[-1:])


def _near(wanted: str, known: Iterable[str]) -> str:
    """Return the version nearest to `wanted`, by its numbers; the newer of two as near; empty when there is none."""

    def number(version: str) -> int:
        major, minor, *_ = (*Version(version).release, 0)
        return major * 100 + minor

    def distance(version: str) -> tuple[int, int]:
        return abs(number(version) - number(wanted)), -number(version)

    return min(known, key=distance, default="")


def _called(builds: Sequence[Build]) -> str:
    """Name builds as a person would: `torch 2.1.2`, `torch 2.1` for all of that minor, `torch 2.1 to 2.4`."""
    versions = sorted({build.version for build in builds})
    name = builds[0].framework
    if len(versions) == 1:
        return f"{name} {versions[0]}"
    first, last = (f"{version.major}.{version.minor}" for version in (versions[0], versions[-1]))
    return f"{name} {first}" if first == last else f"{name} {first} to {last}"


def _short(version: Version) -> str:
    return (
        f"{version.major}.{version.minor}"
        if str(version) == f"{version.major}.{version.minor}.0"
        else str(version)
    )
