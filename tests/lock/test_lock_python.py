"""The Python part: which wheel a guest takes, and what uv's refusals become."""

# ruff: noqa: E501, RUF001  (another program's words, as it writes them)

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from packaging.pylock import Package, Pylock

from mlvm.errors import ResolveError
from mlvm.lock import python
from mlvm.lock.python import best_wheel, cut_down, resolve_python


def package(*filenames: str, url: str = "https://files.example/{}", **other: object) -> Package:
    name, version = (filenames[0] if filenames else "thing-1.0-x").split("-")[:2]
    document = {
        "lock-version": "1.0",
        "created-by": "uv",
        "packages": [
            {
                "name": name,
                "version": version,
                "wheels": [
                    {
                        "url": url.format(filename.replace("+", "%2B")),
                        "hashes": {"sha256": hashlib.sha256(filename.encode()).hexdigest()},
                    }
                    for filename in filenames
                ],
                **other,
            }
        ],
    }
    return Pylock.from_dict(document).packages[0]


def chosen(*filenames: str, release: str = "bookworm") -> str:
    version = {"bookworm": "3.11", "trixie": "3.13"}[release]
    return best_wheel(package(*filenames), python=version, release=release).filename


@pytest.mark.parametrize(
    ("best", "other"),
    [
        ("thing-1.0-cp311-cp311-manylinux_2_17_x86_64.whl", "thing-1.0-py3-none-any.whl"),
        ("thing-1.0-cp311-cp311-manylinux_2_17_x86_64.whl", "thing-1.0-cp38-abi3-manylinux_2_17_x86_64.whl"),
        (
            "thing-1.0-cp311-cp311-manylinux_2_28_x86_64.whl",
            "thing-1.0-cp311-cp311-manylinux_2_17_x86_64.whl",
        ),
        ("thing-1.0-cp38-abi3-manylinux2014_x86_64.whl", "thing-1.0-cp39-cp39-manylinux2014_x86_64.whl"),
        (
            "thing-1.0-cp311-cp311-manylinux_2_36_x86_64.whl",
            "thing-1.0-cp311-cp311-manylinux_2_37_x86_64.whl",
        ),
        ("thing-1.0-py3-none-any.whl", "thing-1.0-cp311-cp311-musllinux_1_2_x86_64.whl"),
        ("thing-1.0-py3-none-any.whl", "thing-1.0-cp311-cp311-manylinux_2_17_aarch64.whl"),
        ("thing-1.0-py3-none-any.whl", "thing-1.0-cp311-cp311-win_amd64.whl"),
        ("thing-1.0-2-py3-none-any.whl", "thing-1.0-1-py3-none-any.whl"),
        ("thing-1.0-10-py3-none-any.whl", "thing-1.0-9-py3-none-any.whl"),
        ("thing-1.0-1-py3-none-any.whl", "thing-1.0-py3-none-any.whl"),
    ],
)
def test_the_better_wheel_is_taken_in_any_order(best: str, other: str) -> None:
    assert chosen(best, other) == best
    assert chosen(other, best) == best


def test_a_newer_release_takes_a_newer_library() -> None:
    wheels = (
        "thing-1.0-cp313-cp313-manylinux_2_41_x86_64.whl",
        "thing-1.0-cp313-cp313-manylinux_2_17_x86_64.whl",
    )

    assert chosen(*wheels, release="trixie") == wheels[0]


def test_a_local_version_in_a_url_is_understood() -> None:
    assert (
        chosen("thing-1.0+cu118-cp311-cp311-linux_x86_64.whl")
        == "thing-1.0+cu118-cp311-cp311-linux_x86_64.whl"
    )


def test_no_wheel_fits() -> None:
    with pytest.raises(ResolveError) as error:
        chosen("thing-1.0-cp39-cp39-manylinux2014_x86_64.whl")

    assert error.value.message == "`thing` 1.0 has no wheel for Python 3.11 on Debian bookworm"
    assert error.value.details == "wheels: thing-1.0-cp39-cp39-manylinux2014_x86_64.whl"


def test_a_package_that_is_no_wheel_at_all() -> None:
    sdist = {"url": "https://files.example/thing-1.0.tar.gz", "hashes": {"sha256": "0" * 64}}

    with pytest.raises(ResolveError) as error:
        best_wheel(package(sdist=sdist), python="3.11", release="bookworm")

    assert error.value.details == "wheels: none"


