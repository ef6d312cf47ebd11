"""What runs inside the namespaces of `apt_layer`: a copy of the system, dpkg in it, and a layer of what changed.

A program of its own, since only in there the user is root: owners, device nodes and mounts are real only there. It
reads its order from standard input, and everything it mounts is gone when it ends.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mlvm.errors import MlvmError
from mlvm.image.bytecode import Slice
from mlvm.image.erofs import make_erofs
from mlvm.image.tools import Tools
from mlvm.image.tree import SOURCE_DATE, Node, Tree
from mlvm.lock.deb import Kind
from mlvm.process import run

#: As in the system layer: what a guest without a reader does without.
EXCLUDED = ("doc/*", "man/*", "info/*", "locale/*", "lintian/*", "bug/*", "gnome/help/*")
#: Copies and logs that dpkg and its friends leave behind, dated or not, and what is mounted or made again at boot.
LEFT_OUT = ("tmp", "run", "dev", "proc", "sys", "usr/sbin/policy-rc.d", "var/cache/ldconfig/aux-cache")
LOGS = ("var/log/", "var/cache/apt/", "var/lib/apt/lists/")
BACKUPS = {f"etc/{name}-" for name in ("passwd", "group", "shadow", "gshadow", "subuid", "subgid")}
ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "DEBIAN_FRONTEND": "noninteractive",
    "SOURCE_DATE_EPOCH": str(SOURCE_DATE),
}
#: Marks of overlayfs on what it copied up; only the one that hides a folder means anything to a reader.
OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")


def main() -> None:
    """Do what the order on standard input says."""
    order = json.load(sys.stdin)
    scratch, tools = Path(order["scratch"]), Tools(Path(order["tools"]))
    os.umask(0o022)
    root = _stacked(scratch, Path(order["system"]), tools)
    _install(root, {name: Path(path) for name, path in order["debs"].items()})
    for name in ("dev", "run", "tmp", "proc", ""):
        run(["umount", "--recursive", root / name])
    make_erofs(changes(scratch / "upper"), Path(order["target"]), name="apt", tools=tools)
    shutil.rmtree(scratch)


def _stacked(scratch: Path, system: Path, tools: Tools) -> Path:
    """Unpack the system, and return where it can be written to as it will be in the guest."""
    base, upper, work, root = (scratch / name for name in ("base", "upper", "work", "root"))
    for folder in (upper, work, root):
        folder.mkdir(parents=True)
    tools.run("fsck.erofs", [f"--extract={base}", "--preserve", system], timeout=1800)
    run(["mount", "--make-rprivate", "/"])
    # Nothing that only this host's overlayfs would understand; in a user's namespace that goes without saying.
    plain = "redirect_dir=off,metacopy=off" if _is_real_root() else "userxattr"
    options = f"lowerdir={base},upperdir={upper},workdir={work},index=off,{plain}"
    run(["mount", "-t", "overlay", "overlay", "-o", options, root])
    run(["mount", "-t", "proc", "proc", root / "proc"])
    for name in ("dev", "run", "tmp"):
        (root / name).mkdir(exist_ok=True)
        run(["mount", "-t", "tmpfs", "-o", "mode=0755", name, root / name])
    for name in ("null", "zero", "full", "random", "urandom"):
        (root / "dev" / name).touch()
        run(["mount", "--bind", f"/dev/{name}", root / "dev" / name])
    return root


def _is_real_root() -> bool:
    return Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]


def _install(root: Path, debs: dict[str, Path]) -> None:
    """Unpack and configure the packages with the tree's own dpkg; no service is started."""
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    folder = root / "tmp" / "debs"
    folder.mkdir()
    for name, path in sorted(debs.items()):
        shutil.copyfile(path, folder / f"{name}.deb")
    excluded = [word for path in EXCLUDED for word in ("--path-exclude", f"/usr/share/{path}")]
    options = ["--force-unsafe-io", *excluded, "--path-include", "/usr/share/doc/*/copyright"]
    dpkg = ["chroot", str(root), "dpkg"]
    archives = [f"/tmp/debs/{name}.deb" for name in sorted(debs)]  # noqa: S108
    run([*dpkg, *options, "--unpack", *archives], env=ENVIRONMENT)
    run([*dpkg, *options, "--configure", "--pending"], env=ENVIRONMENT)


def changes(upper: Path) -> Tree:
    """Return the layer that an overlay's upper folder is."""
    tree = Tree()
    seen: dict[tuple[int, int], str] = {}
    for path, found in _entries(upper):
        name = str(path.relative_to(upper))
        if not _left_out(name):
            tree.put(name, _node(path, found, name, seen))
    return tree


def _entries(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in sorted(folder.iterdir()):
        found = path.lstat()
        yield path, found
        if stat.S_ISDIR(found.st_mode):
            yield from _entries(path)


def _left_out(name: str) -> bool:
    first = name.partition("/")[0]
    old = name.endswith("-old") and name.startswith(("var/lib/dpkg/", "var/cache/debconf/"))
    return first in LEFT_OUT or name in LEFT_OUT or name in BACKUPS or old or name.startswith(LOGS)


def _node(path: Path, found: os.stat_result, name: str, seen: dict[tuple[int, int], str]) -> Node:
    mode = found.st_mode
    common = {"uid": found.st_uid, "gid": found.st_gid, "mtime": int(found.st_mtime), "xattrs": _xattrs(path)}
    if stat.S_ISCHR(mode) and found.st_rdev == 0:
        return Node(kind=Kind.WHITEOUT, mode=0)
    if stat.S_ISDIR(mode):
        return Node(kind=Kind.FOLDER, mode=mode & 0o7777, **common)  # type: ignore[arg-type]
    if stat.S_ISLNK(mode):
        return Node(kind=Kind.SYMLINK, mode=0o777, link=str(path.readlink()), **common)  # type: ignore[arg-type]
    if not stat.S_ISREG(mode):
        raise MlvmError(f"a script left `/{name}`, which is no file, folder or link")
    key = (found.st_dev, found.st_ino)
    if found.st_nlink > 1 and key in seen:
        return Node(kind=Kind.HARDLINK, mode=mode & 0o7777, link=seen[key])
    seen[key] = name
    return Node(kind=Kind.FILE, mode=mode & 0o7777, content=Slice(path, 0, found.st_size), **common)  # type: ignore[arg-type]


def _xattrs(path: Path) -> dict[str, bytes]:
    """Return capabilities, and that a folder hides what lies below it."""
    kept = {}
    for name in os.listxattr(path, follow_symlinks=False):
        with suppress(OSError):
            value = os.getxattr(path, name, follow_symlinks=False)
            if name in OPAQUE:
                kept["trusted.overlay.opaque"] = value
            elif name == "security.capability":
                kept[name] = value
    return kept


if __name__ == "__main__":
    try:
        main()
    except MlvmError as error:
        sys.stderr.write(f"{error.message}\n{error.details}\n")
        raise SystemExit(1) from None
