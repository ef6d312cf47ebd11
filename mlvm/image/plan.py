"""From a lock to the ids of everything that will be built: pure, and quick enough to ask at every command.

A step's id is the digest of all that its outcome depends on: the packages' digests, the tools, the builder's number
and the date in the files. Equal ids mean equal bytes, whoever built them; so what has been built is found by asking
the store for the id, and an image's id is known before a byte of it is made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from packaging.pylock import Package

from mlvm.image import agent_layer, initramfs
from mlvm.image.bytecode import interpreter_packages
from mlvm.image.document import BUILDER, LAYERS, Plan, Step
from mlvm.image.modules import kernel_release
from mlvm.image.tree import SOURCE_DATE
from mlvm.lock.cuda import parted
from mlvm.lock.document import DebianPackage, Lock

#: The steps whose outcomes an image consists of; "tools" and both interpreters are only needed to make them.
PARTS = (*LAYERS, "vmlinuz", "initramfs")


def plan(lock: Lock) -> Plan:
    """Return what will be built for `lock`, in order. Raises BuildError for a lock nothing can be built from."""
    boot = debs_of(lock.boot)
    release = kernel_release(lock)
    tools = make_step("tools", {"debs": debs_of(lock.tools)})
    interpreter = make_step("interpreter", {"debs": debs_of(interpreter_packages(lock))})
    with_tools = {"source_date": SOURCE_DATE, "tools": tools.id}
    with_both = {**with_tools, "interpreter": interpreter.id, "python": lock.system_python}
    own = own_interpreter(lock)
    with_own = {**with_both, "interpreter": own.id, "python": lock.inputs["python"]} if own else with_both
    archive = {"archive": lock.interpreter.sha256} if lock.interpreter else {}
    cuda, rest = parted(lock.python.packages)
    system = make_step(
        "system",
        {
            **with_both,
            "release": lock.inputs["debian"],
            "archives": [[one.name, one.uri, one.suite, *one.components] for one in lock.archives],
            "debs": debs_of(lock.system),
        },
    )
    steps = (
        tools,
        interpreter,
        *([own] if own else []),
        system,
        make_step("modules", {**with_tools, "kernel": release, "debs": boot}),
        *(
            [make_step("apt", {**with_tools, "system": system.id, "debs": debs_of(lock.apt)})]
            if lock.apt
            else []
        ),
        *([make_step("cuda", {**with_own, "wheels": _wheels(cuda)})] if cuda else []),
        make_step("python", {**with_own, "wheels": _wheels(rest), **archive, **_editable(lock)}),
        make_step(
            "agent",
            {**with_both, **({"own": own.id} if own else {}), "sources": agent_layer.sources_digest()},
        ),
        make_step("vmlinuz", {"kernel": release, "debs": boot}),
        make_step(
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


def _editable(lock: Lock) -> dict[str, object]:
    return {"editable": lock.inputs["editable"]} if "editable" in lock.inputs else {}


def own_interpreter(lock: Lock) -> Step | None:
    """Return the step that unpacks a box's own Python, to compile with; None where Debian's is the box's."""
    if lock.interpreter is None:
        return None
    c_library = [package for package in interpreter_packages(lock) if package.name == "libc6"]
    inputs = {"archive": lock.interpreter.sha256, "python": lock.inputs["python"], "debs": debs_of(c_library)}
    return make_step("own-interpreter", inputs)


def make_step(name: str, inputs: Mapping[str, object]) -> Step:
    """Return a step with the id that its inputs, and this builder, give."""
    whole = {"builder": BUILDER, "step": name, **inputs}
    return Step(name=name, id=_digest(whole), inputs=whole)


def _digest(document: Mapping[str, object]) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def debs_of(packages: Sequence[DebianPackage]) -> list[str]:
    """Name, version and digest of packages; sorted, since the order in a lock means nothing."""
    return sorted(f"{package.name} {package.version} {package.sha256}" for package in packages)


def _wheels(packages: Sequence[Package]) -> list[str]:
    return sorted(
        f"{package.name} {package.version} {wheel.hashes['sha256']}"
        for package in packages
        for wheel in package.wheels or ()
    )
