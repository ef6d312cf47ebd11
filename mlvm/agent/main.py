"""Start the agent: `python3 -I /usr/lib/mlvm/agent/main.py`.

Isolated mode keeps the guest's user from slipping modules under a root process, and also drops the script's
own folder from the path; so the package is found by its place and by nothing else.
"""

# `pathlib` costs a tenth of a second of every boot under emulation.
# ruff: noqa: PTH120

import os
import sys
from importlib import import_module

if __name__ == "__main__":
    above, folder = os.path.split(os.path.dirname(os.path.realpath(__file__)))
    sys.path.insert(0, above)
    # The initramfs has this read, and translated where the CPU is emulated, while systemd starts; what it says goes to
    # the guest kernel's log, below what the console shows.
    foretaste = sys.argv[1:] == ["--foretaste"]
    world, sockets, early = import_module(folder + ".world").chosen([] if foretaste else sys.argv[1:])
    begin = import_module(folder + ".early").begin
    child = begin(world) if early and not foretaste else None
    serve = import_module(folder + ".serve")
    if foretaste:
        sys.stdout.write("<7>mlvm-agent: foretaste\n")
    else:
        serve.main(world, sockets, child)
