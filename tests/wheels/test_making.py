"""Wheels from sources: what is refused without a machine, and real sdists in real machines."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from packaging.pylock import Package, Pylock

from mlvm.errors import BuildError
from mlvm.events import SILENT
from mlvm.image.store import Store
from mlvm.lock.document import Build, Lock
from mlvm.lock.text import load
from mlvm.paths import Home, shipped
from mlvm.project import Project
from mlvm.wheels import making

FILES = "https://files.pythonhosted.org/packages"
DOCOPT: dict[str, Any] = {
    "name": "docopt",
    "version": "0.6.2",
    "sdist": {
        "url": f"{FILES}/a2/55/8f8cab2afd404cf578136ef2cc5dfb50baa1761b68c9da1fb1e4eed343c9/docopt-0.6.2.tar.gz",
        "size": 25901,
        "hashes": {"sha256": "49b3a825280bd66b3aa83585ef59c4a8c82f2c8a522dbe754a8bc8d08c85c491"},
    },
    "wheels": [
        {
            "path": "docopt-0.6.2-py2.py3-none-any.whl",
            "size": 13780,
            # What came out where this was written: on whatever host, it must come out again.
            "hashes": {"sha256": "3460b8ee8c24086e11edf718c3460c2a02fa5940562f412b9cd9fc412e63ea27"},
        }
    ],
}
SETUPTOOLS: dict[str, Any] = {
    "name": "setuptools",
    "version": "84.2.1",
    "wheels": [
        {
            "url": f"{FILES}/ef/55/6dc6d6bb953bdfc52519a0059592c52b6e3b8ad51cf8256dffceb55b0610/"
            "setuptools-84.2.1-py3-none-any.whl",
            "size": 876263,
            "hashes": {"sha256": "ca140b45d5325a9478f880e351484f62fef15f336462e449ca0c03c873d589c2"},
        }
    ],
}


def pylock(*packages: dict[str, Any]) -> Pylock:
    return Pylock.from_dict({"lock-version": "1.0", "created-by": "mlvm", "packages": list(packages)})


def package() -> Package:
    return pylock(DOCOPT).packages[0]


def answer(**changes: Any) -> dict[str, Any]:
    return {"wheel": "docopt-0.6.2-py3-none-any.whl", "sha256": "0" * 64, "size": 5} | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"differs": ["docopt.so"]},
            "the wheel of `docopt` 0.6.2 does not come out the same twice, and a lock would be of no use",
        ),
        ({"wheel": "../../etc/passwd"}, "the build of `docopt` 0.6.2 made no wheel, but '../../etc/passwd'"),
        (
            {"wheel": "pip-25.0-py3-none-any.whl"},
            "the build of `docopt` 0.6.2 made a wheel of pip 25.0",
        ),
        (
            {"wheel": "docopt-0.6.3-py3-none-any.whl"},
            "the build of `docopt` 0.6.2 made a wheel of docopt 0.6.3",
        ),
        ({"size": 2 << 30}, "the wheel of `docopt` 0.6.2 is larger than 1 GiB"),
    ],
)
def test_what_comes_out_must_be_what_was_asked_for(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BuildError) as error:
        making._check(answer(**changes), package())

    assert error.value.message == message


def test_a_wheel_as_it_should_be() -> None:
    making._check(answer(), package())


@pytest.mark.parametrize(
    ("said", "asks"),
    [
        ("spidev_module.c:27:10: fatal error: Python.h: No such file or directory", "`apt: [python3-dev]`"),
        (
            "error: command 'x86_64-linux-gnu-gcc' failed: No such file or directory",
            "`apt: [build-essential]`",
        ),
        ("KeyError: 'HOME'", "its compilers and libraries go into `apt`"),
    ],
)
def test_a_build_that_fails_says_what_it_may_lack(said: str, asks: str) -> None:
    error = making._failed(package(), said)

    assert error.message == "`docopt` 0.6.2 cannot be built from its sources"
    assert error.details == said
    assert error.hint == (
        f"{asks} in mlvm.yaml; it is built without network, with what its `build-system.requires` names"
    )


def test_what_a_wheel_says_of_itself(tmp_path: Path) -> None:
    lines = (
        "Requires-Dist: six>=1",
        "Requires-Dist: x; extra == 'y'",
        "Provides-Extra: y",
        "Requires-Python: >=3",
    )
    with zipfile.ZipFile(tmp_path / "wheel", "w") as archive:
        archive.writestr("docopt-0.6.2.dist-info/METADATA", "\n".join(lines))
        archive.writestr("docopt-0.6.2.dist-info/RECORD", "")

    assert making._metadata(tmp_path / "wheel", package()) == {
        "name": "docopt",
        "version": "0.6.2",
        "requires-dist": ["six>=1", "x; extra == 'y'"],
        "provides-extra": ["y"],
        "requires-python": ">=3",
    }


@pytest.fixture
def box_with_docopt() -> Lock:
    """The lock of a shipped box, with a package that has never had a wheel."""
    lock = load(shipped("boxes") / "python-3.11" / "mlvm.lock")
    build = Build(name="docopt", requires=pylock(SETUPTOOLS))
    return replace(lock, python=pylock(DOCOPT), builds=(build,), image=None)


@pytest.mark.boot
@pytest.mark.network
@pytest.mark.heavy
def test_the_wheel_of_a_lock_comes_out_again(chain_home: Home, box_with_docopt: Lock) -> None:
    """That it is there at the end says that it has the digest which the lock gives it."""
    digest = DOCOPT["wheels"][0]["hashes"]["sha256"]
    blob = Store(chain_home).blobs.path(digest)
    blob.unlink(missing_ok=True)  # downloads are kept between runs of these tests

    making.provide(box_with_docopt, home=chain_home, observer=SILENT)

    assert blob.stat().st_size == DOCOPT["wheels"][0]["size"]
    assert not list(chain_home.machines.glob("wheel-*"))


#: A package that has never had a wheel, and needs a compiler; another whose import says something.
SPEC = """\
name: sources
packages: [spidev]
sdists: [spidev]
"""


def mlvm(*words: str, home: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mlvm.cli", *words]
    env = {**os.environ, "MLVM_HOME": str(home), "MLVM_WARM": "off"}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=env)


@pytest.mark.boot
@pytest.mark.network
@pytest.mark.heavy
def test_an_extension_module_on_two_hosts(chain_home: Home, tmp_path: Path) -> None:
    folder, here = tmp_path / "sources", chain_home.data.parent
    folder.mkdir()
    (folder / "mlvm.yaml").write_text(SPEC)

    refused = mlvm("lock", home=here, cwd=folder)

    assert refused.returncode == 7
    assert "`apt: [build-essential]` in mlvm.yaml" in refused.stderr

    (folder / "mlvm.yaml").write_text(SPEC + "apt: [gcc, libc6-dev, python3-dev]\n")
    locked = mlvm("lock", home=here, cwd=folder)
    assert locked.returncode == 0, locked.stderr
    lock = Project(folder=folder, home=chain_home).lock()
    assert lock is not None
    (wheel,) = next(one for one in lock.python.packages if one.name == "spidev").wheels or ()

    # Another host: nothing but the downloads, which must not have the wheel among them.
    there = tmp_path / "there"
    (there / "cache" / "store").mkdir(parents=True)
    blobs = Store(chain_home).blobs
    blobs.path(wheel.hashes["sha256"]).unlink()
    (there / "cache" / "store" / "blobs").symlink_to(blobs.folder)
    try:
        up = mlvm("up", "--frozen", home=there, cwd=folder)
        assert up.returncode == 0, up.stderr
        ran = mlvm(
            "run",
            "sources",
            "--",
            "python",
            "-c",
            "import spidev; print(spidev.SpiDev)",
            home=there,
            cwd=folder,
        )
        assert ran.stdout == "<class 'spidev.SpiDev'>\n"
    finally:
        mlvm("destroy", "--yes", "sources", home=there, cwd=folder)
