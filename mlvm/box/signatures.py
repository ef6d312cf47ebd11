"""Signatures of boxes, by the SSH keys that people have already.

What is signed is a statement, not the file: name, version, provider, architecture, digest, size, and the lock it was
made from. So a signature says nothing for another version, under another name or for another provider: an old box
cannot be given for a new one. Whoever verifies writes the statement from what is about to be used, and so trusts no
text that came with it. ssh-keygen does the work, in the namespace `mlvm-box`: no signature made for a Git commit or a
login is one for a box. Who may sign stands in `allowed_signers`, in the form of ssh-keygen(1).
"""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

from mlvm.box.catalog import Entry
from mlvm.errors import BoxError, ProgramError
from mlvm.process import run

NAMESPACE = "mlvm-box"
#: The file in a project that lists who may sign.
SIGNERS = "allowed_signers"
_BEGINNING = "-----BEGIN SSH SIGNATURE-----"


def statement(name: str, entry: Entry) -> bytes:
    """Return what is signed."""
    said = {
        "statement": "mlvm-box 1",
        "name": name,
        "version": entry.version,
        "provider": entry.provider,
        "architecture": entry.architecture,
        "sha256": entry.sha256,
        "size": entry.size,
        "lock": entry.lock,
    }
    return json.dumps(said, sort_keys=True).encode() + b"\n"


def sign(said: bytes, key: Path) -> str:
    """Return a signature by a private key, or by one in the agent whose public half is named.

    ssh-keygen asks for the passphrase on the terminal. Raises BoxError.
    """
    if not key.is_file():
        raise BoxError(f"there is no key `{key}`", hint="ls ~/.ssh, or `ssh-keygen -t ed25519` makes one")
    try:
        done = run(["ssh-keygen", "-Y", "sign", "-f", key, "-n", NAMESPACE], stdin=said)
    except ProgramError as failed:
        if "ended" not in failed.message:
            raise
        raise BoxError(
            f"`{key}` does not sign", details=failed.details, hint="is it a key, and its passphrase right?"
        ) from None
    return done.stdout.decode("ascii")


def verify(said: bytes, signature: str, signers: Path) -> str:
    """Return who signed, as the file `signers` calls them. Raises BoxError for anybody else."""
    if not signature:
        raise BoxError(
            "the box is not signed",
            details=f"`{signers}` lists who may sign, and all that is added here must be",
            hint="`mlvm box publish --sign KEY` signs; `--insecure` goes on without",
        )
    with tempfile.TemporaryDirectory(prefix="mlvm-sign-") as folder:
        file = Path(folder) / "signature"
        file.write_text(_plain(signature))
        found = run(["ssh-keygen", "-Y", "find-principals", "-s", file, "-f", signers], check=False)
        words = []
        for line in found.stdout.decode(errors="replace").splitlines() if found.returncode == 0 else ():
            for principal in dict.fromkeys((line, *line.split(","))):
                # `-I=` would be read as part of a name; a principal that begins with a dash is a mistake anyway.
                if principal.startswith("-"):
                    continue
                done = run(
                    [
                        "ssh-keygen",
                        "-Y",
                        "verify",
                        "-f",
                        signers,
                        "-I",
                        principal,
                        "-n",
                        NAMESPACE,
                        "-s",
                        file,
                    ],
                    stdin=said,
                    check=False,
                )
                if done.returncode == 0:
                    return principal
                words.append((done.stderr + done.stdout).decode(errors="replace").strip())
        raise _refused(said, file, signers, words)


def signer_of(said: bytes, signature: str) -> str:
    """Return the key that signed, in ssh-keygen's words, whoever that is; nothing when the signature does not fit."""
    with tempfile.TemporaryDirectory(prefix="mlvm-sign-") as folder:
        file = Path(folder) / "signature"
        file.write_text(_plain(signature))
        return _key(said, file)


def _plain(signature: str) -> str:
    if not signature.startswith(_BEGINNING) or not signature.isascii():
        raise BoxError("the box's signature is no signature of SSH's")
    return signature


def _key(said: bytes, file: Path) -> str:
    done = run(["ssh-keygen", "-Y", "check-novalidate", "-n", NAMESPACE, "-s", file], stdin=said, check=False)
    found = re.search(rb"with (\S+ key \S+)", done.stdout) if done.returncode == 0 else None
    return found[1].decode(errors="replace") if found else ""


def _refused(said: bytes, file: Path, signers: Path, words: list[str]) -> BoxError:
    if not (key := _key(said, file)):
        return BoxError(
            "the box's signature is not for this box",
            details="\n".join([*dict.fromkeys(words)][:3]) or "name, version, provider or digest are others",
            hint="somebody may have put another box in its place: ask whoever published it",
        )
    return BoxError(
        "the box is signed by somebody who may not",
        details="\n".join([f"{key} is not (or not now, or not for {NAMESPACE}) in `{signers}`", *words[:2]]),
        hint=f"if you trust that key, add it to {SIGNERS}; ask its owner by another way first",
    )
