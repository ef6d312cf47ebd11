"""What runs in the throw-away machine: an sdist in, a wheel out, the same bytes every time.

Calls the package's own backend as PEP 517 says, each hook in a process of its own, in an environment that holds nothing
of the moment. What a wheel's zip says besides its files (order, times, modes) is the same for all. Standard library
only, and any Python from 3.9. The order is JSON on standard input, the answer JSON on standard output.
"""

from __future__ import annotations

import csv
import hashlib
import importlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

#: Lines of what a build said that are worth reading when it failed.
LAST_LINES = 40
#: Bytes of that which are kept at most.
MOST_SAID = 1 << 16


class FailedError(Exception):
    """A hook ended with an error, after saying why."""


def main() -> None:
    """Do what the order says."""
    order = json.load(sys.stdin)
    os.umask(0o022)
    folder = Path(order["folder"])
    try:
        answer = build(order, folder)
    except FailedError as failed:
        answer = {"failed": str(failed)}
    print(json.dumps(answer))


def build(order: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the wheel's name, or what the backend asks for besides; the wheel itself is `wheel` in the folder."""
    source = unpack(Path(order["sdist"]), folder / "source")
    known = {_plain(text) for text in order["requires"]}
    wanted = hook(order, source, "get_requires_for_build_wheel", [None]) if order["ask"] else []
    if missing := [text for text in wanted if _plain(text) not in known]:
        return {"missing": missing}
    made: list[Path] = []
    for attempt in range(order["times"]):
        source = unpack(Path(order["sdist"]), folder / "source")
        out = folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        name = hook(order, source, "build_wheel", [str(out), None, None])
        target = folder / ("wheel" if attempt == 0 else f"wheel-{attempt}")
        normalise(out / name, target, date=order["date"])
        made.append(target)
    if differing := differences(made[0], made[-1]):
        return {"differs": differing}
    with made[0].open("rb") as stream:
        digest = hashlib.sha256(stream.read()).hexdigest()
    return {"wheel": name, "sha256": digest, "size": made[0].stat().st_size}


def _plain(requirement: str) -> str:
    return "".join(requirement.split()).lower()


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack an sdist anew, and return its one top folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            zipped.extractall(folder)
    else:
        with tarfile.open(archive) as tar:
            if hasattr(tarfile, "data_filter"):
                tar.extractall(folder, filter="data")
            else:  # an old Python; nothing but this machine could be harmed
                tar.extractall(folder)
    found = sorted(folder.iterdir())
    if len(found) != 1 or not found[0].is_dir():
        raise FailedError("the sdist has not one folder at its top")
    return found[0]


def hook(order: dict[str, Any], source: Path, name: str, arguments: list[Any]) -> Any:
    """Return what a hook of the backend returns. Raises FailedError with the last lines it wrote."""
    folder = Path(order["folder"])
    home, answer, log = folder / "home", folder / "answer.json", folder / "log"
    for old in (home, folder / "tmp"):
        shutil.rmtree(old, ignore_errors=True)
        old.mkdir()
    answer.unlink(missing_ok=True)
    call = {**order, "hook": name, "arguments": arguments, "answer": str(answer)}
    environment = {**order["env"], "HOME": str(home), "TMPDIR": str(folder / "tmp")}
    with log.open("wb") as said:
        done = subprocess.run(
            [sys.executable, "-u", __file__, "--hook", json.dumps(call)],
            cwd=source,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode or not answer.exists():
        raise FailedError(last_lines(log) or f"it ended with code {done.returncode} and said nothing")
    return json.loads(answer.read_text())


def last_lines(log: Path) -> str:
    """Return the end of what a build said."""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - MOST_SAID))
        lines = stream.read().decode(errors="replace").strip().splitlines()
    return "\n".join(lines[-LAST_LINES:])


def call(order: dict[str, Any]) -> None:
    """Be the process of one hook: import the backend as PEP 517 says, call it, write what it returns."""
    del sys.path[0]  # this program's folder
    sys.path[:0] = [str(Path.cwd() / path) for path in order["backend_path"]]
    module, _, names = order["backend"].partition(":")
    backend: Any = importlib.import_module(module)
    for name in filter(None, names.split(".")):
        backend = getattr(backend, name)
    function = getattr(backend, order["hook"], None)
    if function is None and order["hook"] == "get_requires_for_build_wheel":
        result: Any = []
    else:
        result = function(*order["arguments"])  # type: ignore[misc]
    Path(order["answer"]).write_text(json.dumps(result))


def normalise(wheel: Path, target: Path, *, date: int) -> None:
    """Write a wheel again: members sorted, with one date and two modes, and RECORD sorted as well."""
    moment = time.gmtime(date)[:6]
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        members = {info.filename: info for info in old.infolist() if not info.is_dir()}
        for name in sorted(members, key=lambda name: (".dist-info/" in name, name)):
            info = zipfile.ZipInfo(name, moment)
            info.create_system = 3
            info.compress_type = zipfile.ZIP_DEFLATED
            executable = (members[name].external_attr >> 16) & 0o111
            info.external_attr = (0o100755 if executable else 0o100644) << 16
            content = old.read(members[name])
            if name.endswith(".dist-info/RECORD"):
                content = sorted_record(content)
            new.writestr(info, content)


def sorted_record(content: bytes) -> bytes:
    """Return RECORD in the order of its names."""
    rows = sorted(csv.reader(io.StringIO(content.decode())))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def differences(one: Path, other: Path) -> list[str]:
    """Return the members in which two wheels differ."""
    with zipfile.ZipFile(one) as first, zipfile.ZipFile(other) as second:
        names = sorted({*first.namelist(), *second.namelist()})
        return [name for name in names if _content(first, name) != _content(second, name)]


def _content(archive: zipfile.ZipFile, name: str) -> bytes | None:
    return archive.read(name) if name in archive.namelist() else None


if __name__ == "__main__":
    if sys.argv[1:2] == ["--hook"]:
        call(json.loads(sys.argv[2]))
    else:
        main()
