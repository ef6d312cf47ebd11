"""The only door to other programs.

`run` is for programs that end by themselves, `follow` for those whose progress is shown and that clean up when they are
interrupted, `feed` for those that read what we make meanwhile, `spawn` for those that live as long as a block,
`start_detached` for QEMU, which outlives us. A failed program becomes a ProgramError with the command and its last
words; a missing one names the package that brings it.
"""

from __future__ import annotations

import io
import logging
import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from math import inf
from pathlib import Path
from typing import IO

from mlvm.errors import ProgramError

log = logging.getLogger(__name__)

#: Debian and Ubuntu package of each program we may ask for, for the hint when it is missing.
PACKAGES = {
    "apt-get": "apt",
    "gpgv": "gpgv",
    "qemu-img": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
    "newuidmap": "uidmap",
    "openssl": "openssl",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "vagrant": "vagrant vagrant-libvirt",
    "virsh": "libvirt-clients",
}

#: Bytes gathered before a fed program gets them.
FEED_BUFFER = 1 << 20

Argument = str | os.PathLike[str]


def find_program(name: str) -> str | None:
    """Return the full path of program `name`, or None.

    /usr/sbin is looked at too: users often lack it. Relative entries of PATH (an empty one is the current folder) are
    not: what runs must not depend on where one stands.
    """
    named = [place for place in os.environ.get("PATH", os.defpath).split(os.pathsep) if place.startswith("/")]
    return shutil.which(name, path=os.pathsep.join([*named, "/usr/sbin", "/sbin"]))


def require_program(name: str) -> str:
    """Return the full path of program `name`, or raise ProgramError that says how to install it."""
    if path := find_program(name):
        return path
    package = PACKAGES.get(name, name)
    raise ProgramError(f"`{name}` is not installed", hint=f"sudo apt-get install {package}")


