"""A small lock to start tests from, and its variations."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from packaging.pylock import Pylock

from mlvm.lock.document import Build, DebianPackage, ImageRecord, Lock
from mlvm.lock.mirrors import archives
from mlvm.spec.document import Spec

STAMP = "20261123T160000Z"
FILES = "https://files.pythonhosted.org/p"
KERNEL = "linux-image-6.1.0-56-cloud-amd64"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def deb(name: str, version: str = "1.0-1", *, archive: str = "bookworm", **other: Any) -> DebianPackage:
    pool = "pool/updates" if archive.endswith("-security") else "pool"
    package = DebianPackage(
        name=name,
        version=version,
        architecture="amd64",
        archive=archive,
        filename=f"{pool}/main/{name[0]}/{name}/{name}_{version.rpartition(':')[2]}_amd64.deb",
        size=1000,
        sha256=digest(f"{name} {version}"),
    )
    return replace(package, **other)


def pylock(versions: Mapping[str, str]) -> Pylock:
    return Pylock.from_dict(
        {
            "lock-version": "1.0",
            "created-by": "mlvm",
            "requires-python": ">=3.11",
            "packages": [
                {
                    "name": name,
                    "version": version,
                    "wheels": [
                        {
                            "url": f"{FILES}/{name.replace('-', '_')}-{version}-py3-none-any.whl",
                            "size": 2000,
                            "hashes": {"sha256": digest(f"{name} {version}")},
                        }
                    ],
                }
                for name, version in sorted(versions.items())
            ],
        }
    )


def lock(**changes: Any) -> Lock:
    whole = Lock(
        name="sample",
        inputs={"debian": "bookworm", "python": "3.11", "packages": ["numpy>=2"]},
        architecture="amd64",
        guest_kernel=KERNEL,
        archives=(*archives("bookworm", STAMP), *archives("trixie", STAMP)),
        system=(deb("apt", "2.6.1"), deb("libc6", "2.36-9", archive="bookworm-security")),
        boot=(deb("busybox-static", "1:1.35.0-4"), deb(KERNEL, "6.1.174-1")),
        tools=tuple(deb(name, archive="trixie") for name in ("e2fsprogs", "erofs-utils", "kmod")),
        python=pylock({"ipykernel": "7.1.0", "numpy": "2.4.6"}),
        image=ImageRecord(builder=1, digests={"system": digest("system layer")}),
    )
    return replace(whole, **changes)


def built(name: str = "docopt", version: str = "0.6.2") -> Lock:
    """A lock with a package that is built from its sources."""
    document = pylock({name: version, "ipykernel": "7.1.0"}).to_dict()
    package = next(one for one in document["packages"] if one["name"] == name)
    package["sdist"] = {
        "url": f"{FILES}/{name}-{version}.tar.gz",
        "size": 3000,
        "hashes": {"sha256": digest(f"{name} {version} sources")},
    }
    wheel = package["wheels"][0]
    wheel["path"] = wheel.pop("url").rpartition("/")[2]
    build = Build(name=name, requires=pylock({"setuptools": "84.2.1"}))
    inputs = {"debian": "bookworm", "python": "3.11", "packages": [name], "sdists": [name]}
    return lock(python=Pylock.from_dict(document), builds=(build,), inputs=inputs, image=None)


def spec(**changes: Any) -> Spec:
    return replace(Spec(name="sample", debian="bookworm", python="3.11", packages=("numpy>=2",)), **changes)
