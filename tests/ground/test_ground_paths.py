"""Where things are kept, and what is refused there."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from mlvm import paths
from mlvm.errors import MlvmError
from mlvm.paths import SOCKET_PATH_LIMIT, Home, make_private, shipped, socket_path

NOBODY = 65534


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No variable that decides where things are, and an empty HOME, which is returned."""
    for name in ("MLVM_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)  # nobody's: there is no /run/user/4000000
    return tmp_path


@pytest.fixture
def root_only() -> None:
    """Skip where owners cannot be changed."""
    if os.getuid() != 0:
        pytest.skip("only root can give folders to others")


def test_the_defaults(bare: Path) -> None:
    home = Home.find()

    assert home.data == bare / ".local/share/mlvm"
    assert home.cache == bare / ".cache/mlvm"
    assert str(home.runtime).startswith("/tmp/mlvm-4000000-")
    assert home.store == bare / ".cache/mlvm/store"
    assert home.machine("a") == bare / ".local/share/mlvm/machines/a"


def test_mlvm_home_holds_all(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bare)
    monkeypatch.setenv("XDG_DATA_HOME", "/elsewhere")
    monkeypatch.setenv("MLVM_HOME", "here")

    home = Home.find()

    assert (home.data, home.cache) == (bare / "here/data", bare / "here/cache")


def test_two_homes_have_two_folders_of_sockets(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for name in ("~/a", "~/b"):
        monkeypatch.setenv("MLVM_HOME", name)
        found.add(Home.find().sockets("machine"))

    assert len(found) == 2


def test_xdg_variables(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (bare / "run").mkdir()
    monkeypatch.setenv("XDG_DATA_HOME", "/x/data")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x/cache")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(bare / "run"))
    monkeypatch.setattr(os, "getuid", (bare / "run").stat().st_uid.__int__)

    home = Home.find()

    assert (home.data, home.cache, home.runtime) == (
        Path("/x/data/mlvm"),
        Path("/x/cache/mlvm"),
        bare / "run/mlvm",
    )


@pytest.mark.parametrize("value", ["relative", "", "./x"])
def test_relative_xdg_variables_are_ignored(bare: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    expected = Home.find()
    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, value)

    assert Home.find() == expected


def test_a_runtime_folder_that_is_gone_or_somebody_else_s(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`su` and `sudo -E` leave the variable of another user behind."""
    expected = Home.find()
    for folder in (bare / "gone", bare):
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))

        assert Home.find() == expected


def test_the_system_s_runtime_folder_is_found_without_the_variable(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """cron and an ssh session must find the same sockets."""
    real = Path.stat
    status = os.stat_result((0o40700, 0, 0, 1, 4_000_000, 0, 0, 0, 0, 0))
    monkeypatch.setattr(
        Path, "stat", lambda self, **more: status if str(self) == "/run/user/4000000" else real(self, **more)
    )

    assert Home.find().runtime == Path("/run/user/4000000/mlvm")


def test_the_folder_of_sockets_is_short(home: Home) -> None:
    folder = home.sockets("x" * 63)

    assert len(str(folder / "agent-0.sock")) < SOCKET_PATH_LIMIT
    assert folder == home.sockets("x" * 63)
    assert folder != home.sockets("x" * 62)


def test_make_private(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b" / "c"

    assert make_private(folder) == folder
    assert make_private(folder) == folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700


def test_an_open_folder_of_one_s_own_is_closed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a").chmod(0o777)

    make_private(tmp_path / "a")

    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700


@pytest.mark.parametrize("what", ["file", "link"])
def test_make_private_refuses(tmp_path: Path, what: str) -> None:
    path = tmp_path / "a"
    path.write_text("") if what == "file" else path.symlink_to(tmp_path)

    with pytest.raises(MlvmError) as raised:
        make_private(path)

    assert raised.value.message == f"`{path}` must be a folder of your own, and is not"
    assert raised.value.hint == f"look at it with `ls -ld {path}`, then move it away"


@pytest.mark.usefixtures("root_only")
def test_make_private_refuses_somebody_else_s_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    os.chown(tmp_path / "a", NOBODY, NOBODY)

    with pytest.raises(MlvmError, match="must be a folder of your own"):
        make_private(tmp_path / "a")


@pytest.mark.usefixtures("root_only")
def test_make_private_refuses_a_folder_inside_somebody_else_s(tmp_path: Path) -> None:
    """Whoever owns the folder above can put another in our folder's place: names in /tmp can be guessed."""
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", NOBODY, NOBODY)

    with pytest.raises(MlvmError) as raised:
        make_private(tmp_path / "theirs" / "a")

    assert raised.value.message == f"`{tmp_path}/theirs` is in the hands of other users"
    assert list((tmp_path / "theirs").iterdir()) == []


@pytest.mark.usefixtures("root_only")
def test_make_private_refuses_a_link_of_somebody_else_s(tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "ours")
    os.lchown(tmp_path / "link", NOBODY, NOBODY)

    with pytest.raises(MlvmError, match="is in the hands of other users"):
        make_private(tmp_path / "link" / "a")


@pytest.mark.parametrize(
    ("mode", "refused"), [(0o777, True), (0o1777, False), (0o775, False), (0o755, False)]
)
def test_the_folder_above_may_be_open_only_when_sticky(tmp_path: Path, mode: int, refused: bool) -> None:
    (tmp_path / "above").mkdir()
    (tmp_path / "above").chmod(mode)

    try:
        make_private(tmp_path / "above" / "a")
    except MlvmError:
        assert refused
    else:
        assert not refused


def test_make_private_in_the_system_s_own_folder() -> None:
    folder = Path(tempfile.gettempdir()) / f"mlvm-test-{os.getpid()}"
    try:
        assert make_private(folder) == folder
    finally:
        folder.rmdir()


def test_a_socket_path_at_the_limit() -> None:
    folder = Path("/" + "x" * (SOCKET_PATH_LIMIT - 7))

    assert len(str(socket_path(folder, "a.soc"))) == SOCKET_PATH_LIMIT - 0
    with pytest.raises(MlvmError) as raised:
        socket_path(folder, "a.sock")
    assert raised.value.message == f"the path of socket `{folder}/a.sock` is longer than 103 bytes"
    assert raised.value.hint == "set MLVM_HOME or XDG_RUNTIME_DIR to a shorter folder"


def test_a_socket_path_is_counted_in_bytes() -> None:
    with pytest.raises(MlvmError):
        socket_path(Path("/" + "ü" * 60), "a.sock")


def test_shipped_folders_are_the_clone_s() -> None:
    assert shipped("boxes") == Path(paths.__file__).parent.parent / "boxes"
    assert (shipped("templates") / "minimal.yaml").is_file()


def test_shipped_folders_of_an_installed_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `boxes` folder that happens to lie beside an installed package is not ours."""
    (tmp_path / "mlvm").mkdir()
    (tmp_path / "boxes").mkdir()
    monkeypatch.setattr(paths, "__file__", str(tmp_path / "mlvm" / "paths.py"))

    assert shipped("boxes") == tmp_path / "mlvm" / "shipped" / "boxes"
