"""A machine of the stand-in: what VBoxManage has been told of it, and the QEMU that runs it.

The hardware is VirtualBox's of an imported Linux: an i440FX board, AHCI, an 82540EM card behind NAT. What a saved
machine keeps is a snapshot in its disk.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vbox_appliance import VBoxError

#: The controller that VirtualBox makes of an OVF's AHCI, and the ports that it has then.
CONTROLLER, PORTS = "SATA Controller", 30
SAVED = "vbox-saved"
DEADLINE = 120.0


@dataclass(kw_only=True)
class Machine:
    """One registered machine; `forwards` are NAT's rules: name, protocol, host address, host port, guest's two."""

    uuid: str
    name: str
    folder: str
    cpus: int
    memory: int
    mac: str
    media: dict[int, tuple[str, str]]
    forwards: list[list[str]] = field(default_factory=list)
    nics: dict[int, str] = field(default_factory=lambda: {1: "nat"})
    settings: dict[str, str] = field(default_factory=dict)
    snapshots: list[str] = field(default_factory=list)
    going_on_from: str = ""

    @property
    def place(self) -> Path:
        return Path(self.folder)

    @property
    def state(self) -> str:
        if self.pid is None:
            return "saved" if self.going_on_from else "poweroff"
        try:
            return {"paused": "paused"}.get(str(self.ask("query-status")["status"]), "running")
        except (OSError, ValueError):
            return "poweroff"

    @property
    def pid(self) -> int | None:
        with suppress(OSError, ValueError):
            found = int((self.place / "pid").read_text())
            if Path(f"/proc/{found}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
                return found
        return None

    def command(self) -> list[str]:
        """Return QEMU's command line."""
        rules = "".join(
            f",hostfwd={kind}:{address or '127.0.0.1'}:{port}-{inside}:{guest}"
            for _, kind, address, port, inside, guest in self.forwards
        )
        words = [
            "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-machine", "pc", "-cpu", "max",
            "-m", str(self.memory), "-smp", str(self.cpus), "-display", "none", "-nodefaults", "-daemonize",
            "-pidfile", str(self.place / "pid"), "-serial", f"file:{self.place / 'serial'}",
            "-qmp", f"unix:{self.place / 'qmp'},server=on,wait=off", "-device", "ich9-ahci,id=sata",
            "-netdev", f"user,id=nat,restrict=on{rules}",
            "-device", f"e1000,netdev=nat,mac={':'.join(self.mac[at : at + 2] for at in range(0, 12, 2))}",
        ]  # fmt: skip
        for port, (kind, path) in sorted(self.media.items()):
            what = f"if=none,id=medium{port},file={path.replace(',', ',,')}"
            if kind == "hdd":
                words += ["-drive", f"{what},format=qcow2,cache=unsafe"]
                words += ["-device", f"ide-hd,drive=medium{port},bus=sata.{port},bootindex={port}"]
            else:
                words += ["-drive", f"{what},format=raw,readonly=on,media=cdrom"]
                words += ["-device", f"ide-cd,drive=medium{port},bus=sata.{port}"]
        return words + (["-loadvm", self.going_on_from] if self.going_on_from else [])

    def start(self) -> None:
        if self.pid is not None:
            raise VBoxError(
                f"The machine '{self.name}' is already locked by a session (or being locked or unlocked)"
            )
        done = subprocess.run(self.command(), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise VBoxError(done.stderr.strip())
        if self.going_on_from == SAVED:
            self._tell(f"delvm {SAVED}")
        self.going_on_from = ""

    def power_off(self) -> None:
        """Pull the plug."""
        if (found := self.pid) is not None:
            os.kill(found, signal.SIGTERM)
            deadline = time.monotonic() + DEADLINE
            while self.pid is not None:
                if time.monotonic() > deadline:
                    raise VBoxError("the machine does not end")
                time.sleep(0.05)

    def save(self) -> None:
        self._tell(f"savevm {SAVED}")
        self.power_off()
        self.going_on_from = SAVED

    def discard(self) -> None:
        """Forget the saved state."""
        if self.going_on_from == SAVED:
            self._disk("-d", SAVED)
        self.going_on_from = ""

    def take(self, name: str) -> None:
        """Take a snapshot, of RAM as well if it runs."""
        if self.pid is not None:
            self._tell(f"savevm {name}")
            self.settings[f"online {name}"] = "on"
        else:
            self._disk("-c", name)
        self.snapshots.append(name)

    def go_back(self, name: str) -> None:
        if self.pid is not None:
            raise VBoxError("Cannot restore a snapshot of a running machine")
        self._known(name)
        self._disk("-a", name)
        self.going_on_from = name if f"online {name}" in self.settings else ""

    def forget(self, name: str) -> None:
        self._known(name)
        if self.pid is not None:
            self._tell(f"delvm {name}")
        else:
            self._disk("-d", name)
        self.snapshots.remove(name)

    def ask(self, command: str, **arguments: str) -> Any:
        """Say something to QEMU and return its answer."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(DEADLINE)
            connection.connect(str(self.place / "qmp"))
            stream = connection.makefile("rw")
            stream.readline()
            for word, more in (("qmp_capabilities", {}), (command, arguments)):
                stream.write(json.dumps({"execute": word, "arguments": more}) + "\n")
                stream.flush()
                while "return" not in (answer := json.loads(stream.readline())):
                    if "error" in answer:
                        raise VBoxError(answer["error"]["desc"])
            return answer["return"]

    def described(self) -> list[str]:
        """Return the lines of `showvminfo --machinereadable`."""
        lines = [
            f'name="{self.name}"', f'UUID="{self.uuid}"', f'CfgFile="{self.place / self.name}.vbox"',
            f"memory={self.memory}", f"cpus={self.cpus}", 'firmware="BIOS"', f'VMState="{self.state}"',
            f'storagecontrollername0="{CONTROLLER}"', 'storagecontrollertype0="IntelAhci"',
            f'storagecontrollermaxportcount0="{PORTS}"', f'storagecontrollerportcount0="{PORTS}"',
        ]  # fmt: skip
        for port, (_, path) in sorted(self.media.items()):
            lines += [f'"{CONTROLLER}-{port}-0"="{path}"', f'"{CONTROLLER}-ImageUUID-{port}-0"="{self.uuid}"']
        lines += [f'macaddress1="{self.mac}"', f'nic1="{self.nics.get(1, "none")}"']
        lines += [f'Forwarding({at})="{",".join(rule)}"' for at, rule in enumerate(self.forwards)]
        return lines + [f'nic{number}="{self.nics.get(number, "none")}"' for number in range(2, 9)]

    def document(self) -> dict[str, Any]:
        return asdict(self)

    def _known(self, name: str) -> None:
        if name not in self.snapshots:
            raise VBoxError(f"Could not find a snapshot named '{name}'")

    def _tell(self, text: str) -> None:
        said = self.ask("human-monitor-command", **{"command-line": text})
        if said.strip():
            raise VBoxError(said.strip())

    def _disk(self, *words: str) -> None:
        disk = next(path for kind, path in self.media.values() if kind == "hdd")
        subprocess.run(["qemu-img", "snapshot", *words, disk], check=True, capture_output=True)


def from_document(document: dict[str, Any]) -> Machine:
    """Return the machine that JSON has kept, whose keys are texts and whose pairs are lists."""
    media = {int(port): (kind, path) for port, (kind, path) in document["media"].items()}
    nics = {int(number): kind for number, kind in document["nics"].items()}
    return Machine(**{**document, "media": media, "nics": nics})