def run(
    command: Sequence[Argument],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes | None = None,
    timeout: float | None = None,
    check: bool = True,
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end and return what it wrote (bytes) and its exit code.

    `env` replaces the environment. Raises ProgramError when the program is missing, exceeds `timeout` seconds, or,
    with `check`, ends with another code than 0.
    """
    argv = _with_program(command)
    log.debug("run %s", shlex.join(argv))
    try:
        done = subprocess.run(
            argv,
            env=env,
            cwd=cwd,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as slow:
        raise ProgramError(
            f"`{Path(argv[0]).name}` did not finish in {timeout:g} s",
            details=_last_words(argv, slow.stderr or slow.stdout),
        ) from None
    except OSError as broken:
        raise _cannot_start(argv, broken) from None
    if check and done.returncode != 0:
        raise failed(argv, done.returncode, done.stderr or done.stdout)
    return done


def follow(
    command: Sequence[Argument],
    *,
    heard: Callable[[str], None],
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    patience: float = 120.0,
) -> int:
    """Run a program, hand on each line as it is written, and return the exit code.

    Ctrl-C reaches it once, and it has `patience` seconds to clean up; a second one reaches it too, and it has a few.
    It is waited for in any case. What it leaves running may keep its output open: nobody waits for that.
    """
    argv = _with_program(command)
    log.debug("follow %s", shlex.join(argv))
    try:
        child = subprocess.Popen(
            argv,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as broken:
        raise _cannot_start(argv, broken) from None
    try:
        _hand_on(child, heard)
    except KeyboardInterrupt:
        _interrupt(child, heard, patience)
        raise
    finally:
        _end(child)
        if child.stdout is not None:
            child.stdout.close()
    return child.returncode


def _hand_on(child: subprocess.Popen[bytes], heard: Callable[[str], None], *, seconds: float = inf) -> None:
    """Hand on a program's lines until it has ended, for at most so long."""
    assert child.stdout is not None
    descriptor, rest = child.stdout.fileno(), b""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended = child.poll() is not None
        if select.select([descriptor], [], [], 0.0 if ended else 0.2)[0]:
            data = os.read(descriptor, 65536)
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                heard(line.decode(errors="replace"))
            if data:
                continue
            time.sleep(0.01)  # it has closed its output, and will end
        if ended:
            break
    if rest:
        heard(rest.decode(errors="replace"))


def _interrupt(child: subprocess.Popen[bytes], heard: Callable[[str], None], patience: float) -> None:
    """Interrupt a program, and once more if somebody insists, and wait each time."""
    for seconds in (patience, 10.0):
        with suppress(ProcessLookupError):
            child.send_signal(signal.SIGINT)
        try:
            _hand_on(child, heard, seconds=seconds)
        except KeyboardInterrupt:
            continue
        return


@contextmanager
def spawn(
    command: Sequence[Argument],
    *,
    env: Mapping[str, str] | None = None,
    stdin: int | IO[bytes] | None = subprocess.DEVNULL,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    pass_fds: Sequence[int] = (),
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program while the block runs; it is terminated, then killed, and always waited for.

    So are programs that it started itself, unless they have left its session.
    """
    argv = _with_program(command)
    log.debug("spawn %s", shlex.join(argv))
    try:
        child = subprocess.Popen(
            argv,
            env=env,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=pass_fds,
            start_new_session=True,
        )
    except OSError as broken:
        raise _cannot_start(argv, broken) from None
    try:
        yield child
    finally:
        _end(child)


@contextmanager
def feed(command: Sequence[Argument], *, env: Mapping[str, str] | None = None) -> Iterator[IO[bytes]]:
    """Run a program while the block writes what it reads, and wait for its end after the block.

    Raises ProgramError as `run` does; when a program ends before it has read all, its own last words say why. The
    program dies with us: one that misses the end of what it reads (mkfs.erofs does) would look for it for ever.
    """
    argv = _with_program(command)
    setpriv = find_program("setpriv")
    mortal = [setpriv, "--pdeathsig", "KILL", "--", *argv] if setpriv else argv
    with tempfile.TemporaryFile() as said:
        with spawn(mortal, env=env, stdin=subprocess.PIPE, stdout=said, stderr=said) as child:
            assert isinstance(child.stdin, io.BufferedWriter)
            with suppress(BrokenPipeError), io.BufferedWriter(child.stdin.detach(), FEED_BUFFER) as stream:
                yield stream
            code = child.wait()
        if code != 0:
            said.seek(0)
            raise failed(argv, code, said.read())


def start_detached(
    command: Sequence[Argument], *, log_file: Path, pass_fds: Sequence[int] = (), cwd: Path = Path("/")
) -> subprocess.Popen[bytes]:
    """Start a program that outlives this process and its terminal; what it says goes to `log_file`.

    The caller must either `poll()` it or forget it; nothing kills it when we end.
    """
    argv = _with_program(command)
    log.debug("start %s", shlex.join(argv))
    with log_file.open("ab") as sink:
        try:
            return subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                pass_fds=pass_fds,
                start_new_session=True,
                cwd=cwd,
            )
        except OSError as broken:
            raise _cannot_start(argv, broken) from None


def replace_self(command: Sequence[Argument]) -> None:
    """Become another program (`ssh` for `mlvm ssh`): its terminal, signals and exit code are then its own."""
    argv = _with_program(command)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # what is still in our buffers would be gone
    try:
        os.execv(argv[0], argv)  # noqa: S606
    except OSError as broken:
        raise _cannot_start(argv, broken) from None


def failed(command: Sequence[str], code: int, output: bytes | None) -> ProgramError:
    """Return the error for a program that ended with `code`, with its last words as details."""
    ended = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    return ProgramError(f"`{Path(command[0]).name}` {ended}", details=_last_words(command, output))


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a child that leads its own session, and what it started there; kill whatever stays for five seconds."""
    try:
        if child.poll() is None:
            _signal_session(child, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                child.wait(5)
    finally:
        if child.poll() is None:
            _signal_session(child, signal.SIGKILL)
        child.wait()


def _signal_session(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(
        ProcessLookupError, PermissionError
    ):  # gone meanwhile; macOS says the second of the just gone
        os.killpg(child.pid, number)


def _cannot_start(command: Sequence[str], broken: OSError) -> ProgramError:
    """Return the error for a program that is not there after all, or may not be run."""
    why = (broken.strerror or str(broken)).lower()
    return ProgramError(f"`{command[0]}` cannot be started: {why}", details=_last_words(command, None))


def _with_program(command: Sequence[Argument]) -> list[str]:
    first, *rest = [os.fspath(part) for part in command]
    return [first if "/" in first else require_program(first), *rest]


def _last_words(command: Sequence[str], output: bytes | None) -> str:
    said = (output or b"")[-8192:].decode(errors="replace").strip().splitlines()[-12:]
    return "\n".join(["$ " + shlex.join(command)[:600], *said])
