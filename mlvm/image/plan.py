"""From a lock to the ids of everything that will be built: pure, and quick enough to ask at every command.

A step's id is the digest of all that its outcome depends on: the packages' digests, the tools, the builder's number
and the date in the files. Equal ids mean equal bytes, whoever built them; so what has been built is found by asking
the store for the id, and an image's id is known before a byte of it is made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from mlvm.image import agent_layer, initramfs
from mlvm.image.bytecode import interpreter_packages
from mlvm.image.document import BUILDER, Plan, Step
from mlvm.image.modules import kernel_release
from mlvm.image.tree import SOURCE_DATE
from mlvm.lock.document import DebianPackage, Lock

#: The steps whose outcomes an image consists of; "tools" and "interpreter" are only needed to make them.
PARTS = ("system", "modules", "python", "agent", "vmlinuz", "initramfs")


def plan(lock: Lock) -> Plan:
    """Return what will be built for `lock`, in order. Raises BuildError for a lock nothing can be built from."""
    boot = _debs(lock.boot)
    release = kernel_release(lock)
    tools = _step("tools", {"debs": _debs(lock.tools)})
    interpreter = _step("interpreter", {"debs": _debs(interpreter_packages(lock))})
    with_tools = {"source_date": SOURCE_DATE, "tools": tools.id}
    with_both = {**with_tools, "interpreter": interpreter.id, "python": lock.inputs["python"]}
    steps = (
        tools,
        interpreter,
        _step(
            "system",
            {
                **with_both,
                "release": lock.inputs["debian"],
                "archives": [[one.name, one.uri, one.suite, *one.components] for one in lock.archives],
                "debs": _debs(lock.system),
            },
        ),
        _step("modules", {**with_tools, "kernel": release, "debs": boot}),
        _step("python", {**with_both, "wheels": _wheels(lock)}),
        _step("agent", {**with_both, "sources": agent_layer.sources_digest()}),
        _step("vmlinuz", {"kernel": release, "debs": boot}),
        _step(
            "initramfs",
            {
                "source_date": SOURCE_DATE,
                "kernel": release,
                "debs": boot,
                "init": hashlib.sha256(initramfs.init_script()).hexdigest(),
            },
        ),
    )
    parts = {step.name: step.id for step in steps if step.name in PARTS}
    return Plan(image_id=_digest({"image": parts}), steps=steps)


def _step(name: str, inputs: Mapping[str, object]) -> Step:
    whole = {"builder": BUILDER, "step": name, **inputs}
    return Step(name=name, id=_digest(whole), inputs=whole)


def _digest(document: Mapping[str, object]) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _debs(packages: Sequence[DebianPackage]) -> list[str]:
    """Name, version and digest of packages; sorted, since the order in a lock means nothing."""
    return sorted(f"{package.name} {package.version} {package.sha256}" for package in packages)


def _wheels(lock: Lock) -> list[str]:
    return sorted(
        f"{package.name} {package.version} {wheel.hashes['sha256']}"
        for package in lock.python.packages
        for wheel in package.wheels or ()
    )
