"""The command line: `mlvm VERB ...`.

`main` reads the arguments, calls one function of one module, and turns errors into `error:`, details and `hint:`.
The modules are imported only when their verb is used, so `mlvm --help` answers before anything heavy is loaded.
"""

from __future__ import annotations

import importlib
import logging
import signal
import sys
from collections.abc import Sequence
from typing import cast

from mlvm.cli.parser import Arguments, make_parser
from mlvm.errors import MlvmError
from mlvm.terminal import show_error

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(argv: Sequence[str]) -> int:
    """Run one command and return its exit code; what `main` does, without leaving Python."""
    arguments = make_parser().parse_args(argv, namespace=Arguments())
    if arguments.verbose:
        logging.basicConfig(level=logging.DEBUG, format="%(relativeCreated)7d %(name)s: %(message)s")
    module, function = arguments.call.split(":")
    try:
        return cast("int | None", getattr(importlib.import_module(module), function)(arguments)) or 0
    except MlvmError as error:
        show_error(error, sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(
            "\ninterrupted; what is whole was kept, so the same command goes on from there", file=sys.stderr
        )
        return INTERRUPTED
