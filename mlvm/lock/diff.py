"""The difference between two locks, as a person wants to read it.

Python first, since that is what people look for; then the guest's system, tools and guest kernel. The same version
with other bytes is never normal and is said loudly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from packaging.pylock import Package, Pylock
from packaging.version import Version

from mlvm.lock.debversion import version_key
from mlvm.lock.document import DebianPackage, Lock
from mlvm.lock.fresh import input_reasons


class Content(NamedTuple):
    """What a lock says of one package: its version, the digest of its bytes, and the file's name."""

    version: str
    sha256: str
    filename: str


Contents = Mapping[str, Content]


def describe(old: Lock, new: Lock) -> list[str]:
    """Return the differences, one a line; empty when both say the same."""
    lines = input_reasons(old.inputs, new.inputs)
    lines += _interpreter(old, new)
    lines += _compare("python", _wheels(old.python), _wheels(new.python), key=Version)
    lines += _builds(old, new)
    lines += _compare("system", _debs(old.system), _debs(new.system), key=version_key)
    lines += _compare("apt", _debs(old.apt), _debs(new.apt), key=version_key)
    lines += _compare("tools", _debs(old.tools), _debs(new.tools), key=version_key)
    lines += _compare("box", _debs(old.box), _debs(new.box), key=version_key)
    lines += _guest_kernel(old, new)
    lines += _compare("boot", _rest_of_boot(old), _rest_of_boot(new), key=version_key)
    lines += _cuda(old, new)
    lines += _timestamps(old, new)
    return lines + _image(old, new, nothing_moved=not lines) + _published(old, new)


def _wheels(pylock: Pylock) -> Contents:
    return {str(package.name): _wheel(package) for package in pylock.packages}


def _builds(old: Lock, new: Lock) -> list[str]:
    """What moved of builds that both have; that one came or went is said by the spec's part."""
    before, after = ({build.name: build.requires for build in lock.builds} for lock in (old, new))
    return [
        line
        for name in sorted(before.keys() & after.keys())
        for line in _compare(f"build of {name}", _wheels(before[name]), _wheels(after[name]), key=Version)
    ]


def _wheel(package: Package) -> Content:
    wheels = package.wheels or ()
    digest, filename = (wheels[0].hashes.get("sha256", ""), wheels[0].filename) if wheels else ("", "")
    return Content(str(package.version), digest, filename)


def _debs(packages: Iterable[DebianPackage]) -> Contents:
    return {
        package.name: Content(package.version, package.sha256, package.filename.rpartition("/")[2])
        for package in packages
    }


def _compare(part: str, old: Contents, new: Contents, *, key: Callable[[str], Any]) -> list[str]:
    lines = []
    for name in sorted(old.keys() | new.keys()):
        if name not in old:
            lines.append(f"{part}: + {name} {new[name].version}")
        elif name not in new:
            lines.append(f"{part}: - {name} {old[name].version}")
        elif old[name].version != new[name].version:
            before, after = old[name].version, new[name].version
            word = " (downgrade)" if key(after) < key(before) else ""
            lines.append(f"{part}:   {name} {before} -> {after}{word}")
        elif old[name].sha256 != new[name].sha256:
            lines.append(f"{part}: ! {name} {new[name].version} has other bytes{_how(old[name], new[name])}")
    return lines


def _how(old: Content, new: Content) -> str:
    if old.filename != new.filename:
        return f": {old.filename} -> {new.filename}"
    return f" under the same name: sha256 {old.sha256[:12]}... -> {new.sha256[:12]}..."


def _interpreter(old: Lock, new: Lock) -> list[str]:
    """A box's own Python; that one came or went is said by the spec's part."""
    before, after = old.interpreter, new.interpreter
    if before is None or after is None or before == after:
        return []
    if before.version != after.version:
        return [f"interpreter: {before.version} -> {after.version}"]
    if before.url != after.url:
        return [f"interpreter: {after.version}, another build of it"]
    digests = f"sha256 {before.sha256[:12]}... -> {after.sha256[:12]}..."
    return [f"interpreter: ! {after.version} has other bytes under the same name: {digests}"]


def _guest_kernel(old: Lock, new: Lock) -> list[str]:
    """The guest kernel's version is part of its package's name, so a move looks like two packages elsewhere."""
    before, after = _debs(old.boot)[old.guest_kernel], _debs(new.boot)[new.guest_kernel]
    if old.guest_kernel == new.guest_kernel:
        names = {old.guest_kernel: before}, {new.guest_kernel: after}
        return _compare("guest kernel", *names, key=version_key)
    word = " (downgrade)" if version_key(after.version) < version_key(before.version) else ""
    return [
        f"guest kernel:   {old.guest_kernel} {before.version} -> {new.guest_kernel} {after.version}{word}"
    ]


def _rest_of_boot(lock: Lock) -> Contents:
    return {name: content for name, content in _debs(lock.boot).items() if name != lock.guest_kernel}


def _cuda(old: Lock, new: Lock) -> list[str]:
    """What the wheels' CUDA needs of a host; which wheels moved is said elsewhere."""
    if old.cuda is None or new.cuda is None:
        return []
    return [
        f"cuda: {what} {before or 'unknown'} -> {after or 'unknown'}"
        for what, before, after in (
            ("oldest driver", old.cuda.driver, new.cuda.driver),
            ("oldest GPU", old.cuda.arch, new.cuda.arch),
        )
        if before != after
    ]


def _timestamps(old: Lock, new: Lock) -> list[str]:
    before = {archive.name: archive.timestamp for archive in old.archives}
    return [
        f"archive {archive.name}: {before[archive.name]} -> {archive.timestamp}"
        for archive in new.archives
        if before.get(archive.name, archive.timestamp) != archive.timestamp
    ]


def _image(old: Lock, new: Lock, *, nothing_moved: bool) -> list[str]:
    """Other bytes made of the same things by the same builder are what locks are there to rule out."""
    if old.image is None or new.image is None or old.image.builder != new.image.builder or not nothing_moved:
        return []
    return [
        f"image: ! {name} has other bytes, made of the same packages:"
        f" sha256 {old.image.digests[name][:12]}... -> {new.image.digests[name][:12]}..."
        for name in sorted(old.image.digests.keys() & new.image.digests.keys())
        if old.image.digests[name] != new.image.digests[name]
    ]


def _published(old: Lock, new: Lock) -> list[str]:
    """Boxes that were published or are no longer pinned; the same version with another digest is said loudly."""
    before = {(pin.name, pin.provider, pin.architecture): pin for pin in old.published}
    after = {(pin.name, pin.provider, pin.architecture): pin for pin in new.published}
    lines = []
    for key in sorted(before.keys() | after.keys()):
        was, now = before.get(key), after.get(key)
        if was == now:
            continue
        versions = f"{was.version if was else 'nothing'} -> {now.version if now else 'nothing'}"
        same = was is not None and now is not None and was.version == now.version
        lines.append(
            f"published: {'! ' if same else ''}{key[0]} for {key[1]}: {versions}"
            + " by another digest" * same
        )
    return lines
