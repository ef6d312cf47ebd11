"""The grammar of `mlvm box` and `mlvm vagrant`: a part of `parser`'s table, for its length alone."""

from __future__ import annotations

import argparse
from typing import Any

from mlvm.cli.words import Parser, box_word, frozen_option, progress_option, verb


def boxes(verbs: Any) -> None:
    """Add the verbs."""
    box = verb(verbs, "box", "mlvm.cli.boxes:show", "list, make, share and take boxes")
    actions = box.add_subparsers(title="actions", metavar="ACTION", required=True, parser_class=Parser)
    listing = verb(
        actions, "list", "mlvm.cli.boxes:show", "show the boxes that come with mlvm, and what is here of them"
    )
    listing.add_argument("--json", action="store_true", help="as JSON")
    _export(actions)
    _publish(actions)
    _serve(actions)
    _add(actions)
    _take(actions)
    _vagrant(verbs)


def _part_size(text: str) -> int:
    """Return a number of MiB as bytes. Raises ArgumentTypeError."""
    if not (text.isdecimal() and 1 <= int(text) < 2048):
        raise argparse.ArgumentTypeError(f"`{text}` is no number from 1 to 2047")
    return int(text) << 20


def _export(actions: Any) -> None:
    export = verb(actions, "export", "mlvm.cli.boxes:export", "pack the image as a Vagrant box")
    box_word(export)
    export.add_argument(
        "--provider",
        metavar="NAME",
        default="libvirt",
        help="libvirt (default), virtualbox, qemu, hyperv or vmware_desktop",
    )
    export.add_argument("--output", "-o", metavar="FILE", help="the file (default: NAME-PROVIDER.box, here)")
    frozen_option(export)
    export.add_argument("--json", action="store_true", help="say the outcome as JSON")
    progress_option(export)


def _publish(actions: Any) -> None:
    publish = verb(
        actions,
        "publish",
        "mlvm.cli.sharing:publish",
        "add a box to a catalog: plain files that any web host can give",
    )
    publish.add_argument("what", metavar="DIR|FILE.box", help="a project, whose box is made, or a box")
    publish.add_argument(
        "--catalog", metavar="PATH", required=True, help="the folder of catalogs; made if needed"
    )
    publish.add_argument("--box-version", metavar="VERSION", required=True, help="in numbers: 1.0.0")
    publish.add_argument("--name", metavar="TEAM/NAME", help="the box's name (default: mlvm/NAME)")
    publish.add_argument(
        "--provider",
        metavar="NAME",
        action="append",
        help="of a project: for which; several times (default: libvirt)",
    )
    publish.add_argument(
        "--url", metavar="URL", help="where others find the folder (default: as the last time)"
    )
    publish.add_argument(
        "--sign", metavar="KEY", help="sign with an SSH key, or with one in the agent by its .pub file"
    )
    publish.add_argument(
        "--record",
        action="store_true",
        help="of a project: pin what was published in its lock, for `mlvm box add`",
    )
    publish.add_argument(
        "--part-size",
        type=_part_size,
        metavar="MIB",
        help="larger boxes are cut into parts of so many MiB (default: 1900; web hosts often stop below 2048)",
    )
    publish.add_argument("--json", action="store_true", help="say the outcome as JSON")
    frozen_option(publish)
    progress_option(publish)


def _serve(actions: Any) -> None:
    serve = verb(
        actions, "serve", "mlvm.cli.sharing:serve", "serve a folder of catalogs by TLS, until Ctrl-C"
    )
    serve.add_argument("path", metavar="PATH", help="the folder")
    serve.add_argument(
        "--address",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="where to listen (default: 127.0.0.1, for this host only; 0.0.0.0: everywhere)",
    )
    serve.add_argument(
        "--port", type=int, default=8443, metavar="N", help="default: 8443; 0: any that is free"
    )


def _add(actions: Any) -> None:
    add = verb(
        actions,
        "add",
        "mlvm.cli.sharing:add",
        "get a box of a catalog, check more than Vagrant does, and hand it on",
    )
    add.add_argument("source", metavar="URL|FILE", help="a catalog (TEAM/NAME.json), or a .box file")
    add.add_argument(
        "--box-version", metavar="VERSION", help="default: what the project's lock pins, else the newest"
    )
    add.add_argument("--provider", metavar="NAME", help="when it is there for several")
    add.add_argument("--name", metavar="TEAM/NAME", help="of a .box file: what to call it")
    add.add_argument(
        "--fingerprint", metavar="SHA256", help="trust this certificate of the server's and no other"
    )
    add.add_argument(
        "--signers", metavar="FILE", help="who may sign (default: allowed_signers of the project)"
    )
    add.add_argument("--insecure", action="store_true", help="take it unsigned, or signed by anybody")
    add.add_argument(
        "--output",
        "-o",
        metavar="DIR",
        help="unpack it into a new folder, as `mlvm box import` does, without Vagrant",
    )
    add.add_argument("--force", action="store_true", help="replace what Vagrant has of the same version")
    add.add_argument("--json", action="store_true", help="say the outcome as JSON")
    progress_option(add)


def _take(actions: Any) -> None:
    take = verb(
        actions,
        "import",
        "mlvm.cli.boxes:take",
        "unpack a box of somebody else's, refusing what reaches beyond it",
    )
    take.add_argument("file", metavar="FILE", help="the .box file")
    take.add_argument("--output", "-o", metavar="DIR", help="a new folder (default: the file's name, here)")
    take.add_argument("--max-size", type=int, metavar="GIB", help="what it may unpack to (default: 256)")


def _vagrant(verbs: Any) -> None:
    vagrant = verb(verbs, "vagrant", "mlvm.cli.boxes:vagrant_init", "what Vagrant needs to run a project")
    actions = vagrant.add_subparsers(title="actions", metavar="ACTION", required=True, parser_class=Parser)
    init = verb(
        actions,
        "init",
        "mlvm.cli.boxes:vagrant_init",
        "write a Vagrantfile beside mlvm.yaml, keeping what you wrote below its mark",
    )
    box_word(init)
    init.add_argument(
        "--boxes", metavar="DIR", help="where `mlvm box export` has put the boxes (default: the project)"
    )
    init.add_argument("--url", metavar="URL", help="where others get these boxes: the address of that folder")
    init.add_argument("--catalog", metavar="URL", help="take the box from a catalog instead")
    init.add_argument("--box-name", metavar="NAME", help="its name there (default: mlvm/NAME)")
    init.add_argument(
        "--box-version", metavar="VERSION", help="its version there (default: what the lock pins)"
    )
