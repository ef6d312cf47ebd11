"""Locks that ride in notebooks: they come back as they went in, and nothing else comes with them."""

from __future__ import annotations

import base64
import copy
import gzip
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlvm.errors import LockError
from mlvm.lock import carried
from mlvm.lock.document import Lock
from mlvm.lock.fresh import stale_reasons
from mlvm.lock.text import dumps
from mlvm.paths import Home, shipped
from mlvm.project import Project
from mlvm.spec import ipynb, reader
from mlvm.spec.document import GIB, CudaWish, MachineShape, PortForward, SharedFolder, Spec
from mlvm.spec.emit import standing_alone

EMPTY = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a notebook carries of the box `python-3.11`."""
    return carried.pack(*box(tmp_path_factory.mktemp("home")))


def box(folder: Path) -> tuple[Spec, Lock]:
    project = Project(
        folder=shipped("boxes") / "python-3.11", home=Home(data=folder, cache=folder, runtime=folder)
    )
    lock = project.lock()
    assert lock is not None
    return project.spec(), lock


def notebook(value: object) -> ipynb.Notebook:
    return ipynb.with_metadata(ipynb.parse(json.dumps(EMPTY), Path("x.ipynb")), value)


def with_lock(packed: dict[str, Any], text: bytes) -> dict[str, Any]:
    content = base64.b64encode(gzip.compress(text)).decode()
    return {**packed, "lock": content, "lock_sha256": hashlib.sha256(text).hexdigest()}


def test_it_comes_back_as_it_went_in(packed: dict[str, Any], tmp_path: Path, home: Home) -> None:
    found = carried.find(notebook(packed))
    assert found is not None

    folder = carried.unpack(found, home)

    project = Project(folder=folder, home=home)
    spec, lock = box(tmp_path)
    assert project.lock_path.read_text() == dumps(lock)
    assert project.stale_reasons() == []
    assert project.spec().machine == spec.machine
    assert carried.unpack(found, home) == folder


def test_it_is_small(packed: dict[str, Any]) -> None:
    assert len(json.dumps(packed)) < 30_000


@pytest.mark.parametrize("value", [None, {}, "text", {"panel": 1}])
def test_a_notebook_that_brings_none(value: object) -> None:
    assert carried.find(notebook(value)) is None


DAMAGE: list[tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = [
    (lambda it: {**it, "lock": it["lock"][:-40]}, ""),
    (lambda it: {**it, "lock": 7}, ""),
    (lambda it: {**it, "lock": "####"}, ""),
    (lambda it: {**it, "lock_sha256": "0" * 64}, "its digest is not the one that stands beside it"),
    (lambda it: with_lock(it, b"not a lock"), "is not TOML"),
    (lambda it: with_lock(it, bytes(carried.MOST_BYTES + 1)), "it unpacks to more than 16 MiB"),
    (lambda it: {**it, "spec": "name: [\n"}, "cannot be read as a spec"),
    (lambda it: {**it, "spec": [*it["spec"], "share: [./x:/x]\n"]}, "its spec has `share`"),
    (
        lambda it: {**it, "spec": [*it["spec"], "requirements: ../../secret.txt\n"]},
        "its spec has `requirements`",
    ),
    (lambda it: {**it, "spec": [*it["spec"], "template: ../x.yaml\n"]}, "its spec has `template`"),
    (lambda it: {**it, "spec": [*it["spec"], 'ports: ["22:22"]\n']}, "its spec has `ports`"),
]


@pytest.mark.parametrize(("damage", "why"), DAMAGE)
def test_what_cannot_be_trusted_is_refused(
    packed: dict[str, Any], damage: Callable[[dict[str, Any]], dict[str, Any]], why: str
) -> None:
    with pytest.raises(LockError) as raised:
        carried.find(notebook(damage(copy.deepcopy(packed))))

    assert raised.value.message == "the lock in notebook `x.ipynb` is damaged"
    assert why in raised.value.details


def test_another_version_is_for_another_mlvm(packed: dict[str, Any]) -> None:
    with pytest.raises(LockError) as raised:
        carried.find(notebook({**packed, "version": 2}))

    assert raised.value.hint == "upgrade mlvm"


def test_a_spec_that_the_lock_does_not_fit(packed: dict[str, Any], home: Home) -> None:
    spec = [line.replace("packages: []", "packages: [six]") for line in packed["spec"]]
    found = carried.find(notebook({**packed, "spec": spec}))
    assert found is not None

    with pytest.raises(LockError) as raised:
        carried.unpack(found, home)

    assert raised.value.details == "packages: `six` was added"
    assert not home.carried.exists()


@settings(max_examples=50)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused(content: bytes) -> None:
    value = {"version": 1, "lock": base64.b64encode(content).decode(), "lock_sha256": "", "spec": "name: a\n"}

    with pytest.raises(LockError):
        carried.find(notebook(value))


def test_two_locks_that_differ(packed: dict[str, Any], tmp_path: Path) -> None:
    found = carried.find(notebook(packed))
    assert found is not None
    _, lock = box(tmp_path)

    other = replace(lock, name="other", inputs={**lock.inputs, "packages": ["six"]})

    assert carried.differences(found, lock) == []
    assert carried.differences(found, other) == ["name: python-3.11 -> other", "packages: `six` was added"]


SPECS = st.builds(
    Spec,
    name=st.from_regex(r"[a-z][a-z0-9]{0,10}", fullmatch=True),
    packages=st.lists(st.sampled_from(["numpy>=2", "pandas", 'six; python_version < "4"']), unique=True).map(
        tuple
    ),
    apt=st.lists(st.sampled_from(["git", "g++", "libc6=2.36-9"]), unique=True).map(tuple),
    index=st.sampled_from([{}, {"torch": "https://x.org/whl"}]).map(MappingProxyType),
    env=st.dictionaries(
        st.from_regex(r"[A-Z][A-Z0-9_]{0,8}", fullmatch=True),
        st.text(st.characters(categories=["L", "N", "P", "Zs"]), max_size=12),
        max_size=3,
    ).map(MappingProxyType),
    cuda=st.none() | st.builds(CudaWish, version=st.just("12.4"), arch=st.just(("8.6",)), nvcc=st.booleans()),
    machine=st.builds(
        MachineShape,
        cpus=st.integers(1, 8),
        memory=st.sampled_from([GIB, 3 * GIB // 2, 8 * GIB]),
        memory_min=st.sampled_from([None, GIB // 2]),
    ),
    preload=st.sampled_from([(), ("numpy", "os.path")]),
    network=st.sampled_from(["user", "none"]),
    share=st.sampled_from([None, (SharedFolder(folder="x"),)]),
    ports=st.sampled_from([(), (PortForward(guest=1, host=2),)]),
)


@given(SPECS)
def test_a_spec_alone_means_the_same_without_what_only_the_host_can_say(spec: Spec) -> None:
    alone = reader.loads(standing_alone(spec))

    assert alone == replace(spec, share=None, ports=())
    assert alone.resolution_inputs() == spec.resolution_inputs()


def test_the_sample_is_fresh(tmp_path: Path) -> None:
    assert stale_reasons(*box(tmp_path)) == []
