"""The grammar of the command line, in one table of verbs.

Each verb names the function that does it as text (`module:function`), so that showing help imports none of them.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any

from mlvm import __version__
from mlvm.cli.box_verbs import boxes
from mlvm.cli.reproduce_verbs import reproducing
from mlvm.cli.words import Parser, box_word, frozen_option, progress_option, verb

DESCRIPTION = "Pinned Python toolchains as locked, reproducible VMs with a Jupyter kernel inside."

EPILOG = """\
BOX is a shipped box (`mlvm up sklearn`), a folder with an mlvm.yaml (`mlvm up ./project`), or the name of something
built here before; without one, the nearest mlvm.yaml from here upwards. NAME is a machine's name.

exit codes: 0 done, 1 other errors (and `lock --check` or `diff` that found something), 2 wrong usage, 3 spec, 4 lock,
5 download, 6 digest, 7 image, box or store, 8 host program, 9 machine, 10 kernel,
11 a cell failed in `mlvm reproduce`, 130 interrupted; `mlvm run` passes the program's own code on
"""


#: Machines that one command may make of another.
MOST_FORKS = 64


class Arguments(argparse.Namespace):
    """What was typed. `call` is "module:function"; `command` is what stood behind `--`."""

    call: str
    verbose: bool
    command: list[str]

    def __getattr__(self, name: str) -> Any:
        """Let a type checker accept the verbs' own arguments."""
        raise AttributeError(name)


class TopParser(Parser):
    """The parser of the whole line."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse what stands before `--`; keep what stands behind it in `command`."""
        words = list(args or ())
        cut = words.index("--") if "--" in words else len(words)
        parsed = super().parse_args(words[:cut], namespace)
        parsed.command = words[cut + 1 :]
        return parsed


def make_parser() -> TopParser:
    """Return the parser of the whole command line."""
    parser = TopParser(
        prog="mlvm",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mlvm {__version__}")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="say what is run and why, on standard error"
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True, parser_class=Parser)
    _pinning(verbs)
    _building(verbs)
    _machines(verbs)
    _kernels(verbs)
    boxes(verbs)
    reproducing(verbs)
    return parser


