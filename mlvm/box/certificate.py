"""A certificate of one's own, for serving a catalog on a network without a name that an authority would certify.

Nobody vouches for it, so whoever connects must know its fingerprint, which is told to them by another way. It is made
once an address and kept, so the fingerprint stays.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import socket
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mlvm import files
from mlvm.errors import BoxError
from mlvm.paths import Home, make_private
from mlvm.process import run

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_DAYS = 3650


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificate:
    """A certificate and its key, both files; `fingerprint` is the SHA-256 of its DER form."""

    certificate: Path
    key: Path
    fingerprint: str


def own_certificate(home: Home, address: str) -> Certificate:
    """Return the certificate for an address, making it the first time. Raises ProgramError without openssl."""
    folder = make_private(home.data / "serve")
    name = re.sub(r"[^A-Za-z0-9.-]", "_", address)
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    with files.hold(folder / "hold"):
        if not (certificate.is_file() and key.is_file()):
            _make(certificate, key, address)
    return Certificate(certificate=certificate, key=key, fingerprint=_fingerprint_of(certificate))


def checked_fingerprint(text: str) -> str:
    """Return a fingerprint as 64 digits, from any of the forms that people copy. Raises BoxError."""
    plain = text.strip().lower().removeprefix("sha256:").replace(":", "")
    if not _FINGERPRINT.fullmatch(plain):
        raise BoxError(
            f"`{text[:100]}` is no fingerprint of a certificate",
            hint="`mlvm box serve` shows it: sha256: and 64 hexadecimal digits",
        )
    return plain


def _fingerprint_of(certificate: Path) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.read_text())).hexdigest()


def _make(certificate: Path, key: Path, address: str) -> None:
    """Have openssl make both; the key never has another mode than 0600, and the certificate appears last."""
    with tempfile.TemporaryDirectory(dir=key.parent, prefix=files.TEMPORARY) as scratch:
        settings, new, secret = (Path(scratch) / name for name in ("settings", "new.crt", "new.key"))
        settings.write_text(
            "[req]\nprompt = no\ndistinguished_name = who\nx509_extensions = more\n"
            "[who]\nCN = mlvm box serve\n"
            "[more]\nbasicConstraints = critical, CA:TRUE, pathlen:0\n"
            "keyUsage = critical, digitalSignature, keyCertSign\nextendedKeyUsage = serverAuth\n"
            "subjectKeyIdentifier = hash\n"
            f"subjectAltName = {', '.join(_names(address))}\n"
        )
        secret.touch(mode=0o600)
        run(
            [
                *(
                    "openssl",
                    "req",
                    "-x509",
                    "-new",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:prime256v1",
                ),
                *(
                    "-nodes",
                    "-sha256",
                    "-days",
                    str(_DAYS),
                    "-config",
                    settings,
                    "-keyout",
                    secret,
                    "-out",
                    new,
                ),
            ]
        )
        secret.chmod(0o600)
        secret.replace(key)
        new.replace(certificate)


def _names(address: str) -> list[str]:
    """Return what the certificate is for: the address, and this host's name when it is not only for this host."""
    names = ["DNS:localhost", "IP:127.0.0.1", "IP:::1"]
    try:
        number = ipaddress.ip_address(address)
    except ValueError:
        if not _HOST.fullmatch(address):
            raise BoxError(
                f"`{address}` is no address of this host", hint="for example 192.168.1.7"
            ) from None
        names.append(f"DNS:{address}")
    else:
        if not number.is_loopback and not number.is_unspecified:
            names.append(f"IP:{number}")
        if number.is_loopback:
            return names
    own = socket.gethostname()
    if _HOST.fullmatch(own):
        names.append(f"DNS:{own}")
    return list(dict.fromkeys(names))
