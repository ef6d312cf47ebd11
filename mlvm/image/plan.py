"""From a lock to what must be built: pure, and known before a byte is fetched.

A step's id is the digest of everything its result depends on: the digests of its inputs, the version of the code that
makes it (BUILDER), the pinned tools that write it. Two locks that share a step share its artifact, and a step that is
in the store need not be done again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from mlvm.image.agent_layer import agent_sources
from mlvm.image.document import BUILDER, Plan, Step
from mlvm.image.initramfs import MODULES, init_script
from mlvm.image.tree import SOURCE_DATE
from mlvm.lock.document import DebianPackage, Lock


def plan(lock: Lock) -> Plan:
    """Return the steps for `lock` and the id of the image they make."""
    tools = _digest({"debs": [package.sha256 for package in lock.tools]})
    guest_kernel = deb_called(lock, lock.guest_kernel).sha256
    sources = {name: hashlib.sha256(content).hexdigest() for name, content in agent_sources().items()}
    steps = (
        _step("system", {"debs": {p.name: p.sha256 for p in lock.system}, "tools": tools}),
        _step("modules", {"guest kernel": guest_kernel, "tools": tools}),
        _step(
            "python",
            {
                "python": lock.inputs["python"],
                "wheels": dict(wheels(lock)),
                "tools": tools,
            },
        ),
        _step("agent", {"sources": sources, "tools": tools}),
        _step("vmlinuz", {"guest kernel": guest_kernel}),
        _step(
            "initramfs",
            {
                "guest kernel": guest_kernel,
                "busybox": deb_called(lock, "busybox-static").sha256,
                "modules": list(MODULES),
                "init": hashlib.sha256(init_script()).hexdigest(),
            },
        ),
    )
    return Plan(
        image_id=_digest({"name": lock.name, "steps": {step.name: step.id for step in steps}}), steps=steps
    )


def tools_id(lock: Lock) -> str:
    """Return the id of the unpacked file system tools."""
    return _digest({"unpacked": [package.sha256 for package in lock.tools]})


def wheels(lock: Lock) -> list[tuple[str, str]]:
    """Return (file name, sha256) of every wheel, sorted."""
    found = [wheel for package in lock.python.packages for wheel in package.wheels or ()]
    return sorted(
        (wheel.name or (wheel.url or "").rsplit("/", 1)[-1], wheel.hashes["sha256"]) for wheel in found
    )


def deb_called(lock: Lock, name: str) -> DebianPackage:
    """Return the package `name` of the lock's boot list."""
    return next(package for package in lock.boot if package.name == name)


def _step(name: str, inputs: Mapping[str, object]) -> Step:
    whole = {"step": name, "builder": BUILDER, "source date": SOURCE_DATE, **inputs}
    return Step(name=name, id=_digest(whole), inputs=whole)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
