"""Resolve the Python part of a lock with uv, for the guest's Python and C library, not the host's.

uv writes a PEP 751 document with every wheel that might do. We keep the one the guest will use (the best by
`packaging.tags`): a lock is for one box, and what it does not name cannot be installed by mistake.
"""

from __future__ import annotations

import os
import re
import tempfile
import tomllib
from collections.abc import Collection, Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path

import tomli_w
from packaging.pylock import Package, PackageWheel, Pylock
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

from mlvm.errors import ResolveError
from mlvm.process import run

#: glibc of each release: the newest manylinux wheel that loads there.
GLIBC_MINOR = {"bookworm": 36, "trixie": 41}

#: Always there: what makes a box a kernel.
ALWAYS = ("ipykernel",)

#: Settings of the host's own Python tools that must not leak into a lock; an index the user chose for uv may.
DROPPED = re.compile(r"(UV|PIP|VIRTUAL_ENV|PYTHON)")
KEPT = {"UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_OFFLINE", "UV_NATIVE_TLS", "UV_HTTP_TIMEOUT"}


def resolve_python(
    requirements: Iterable[str],
    *,
    python: str,
    release: str,
    cache_folder: Path,
    previous: Pylock | None = None,
    upgrade: Collection[str] = (),
) -> Pylock:
    """Return a PEP 751 document for `requirements` (and ipykernel), one wheel a package.

    Versions in `previous` are kept while they fit, but for those in `upgrade`. Raises ResolveError in uv's words.
    """
    import uv  # noqa: PLC0415  (only to find its executable)

    with tempfile.TemporaryDirectory(prefix="mlvm-lock-") as name:
        folder = Path(name)
        (folder / "requirements.in").write_text("".join(f"{line}\n" for line in (*requirements, *ALWAYS)))
        output = folder / "pylock.toml"
        if previous is not None:
            output.write_text(tomli_w.dumps(previous.to_dict()))
        command = [
            uv.find_uv_bin(), "pip", "compile", "requirements.in",
            "--format", "pylock.toml", "--output-file", str(output),
            "--python-version", python, "--python-platform", f"x86_64-manylinux_2_{GLIBC_MINOR[release]}",
            "--only-binary", ":all:", "--no-header", "--no-annotate", "--no-config", "--quiet",
            "--cache-dir", str(cache_folder),
            *(part for name in sorted(upgrade) for part in ("--upgrade-package", name)),
        ]  # fmt: skip
        done = run(command, env=_environment(), cwd=folder, check=False, timeout=600)
        if done.returncode != 0:
            raise _explained(done.stderr.decode(errors="replace"), python=python, release=release)
        document = tomllib.loads(output.read_text())
    return cut_down(Pylock.from_dict(document), python=python, release=release)


def cut_down(pylock: Pylock, *, python: str, release: str) -> Pylock:
    """Return the document with only the best wheel of each package. Raises ResolveError for one without any."""
    packages = [
        replace(package, wheels=[best_wheel(package, python=python, release=release)], sdist=None)
        for package in sorted(pylock.packages, key=lambda package: package.name)
    ]
    return replace(pylock, packages=packages, created_by="mlvm")


def best_wheel(package: Package, *, python: str, release: str) -> PackageWheel:
    """Return the wheel of `package` that fits the guest best."""
    ranks = _ranks(python, release)
    ranked = []
    for wheel in package.wheels or ():
        filename = wheel.name or (wheel.url or "").rsplit("/", 1)[-1]
        fitting = [ranks[tag] for tag in parse_wheel_filename(filename)[3] if tag in ranks]
        if fitting:
            ranked.append((min(fitting), filename, wheel))
    if not ranked:
        raise ResolveError(
            f"`{package.name}` {package.version} has no wheel for Python {python} on Debian {release}",
            details="wheels: " + (", ".join(w.name or "" for w in package.wheels or ()) or "none"),
            hint="ask for another version of it, or another Python",
        )
    return min(ranked, key=lambda entry: entry[:2])[2]


@cache
def _ranks(python: str, release: str) -> dict[Tag, int]:
    """Every wheel tag the guest accepts, with its rank: 0 is best."""
    major, minor = (int(part) for part in python.split("."))
    platforms = [f"manylinux_2_{glibc}_x86_64" for glibc in range(GLIBC_MINOR[release], 4, -1)]
    platforms += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"]
    tags = [
        *cpython_tags((major, minor), platforms=platforms),
        *compatible_tags((major, minor), f"cp{major}{minor}", platforms),
    ]
    return {tag: rank for rank, tag in reversed(list(enumerate(tags)))}


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name in KEPT or not DROPPED.match(name)}


def _explained(said: str, *, python: str, release: str) -> ResolveError:
    """Return uv's explanation without its frame, and a hint for the usual causes."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", said)
    text = text.replace("you require", "the spec requires").replace("your requirements", "the spec")
    lines = [re.sub(r"^[^\w`(]+", "", line).rstrip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith(("warning:", "Resolved"))]
    joined = " ".join(lines)
    hint = "loosen one of the requirements named above"
    if "was not found in the package registry" in joined:
        hint = "check the spelling of the package's name"
    elif "no usable wheels" in joined or "has no wheels" in joined or "only-binary" in joined:
        missing = re.search(r"([A-Za-z0-9._-]+)(?:==\S+)? has no", joined)
        name = f"`{canonicalize_name(missing[1])}`" if missing else "one of them"
        hint = f"{name} has no wheel that Python {python} on Debian {release} can use; ask for another version of it"
    elif any(word in joined for word in ("dns error", "Failed to fetch", "error sending request", "offline")):
        hint = "check the network"
    return ResolveError("no set of Python packages fits the spec", details="\n".join(lines[:16]), hint=hint)