def test_a_document_is_cut_down_to_one_wheel_and_no_source() -> None:
    sdist = {"url": "https://files.example/thing-1.0.tar.gz", "hashes": {"sha256": "0" * 64}}
    both = package("thing-1.0-py3-none-any.whl", "thing-1.0-py2-none-any.whl", sdist=sdist)
    document = Pylock.from_dict({"lock-version": "1.0", "created-by": "uv", "packages": []})

    cut = cut_down(
        type(document)(lock_version=document.lock_version, created_by="uv", packages=[both]),
        python="3.11",
        release="bookworm",
    )

    assert cut.created_by == "mlvm"
    assert [wheel.filename for wheel in cut.packages[0].wheels or ()] == ["thing-1.0-py3-none-any.whl"]
    assert cut.packages[0].sdist is None


def test_the_hosts_python_settings_stay_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "UV_CACHE_DIR",
        "UV_EXTRA_INDEX_URL",
        "PIP_INDEX_URL",
        "PYTHONPATH",
        "VIRTUAL_ENV",
        "UV_PYTHON",
    ):
        monkeypatch.setenv(name, "x")
    kept = ("UV_DEFAULT_INDEX", "UV_INDEX_MINE_PASSWORD", "SSL_CERT_FILE", "https_proxy", "HOME")
    for name in kept:
        monkeypatch.setenv(name, "y")

    env = python._environment()

    assert "x" not in {
        value for name, value in env.items() if name.startswith(("UV", "PIP", "PYTHON", "VIRT"))
    }
    assert [env[name] for name in kept] == ["y"] * len(kept)


#: What uv 0.13 really says, with the frames of some of its versions.
SAID = {
    "conflict": """\
  × No solution found when resolving dependencies:
  ╰─▶ Because pandas==2.2.0 depends on numpy>=1.23.2,<2 and you require pandas==2.2.0, we can conclude that you
      require numpy>=1.23.2,<2.
      And because you require numpy>=2.2, we can conclude that your requirements are unsatisfiable.
""",
    "unknown": """\
error: No solution found when resolving dependencies
cause: Because nosuchpackage was not found in the package registry and you require nosuchpackage, we can conclude
       that your requirements are unsatisfiable.
""",
    "source only": """\
warning: something of no concern
error: No solution found when resolving dependencies
cause: Because docopt==0.6.2 has no usable wheels and you require docopt==0.6.2, we can conclude that your requirements are unsatisfiable.
hint: Wheels are required for `docopt` because building from source is disabled for all packages (i.e., with `--no-build`)
""",
    "too old": """\
error: No solution found when resolving dependencies
cause: Because tensorflow==2.1.0 has no wheels with a matching Python ABI tag (e.g., `cp311`) and you require tensorflow==2.1.0, we can conclude that your requirements are unsatisfiable.
""",
    "no network": """\
error: Request failed after 3 retries in 8.5s
cause: Failed to fetch: https://pypi.org/simple/flask/
cause: dns error
""",
    "offline": """\
error: No solution found when resolving dependencies
cause: Because flask was not found in the cache and you require flask, we can conclude that your requirements are unsatisfiable.
hint: Packages were unavailable because the network was disabled. When the network is disabled, registry packages may only be read from the cache.
""",
}


SAID["no wheels at all"] = """\
error: No solution found when resolving dependencies
cause: Because all versions of docopt have no usable wheels and the spec requires docopt, we can conclude that the spec's requirements are unsatisfiable.
"""


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("conflict", "loosen one of the requirements named above"),
        ("unknown", "check the spelling of `nosuchpackage`"),
        (
            "source only",
            (
                "`docopt` has no wheel that Python 3.11 on Debian bookworm can use;"
                " ask for another version of it, or another Python;"
                " if it has sources, `sdists: [docopt]` in mlvm.yaml builds it in a throw-away machine"
            ),
        ),
        (
            "too old",
            (
                "`tensorflow` has no wheel that Python 3.11 on Debian bookworm can use;"
                " ask for another version of it, or another Python;"
                " if it has sources, `sdists: [tensorflow]` in mlvm.yaml builds it in a throw-away machine"
            ),
        ),
        (
            "no wheels at all",
            (
                "`docopt` has no wheel that Python 3.11 on Debian bookworm can use;"
                " ask for another version of it, or another Python;"
                " if it has sources, `sdists: [docopt]` in mlvm.yaml builds it in a throw-away machine"
            ),
        ),
        ("no network", "check the network"),
        ("offline", "check the network"),
    ],
)
def test_each_refusal_has_its_hint(said: str, hint: str) -> None:
    assert python._explained(SAID[said], python="3.11", release="bookworm").hint == hint


