"""What the grammar of every verb is made of: a parser whose errors look like ours, and words that many verbs have."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """argparse, but its errors look like ours and everything behind `--` is left alone."""

    def error(self, message: str) -> NoReturn:
        """Write the error in our form and exit with code 2."""
        self.exit(2, f"error: {message}\nhint: {self.prog} --help\n")


def verb(verbs: Any, name: str, call: str, text: str) -> argparse.ArgumentParser:
    """Add a verb, the function that does it (`module:function`), and what help says of it."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        name, help=text, description=text[0].upper() + text[1:]
    )
    parser.set_defaults(call=call)
    return parser


def box_word(parser: argparse.ArgumentParser) -> None:
    """Let it be said which box."""
    parser.add_argument(
        "box", nargs="?", metavar="BOX", help="shipped box, folder or earlier build; default: here"
    )


def progress_option(parser: argparse.ArgumentParser) -> None:
    """Let it be said how progress is shown."""
    parser.add_argument(
        "--progress",
        choices=("auto", "live", "plain", "json", "none"),
        default="auto",
        help="how progress is shown on standard error (default: live on a terminal, else plain)",
    )


def frozen_option(parser: argparse.ArgumentParser) -> None:
    """Let it be said that nothing is resolved."""
    parser.add_argument(
        "--frozen", action="store_true", help="fail when the lock is missing or stale; never resolve"
    )
