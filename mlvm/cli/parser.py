"""The grammar of the command line, in one table of verbs.

Each verb names the function that does it as text (`module:function`), so that showing help imports none of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from mlvm import __version__

DESCRIPTION = "Pinned Python toolchains as locked, reproducible VMs with a Jupyter kernel inside."

EPILOG = """\
BOX is a shipped box (`mlvm up sklearn`), a folder with an mlvm.yaml (`mlvm up ./project`), or the name of something
built here before; without one, the nearest mlvm.yaml from here upwards. NAME is a machine's name.

exit codes: 0 done, 1 other errors (and `lock --check` or `diff` that found something), 2 wrong usage, 3 spec, 4 lock,
5 download, 6 digest, 7 image or store, 8 host program, 9 machine, 10 kernel, 130 interrupted;
`mlvm run` passes the program's own code on
"""


class Arguments(argparse.Namespace):
    """What was typed. `call` is "module:function"; `command` is what stood behind `--`."""

    call: str
    verbose: bool
    command: list[str]

    def __getattr__(self, name: str) -> Any:
        """Let a type checker accept the verbs' own arguments."""
        raise AttributeError(name)


class Parser(argparse.ArgumentParser):
    """argparse, but its errors look like ours and everything behind `--` is left alone."""

    def error(self, message: str) -> NoReturn:
        """Write the error in our form and exit with code 2."""
        self.exit(2, f"error: {message}\nhint: {self.prog} --help\n")


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
    return parser


def _verb(verbs: Any, name: str, call: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name, help=text, description=text[0].upper() + text[1:]
    )
    parser.set_defaults(call=call)
    return parser


def _box(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "box", nargs="?", metavar="BOX", help="shipped box, folder or earlier build; default: here"
    )


def _progress(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--progress",
        choices=("auto", "live", "plain", "json", "none"),
        default="auto",
        help="how progress is shown on standard error (default: live on a terminal, else plain)",
    )


def _frozen(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--frozen", action="store_true", help="fail when the lock is missing or stale; never resolve"
    )


def _pinning(verbs: Any) -> None:
    init = _verb(verbs, "init", "mlvm.cli.pinning:init", "write an mlvm.yaml into this folder")
    init.add_argument(
        "--template", metavar="NAME", help="start from a template; `--template list` lists them"
    )
    init.add_argument("--from-env", action="store_true", help="pin what the running Python has installed")
    init.add_argument("--stdout", action="store_true", help="print it and write nothing")
    init.add_argument("--force", action="store_true", help="replace an mlvm.yaml that is there")

    lock = _verb(
        verbs, "lock", "mlvm.cli.pinning:lock", "resolve the spec into mlvm.lock, keeping what still fits"
    )
    _box(lock)
    lock.add_argument(
        "--upgrade",
        nargs="*",
        metavar="NAME",
        help="move these packages to their newest; without names, everything",
    )
    lock.add_argument(
        "--check", action="store_true", help="change nothing; say fresh, or every reason why not (code 1)"
    )
    _progress(lock)

    diff = _verb(
        verbs, "diff", "mlvm.cli.pinning:diff", "show the difference between two locks (code 1 if any)"
    )
    diff.add_argument("old", metavar="A", help="a lock, or a folder with one")
    diff.add_argument("new", metavar="B", help="a lock, or a folder with one")

    show = _verb(verbs, "show", "mlvm.cli.pinning:show", "print a document of the chain as JSON")
    show.add_argument("what", choices=("spec", "lock", "plan", "image", "machine"))
    show.add_argument("box", nargs="?", metavar="BOX", help="box or folder; for `machine`, its name")


def _building(verbs: Any) -> None:
    build = _verb(
        verbs, "build", "mlvm.cli.building:build", "build the image of a lock; nothing to do when it is there"
    )
    _box(build)
    build.add_argument(
        "--warm", action="store_true", help="also make what lets fresh machines start warm (boots one)"
    )
    _frozen(build)
    _progress(build)

    verify = _verb(
        verbs,
        "verify",
        "mlvm.cli.building:verify",
        "rebuild the image from nothing and compare, layer by layer",
    )
    _box(verify)
    verify.add_argument("--record", action="store_true", help="write the proved digests into the lock")
    _progress(verify)

    store = _verb(verbs, "store", "mlvm.cli.building:store", "show what the store keeps and what uses it")
    store.add_argument("--json", action="store_true", help="as JSON")
    prune = _verb(verbs, "prune", "mlvm.cli.building:prune", "remove from the store what nothing uses")
    prune.add_argument("--dry-run", action="store_true", help="only say what would go")


