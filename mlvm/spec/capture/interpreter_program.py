"""Says in JSON what an interpreter is and has installed.

Run by that interpreter with `-c`, so it is plain Python 3.8 and imports nothing of mlvm.
"""

from __future__ import annotations

import json
import sys
from importlib import metadata


def installed() -> list[dict[str, object]]:
    """Return what an installer recorded of each distribution; a half-removed one has no name."""
    found: list[dict[str, object]] = []
    for one in metadata.distributions():
        name = one.metadata["Name"] if one.metadata else None
        if name:
            place = str(one.locate_file(""))
            found.append(
                {
                    "name": name,
                    "version": one.version,
                    "origin": one.read_text("direct_url.json"),
                    "folder": "" if "-packages" in place else place,
                }
            )
    return found


def main() -> None:
    """Write the document to standard output."""
    sys.path = [entry for entry in sys.path if entry]  # the current folder is no part of an interpreter
    document = {
        "python": ".".join(map(str, sys.version_info[:3])),
        "implementation": sys.implementation.name,
        "platform": sys.platform,
        "distributions": installed(),
    }
    sys.stdout.write(json.dumps(document))


if __name__ == "__main__":
    main()
