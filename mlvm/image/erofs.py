"""From a canonical tar to an uncompressed erofs: a layer's bytes.

Uncompressed on purpose: the digest then depends on no compressor, the page cache shares pages between machines, and
making it is quicker than reading the input (see erofs(5) in the Linux documentation).
"""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path

from mlvm.image.tools import run_tool
from mlvm.image.tree import SOURCE_DATE


def make_erofs(tar: Path, target: Path, *, name: str, tools: Path) -> None:
    """Make the file system `target` from `tar`; its UUID comes from the layer's name, so that it never varies."""
    identity = uuid.UUID(bytes=hashlib.sha256(f"mlvm layer {name}".encode()).digest()[:16], version=4)
    run_tool(
        tools,
        "usr/bin/mkfs.erofs",
        ["--quiet", f"-T{SOURCE_DATE}", "--preserve-mtime", "-U", str(identity), "--tar=f", target, tar],
    )