def _machines(verbs: Any) -> None:
    up = _verb(verbs, "up", "mlvm.cli.machines:up", "bring up a machine, making whatever is missing")
    _box(up)
    up.add_argument("--name", metavar="NAME", help="the machine's name (default: the spec's)")
    up.add_argument("--cold", action="store_true", help="boot, even where a warm start is possible")
    _frozen(up)
    up.add_argument(
        "--timings", action="store_true", help="show where the time went, on the host and in the guest"
    )
    up.add_argument("--json", action="store_true", help="say the outcome (and the timings) as JSON")
    _progress(up)

    status = _verb(verbs, "status", "mlvm.cli.machines:status", "show all machines")
    status.add_argument("--json", action="store_true", help="as JSON")

    ssh = _verb(
        verbs, "ssh", "mlvm.cli.machines:ssh", "open a shell in a machine by ssh, its host key checked"
    )
    ssh.add_argument("name", nargs="?", metavar="NAME")

    run = _verb(
        verbs, "run", "mlvm.cli.machines:run", "run a program in a machine: `mlvm run [NAME] -- CMD ...`"
    )
    run.add_argument("name", nargs="?", metavar="NAME")
    run.add_argument("--user", metavar="USER", help="as this user of the guest (default: mlvm)")
    run.add_argument("--cwd", metavar="DIR", help="in this folder of the guest (default: the user's home)")
    run.add_argument(
        "--no-tty", action="store_true", help="no terminal in the guest, even where there is one here"
    )

    console = _verb(
        verbs, "console", "mlvm.cli.machines:console", "attach to the serial console (leave with Ctrl-])"
    )
    console.add_argument("name", nargs="?", metavar="NAME")
    console.add_argument("--log", action="store_true", help="print what it has said so far, and return")

    for name, text in (
        ("stop", "shut a machine down; its disk stays"),
        ("suspend", "save a machine's memory and end it; `mlvm up` goes on from there"),
        ("destroy", "remove a machine with its disk"),
    ):
        verb = _verb(verbs, name, f"mlvm.cli.machines:{name}", text)
        verb.add_argument("name", nargs="?", metavar="NAME")
        _progress(verb)
        if name == "destroy":
            verb.add_argument("-y", "--yes", action="store_true", help="do not ask")

    _snapshots(verbs)

    doctor = _verb(
        verbs,
        "doctor",
        "mlvm.cli.health:doctor",
        "check this host, and say the command that mends each fault",
    )
    doctor.add_argument("--json", action="store_true", help="as JSON")


def _snapshots(verbs: Any) -> None:
    snapshot = _verb(
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
        action = _verb(actions, name, f"mlvm.cli.snapshots:{function}", text)
        if name == "list":
            action.add_argument("--json", action="store_true", help="as JSON")
        else:
            action.add_argument("snapshot", metavar="SNAPSHOT")
            _progress(action)
        action.add_argument("--machine", metavar="NAME", help="the machine (default: the one meant here)")


def _kernels(verbs: Any) -> None:
    kernel = _verb(
        verbs, "kernel", "mlvm.cli.kernels:show", "manage the Jupyter kernels that live in machines"
    )
    actions = kernel.add_subparsers(title="actions", metavar="ACTION", required=True, parser_class=Parser)
    install = _verb(actions, "install", "mlvm.cli.kernels:install", "make a box's kernel known to Jupyter")
    _box(install)
    install.add_argument(
        "--name", metavar="KERNEL", help="the kernel's name for Jupyter (default: mlvm-SPEC)"
    )
    install.add_argument(
        "--machine", metavar="NAME", help="the machine it runs in (default: the spec's name)"
    )
    install.add_argument(
        "--sys-prefix", action="store_true", help="into this Python's environment, not the user's"
    )
    listing = _verb(actions, "list", "mlvm.cli.kernels:show", "show the kernels installed by mlvm")
    listing.add_argument("--json", action="store_true", help="as JSON")
    remove = _verb(actions, "remove", "mlvm.cli.kernels:remove", "forget a kernel; its machine stays")
    remove.add_argument("kernel", metavar="KERNEL")