def _seconds(text: str) -> float:
    """Read a number of seconds that can be waited for."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.2 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"`{text}` is no number of seconds from 0.2 to 3600")
    return seconds


def _provider(text: str) -> str:
    """Return the name of a provider, and for Vagrant that of its own. Raises ArgumentTypeError."""
    if not re.fullmatch(r"qemu|vagrant(:[a-z][a-z0-9_-]*)?", text):
        raise argparse.ArgumentTypeError(f"`{text}` is neither `qemu`, `vagrant` nor `vagrant:NAME`")
    return text


def _count(text: str) -> int:
    """Return a number of machines. Raises ArgumentTypeError."""
    if not (text.isdecimal() and 1 <= int(text) <= MOST_FORKS):
        raise argparse.ArgumentTypeError(f"`{text}` is no number from 1 to {MOST_FORKS}")
    return int(text)


def _pinning(verbs: Any) -> None:
    init = verb(verbs, "init", "mlvm.cli.pinning:init", "write an mlvm.yaml into this folder")
    init.add_argument(
        "--template", metavar="NAME", help="start from a template; `--template list` lists them"
    )
    init.add_argument("--from-env", action="store_true", help="pin what the running Python has installed")
    init.add_argument("--stdout", action="store_true", help="print it and write nothing")
    init.add_argument("--force", action="store_true", help="replace an mlvm.yaml that is there")

    lock = verb(
        verbs, "lock", "mlvm.cli.pinning:lock", "resolve the spec into mlvm.lock, keeping what still fits"
    )
    box_word(lock)
    lock.add_argument(
        "--upgrade",
        nargs="*",
        metavar="NAME",
        help="move these packages to their newest; without names, everything",
    )
    lock.add_argument(
        "--check", action="store_true", help="change nothing; say fresh, or every reason why not (code 1)"
    )
    lock.add_argument(
        "--into", metavar="NOTEBOOK", help="put the lock into a notebook as well, so that it travels with it"
    )
    progress_option(lock)

    diff = verb(
        verbs, "diff", "mlvm.cli.pinning:diff", "show the difference between two locks (code 1 if any)"
    )
    diff.add_argument("old", metavar="A", help="a lock, or a folder with one")
    diff.add_argument("new", metavar="B", help="a lock, or a folder with one")

    compat = verb(
        verbs,
        "compat",
        "mlvm.cli.compat:compat",
        "show which builds of frameworks go with which Python, CUDA, cuDNN, driver and GPU",
    )
    compat.add_argument("framework", nargs="?", metavar="FRAMEWORK", help="only this one")
    compat.add_argument("--use", metavar="FILE", help="take a newer table; tools/compatibility.py makes one")
    compat.add_argument("--sha256", metavar="DIGEST", help="the digest that FILE must have")
    compat.add_argument("--json", action="store_true", help="as JSON")

    show = verb(verbs, "show", "mlvm.cli.pinning:show", "print a document of the chain as JSON")
    show.add_argument("what", choices=("spec", "lock", "plan", "image", "machine"))
    show.add_argument("box", nargs="?", metavar="BOX", help="box or folder; for `machine`, its name")


def _building(verbs: Any) -> None:
    build = verb(
        verbs, "build", "mlvm.cli.building:build", "build the image of a lock; nothing to do when it is there"
    )
    box_word(build)
    build.add_argument(
        "--warm", action="store_true", help="also make what lets fresh machines start warm (boots one)"
    )
    frozen_option(build)
    progress_option(build)

    standby = verb(
        verbs,
        "standby",
        "mlvm.cli.building:standby",
        "keep a machine of a box ready and paused: the next fresh one of that box is that one",
    )
    box_word(standby)
    standby.add_argument("--end", action="store_true", help="end all machines that are on standby")
    standby.add_argument(
        "--older-than",
        type=float,
        default=0,
        metavar="MINUTES",
        help="with --end: only those made before that",
    )
    progress_option(standby)

    verify = verb(
        verbs,
        "verify",
        "mlvm.cli.building:verify",
        "rebuild the image from nothing and compare, layer by layer",
    )
    box_word(verify)
    verify.add_argument("--record", action="store_true", help="write the proved digests into the lock")
    progress_option(verify)

    store = verb(verbs, "store", "mlvm.cli.building:store", "show what the store keeps and what uses it")
    store.add_argument("--json", action="store_true", help="as JSON")
    prune = verb(verbs, "prune", "mlvm.cli.building:prune", "remove from the store what nothing uses")
    prune.add_argument("--dry-run", action="store_true", help="only say what would go")


def _status(verbs: Any) -> None:
    status = verb(verbs, "status", "mlvm.cli.status:status", "show all machines and what they use")
    status.add_argument(
        "--usage", action="store_true", help="ask the guests as well: memory inside, disk, network"
    )
    status.add_argument("--json", action="store_true", help="as JSON")
    status.add_argument(
        "--watch",
        nargs="?",
        type=_seconds,
        const=2.0,
        metavar="SECONDS",
        help="go on showing them with what they used over the last minutes; q ends (default: every 2 s)",
    )


def _up(verbs: Any) -> None:
    up = verb(verbs, "up", "mlvm.cli.machines:up", "bring up a machine, making whatever is missing")
    box_word(up)
    up.add_argument("--name", metavar="NAME", help="the machine's name (default: the spec's)")
    up.add_argument(
        "--provider",
        type=_provider,
        metavar="NAME",
        help="what runs a new machine: qemu (default), vagrant, or vagrant:virtualbox and others of Vagrant's",
    )
    up.add_argument("--from", dest="notebook", metavar="NOTEBOOK", help="the box whose lock is in a notebook")
    up.add_argument("--cold", action="store_true", help="boot, even where a warm start is possible")
    frozen_option(up)
    up.add_argument(
        "--timings", action="store_true", help="show where the time went, on the host and in the guest"
    )
    up.add_argument("--json", action="store_true", help="say the outcome (and the timings) as JSON")
    progress_option(up)


def _machines(verbs: Any) -> None:
    _up(verbs)
    _status(verbs)

    ssh = verb(
        verbs, "ssh", "mlvm.cli.machines:ssh", "open a shell in a machine by ssh, its host key checked"
    )
    ssh.add_argument("name", nargs="?", metavar="NAME")

    run = verb(
        verbs, "run", "mlvm.cli.machines:run", "run a program in a machine: `mlvm run [NAME] -- CMD ...`"
    )
    run.add_argument("name", nargs="?", metavar="NAME")
    run.add_argument("--user", metavar="USER", help="as this user of the guest (default: mlvm)")
    run.add_argument("--cwd", metavar="DIR", help="in this folder of the guest (default: the user's home)")
    run.add_argument(
        "--no-tty", action="store_true", help="no terminal in the guest, even where there is one here"
    )

    console = verb(
        verbs, "console", "mlvm.cli.machines:console", "attach to the serial console (leave with Ctrl-])"
    )
    console.add_argument("name", nargs="?", metavar="NAME")
    console.add_argument("--log", action="store_true", help="print what it has said so far, and return")

    for name, text in (
        ("stop", "shut a machine down; its disk stays"),
        ("suspend", "save a machine's memory and end it; `mlvm up` goes on from there"),
        ("destroy", "remove a machine with its disk"),
    ):
        made = verb(verbs, name, f"mlvm.cli.machines:{name}", text)
        made.add_argument("name", nargs="?", metavar="NAME")
        progress_option(made)
        if name == "destroy":
            made.add_argument("-y", "--yes", action="store_true", help="do not ask")

    _limits(verbs)
    _snapshots(verbs)
    _forks(verbs)

    doctor = verb(
        verbs,
        "doctor",
        "mlvm.cli.health:doctor",
        "check this host, and say the command that mends each fault",
    )
    doctor.add_argument("--json", action="store_true", help="as JSON")


def _forks(verbs: Any) -> None:
    fork = verb(
        verbs,
        "fork",
        "mlvm.cli.forking:fork",
        "make a running machine into more, kernels and variables included; it goes on running",
    )
    fork.add_argument("name", metavar="NAME", help="the machine")
    fork.add_argument(
        "new", nargs="?", metavar="NEW", help="the new machine's name (default: NAME-2, NAME-3 ...)"
    )
    fork.add_argument(
        "--count", type=_count, default=1, metavar="N", help="how many; several are called NEW-1, NEW-2 ..."
    )
    fork.add_argument("--json", action="store_true", help="say the outcome as JSON")
    progress_option(fork)


def _limits(verbs: Any) -> None:
    limit = verb(
        verbs, "set", "mlvm.cli.limits:limit", "change what a running machine may take, until it is stopped"
    )
    limit.add_argument("name", nargs="?", metavar="NAME")
    limit.add_argument(
        "--cpu-weight", type=int, metavar="N", help="share of the CPUs, 1 to 10000 (usual: 100)"
    )
    limit.add_argument("--disk-iops", type=int, metavar="N", help="disk operations a second; 0: any number")
    limit.add_argument(
        "--memory", metavar="SIZE", help="RAM to leave it, such as `1 GiB`, in the bounds of its spec"
    )
    progress_option(limit)


def _snapshots(verbs: Any) -> None:
    snapshot = verb(
        verbs,
        "snapshot",
        "mlvm.cli.snapshots:show",
        "keep a running machine, RAM and disk, and go back to it",
    )
    actions = snapshot.add_subparsers(title="actions", metavar="ACTION", required=True, parser_class=Parser)
    for name, text in (
        ("save", "keep the machine as it is now; it goes on running"),
        ("restore", "go back to a snapshot; what has happened since is lost"),
        ("list", "show a machine's snapshots"),
        ("delete", "remove a snapshot; the machine stays as it is"),
    ):
        function = "show" if name == "list" else name
        action = verb(actions, name, f"mlvm.cli.snapshots:{function}", text)
        if name == "list":
            action.add_argument("--json", action="store_true", help="as JSON")
        else:
            action.add_argument("snapshot", metavar="SNAPSHOT")
            progress_option(action)
        action.add_argument("--machine", metavar="NAME", help="the machine (default: the one meant here)")


def _kernels(verbs: Any) -> None:
    kernel = verb(
        verbs, "kernel", "mlvm.cli.kernels:show", "manage the Jupyter kernels that live in machines"
    )
    actions = kernel.add_subparsers(title="actions", metavar="ACTION", required=True, parser_class=Parser)
    install = verb(actions, "install", "mlvm.cli.kernels:install", "make a box's kernel known to Jupyter")
    box_word(install)
    install.add_argument(
        "--name", metavar="KERNEL", help="the kernel's name for Jupyter (default: mlvm-SPEC)"
    )
    install.add_argument(
        "--machine", metavar="NAME", help="the machine it runs in (default: the spec's name)"
    )
    install.add_argument(
        "--sys-prefix", action="store_true", help="into this Python's environment, not the user's"
    )
    listing = verb(
        actions, "list", "mlvm.cli.kernels:show", "show the kernels installed by mlvm, and those that live"
    )
    listing.add_argument("--json", action="store_true", help="as JSON")
    output = verb(actions, "output", "mlvm.cli.kernels:output", "print what a kernel in a machine wrote")
    output.add_argument("kernel", metavar="ID", help="the beginning of its id, or its machine")
    output.add_argument("--missed", action="store_true", help="only what nobody has heard")
    end = verb(actions, "end", "mlvm.cli.kernels:end", "end a kernel in a machine, whoever started it")
    end.add_argument("kernel", metavar="ID", help="the beginning of its id, or its machine")
    remove = verb(actions, "remove", "mlvm.cli.kernels:remove", "forget a kernel; its machine stays")
    remove.add_argument("kernel", metavar="KERNEL")
