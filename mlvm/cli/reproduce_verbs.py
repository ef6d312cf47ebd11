"""The grammar of `mlvm capture` and `mlvm reproduce`: a part of `parser`'s table, for its length alone."""

from __future__ import annotations

from typing import Any

from mlvm.cli.words import frozen_option, progress_option, verb


def reproducing(verbs: Any) -> None:
    """Add the verbs."""
    _capture(verbs)
    _reproduce(verbs)


def _capture(verbs: Any) -> None:
    capture = verb(
        verbs,
        "capture",
        "mlvm.cli.capturing:capture",
        "write spec and lock of what is there already, and say what of it could not be pinned",
    )
    capture.add_argument(
        "source",
        nargs="?",
        metavar="FILE",
        help="requirements.txt, pyproject.toml, conda's environment.yml, or a notebook",
    )
    capture.add_argument("--python", metavar="PATH", help="what this interpreter has installed instead")
    capture.add_argument("--no-lock", action="store_true", help="write the spec only; needs no network")
    capture.add_argument("--stdout", action="store_true", help="print the spec and write nothing")
    capture.add_argument("--force", action="store_true", help="replace an mlvm.yaml that is there")
    progress_option(capture)


def _reproduce(verbs: Any) -> None:
    again = verb(
        verbs,
        "reproduce",
        "mlvm.cli.reproducing:reproduce",
        "run a notebook again in its box and compare (code 0 equal, 1 different, 11 a cell failed)",
    )
    again.add_argument("notebook", metavar="NOTEBOOK")
    again.add_argument("--box", metavar="BOX", help="run it in this one, not in what its lock or folder says")
    again.add_argument("--machine", metavar="NAME", help="in this machine (default: a fresh one)")
    again.add_argument("--keep", action="store_true", help="leave the fresh machine there afterwards")
    again.add_argument(
        "--report",
        action="append",
        default=[],
        metavar="FILE",
        help="write a .html or .json report; repeatable",
    )
    again.add_argument("--output", metavar="FILE", help="write the notebook with its new outputs")
    again.add_argument("--rtol", type=float, default=1e-5, metavar="X", help="of numbers (default: 1e-5)")
    again.add_argument("--atol", type=float, default=1e-8, metavar="X", help="of numbers (default: 1e-8)")
    again.add_argument(
        "--picture-distance",
        type=float,
        default=0.12,
        metavar="X",
        help="of pictures, 0 to 1 (default: 0.12)",
    )
    again.add_argument("--strict", action="store_true", help="look past nothing: every byte counts")
    again.add_argument(
        "--timeout", type=float, default=3600, metavar="SECONDS", help="for one cell (default: 3600)"
    )
    again.add_argument("--json", action="store_true", help="print the report as JSON")
    frozen_option(again)
    progress_option(again)