def test_a_refusal_is_uvs_explanation_without_frame_and_options() -> None:
    framed = python._explained(SAID["conflict"], python="3.11", release="bookworm")
    plain = python._explained(SAID["source only"], python="3.11", release="bookworm")

    assert framed.message == "no set of Python packages fits the spec"
    assert framed.details.splitlines()[0].startswith(
        "Because pandas==2.2.0 depends on numpy>=1.23.2,<2 and the spec"
    )
    assert plain.details == (
        "Because docopt==0.6.2 has no usable wheels and the spec requires docopt==0.6.2,"
        " we can conclude that the spec's requirements are unsatisfiable."
    )


@pytest.fixture(scope="module")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """uv's cache, shared by these tests: each downloads metadata only once."""
    return tmp_path_factory.mktemp("uv cache")


def versions(pylock: Pylock) -> dict[str, str]:
    return {str(package.name): str(package.version) for package in pylock.packages}


@pytest.mark.network
@pytest.mark.parametrize(("release", "minor"), [("bookworm", "3.11"), ("trixie", "3.13")])
def test_a_kernel_is_always_there_as_wheels_of_the_guest(
    release: str, minor: str, cache_folder: Path
) -> None:
    pylock = resolve_python((), python=minor, release=release, cache_folder=cache_folder)

    zmq = next(package for package in pylock.packages if package.name == "pyzmq")
    assert "ipykernel" in versions(pylock)
    assert all(len(package.wheels or ()) == 1 and package.sdist is None for package in pylock.packages)
    assert "manylinux" in (zmq.wheels or ())[0].filename
    pylock.validate()


@pytest.mark.network
def test_only_the_named_package_moves(cache_folder: Path) -> None:
    where = {"python": "3.11", "release": "bookworm", "cache_folder": cache_folder}
    old = resolve_python(("numpy<2.3", "traitlets<5.14"), **where)  # type: ignore[arg-type]

    kept = resolve_python(("numpy", "traitlets"), **where, previous=old)  # type: ignore[arg-type]
    moved = resolve_python(("numpy", "traitlets"), **where, previous=old, upgrade={"numpy"})  # type: ignore[arg-type]

    assert kept == old
    assert {name for name, version in versions(moved).items() if versions(old)[name] != version} == {"numpy"}


@pytest.mark.network
def test_a_real_conflict(cache_folder: Path) -> None:
    with pytest.raises(ResolveError) as error:
        resolve_python(
            ("pandas==2.2.0", "numpy>=2.2"), python="3.11", release="bookworm", cache_folder=cache_folder
        )

    assert "the spec requires numpy>=2.2" in error.value.details
    assert error.value.hint == "loosen one of the requirements named above"


@pytest.mark.network
def test_a_real_package_without_wheels(cache_folder: Path) -> None:
    with pytest.raises(ResolveError) as error:
        resolve_python(("docopt==0.6.2",), python="3.11", release="bookworm", cache_folder=cache_folder)

    assert error.value.hint.startswith("`docopt` has no wheel that Python 3.11 on Debian bookworm can use")


@pytest.mark.network
def test_no_index_to_be_reached(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_OFFLINE", "1")

    with pytest.raises(ResolveError) as error:
        resolve_python(("pylint",), python="3.11", release="bookworm", cache_folder=cache_folder)

    assert error.value.hint == "check the network"


@pytest.mark.network
def test_sources_are_asked_for_and_nothing_of_them_is_run(cache_folder: Path) -> None:
    known = [{"name": "docopt", "requires-dist": ["six==1.16.0"]}]

    pylock = resolve_python(
        ("docopt==0.6.2",), python="3.11", release="bookworm", cache_folder=cache_folder, always=(),
        sdists=("docopt",), metadata=known,
    )  # fmt: skip

    docopt, six = pylock.packages
    assert docopt.wheels is None
    assert docopt.sdist is not None
    assert docopt.sdist.url == (
        "https://files.pythonhosted.org/packages/a2/55/"
        "8f8cab2afd404cf578136ef2cc5dfb50baa1761b68c9da1fb1e4eed343c9/docopt-0.6.2.tar.gz"
    )
    # What it depends on is what was said, not what its setup.py would say.
    assert str(six.version) == "1.16.0"
    assert six.sdist is None
