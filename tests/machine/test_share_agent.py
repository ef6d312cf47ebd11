"""The guest's side of shared folders, as far as it goes without a guest."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from mlvm.agent import sharing
from mlvm.agent.world import World
from mlvm.machine.share import network

MOUNTS = """\
root / overlay rw,relatime 0 0
10.0.2.4:/0 /work/my\\040pr\u00f6ject\\012\\0431 nfs rw,nosuid 0 0
10.0.2.4:/12 /work/a,b nfs ro,nosuid 0 0
10.0.2.44:/1 /elsewhere nfs rw 0 0
10.0.2.4:/3 /work/\\134040 nfs rw 0 0
"""
TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0F02000A:0016 0202000A:9A3E 01 00000000:00000000 02:000A 00000000     0        0 1 1 0
   1: 0F02000A:02CB 0402000A:0801 01 00000000:00000000 02:000A 00000000     0        0 2 1 0
   2: 0F02000A:02CC 0402000A:4E50 01 00000000:00000000 02:000A 00000000     0        0 3 1 0
"""


def test_both_ends_speak_of_the_same_address() -> None:
    assert (sharing.ADDRESS, sharing.PORT, sharing.MOUNT_PORT) == (
        network.SHARE_ADDRESS,
        network.SHARE_PORT,
        network.MOUNT_PORT,
    )


def test_what_is_mounted_is_read_whatever_its_name(tmp_path: Path) -> None:
    table = tmp_path / "mounts"
    table.write_text(MOUNTS)

    assert sharing.mounted(str(table)) == {
        "/work/my pr\u00f6ject\n#1": 0,
        "/work/a,b": 12,
        "/work/\\040": 3,
    }


def test_connections_to_the_server_are_known_by_their_other_end(tmp_path: Path) -> None:
    table = tmp_path / "tcp"
    table.write_text(TCP)

    assert sharing.connections(str(table)) == [0x2CB]


def refuse(*_: object, **__: object) -> None:
    raise OSError(errno.ECONNREFUSED, "no such server")


def test_a_place_that_cannot_be_mounted_is_said_to_whoever_works_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    table = tmp_path / "mounts"
    table.write_text("")
    monkeypatch.setattr(sharing, "mounted", dict)
    monkeypatch.setattr(sharing, "known", lambda: True)
    monkeypatch.setattr(sharing, "mount", refuse)
    shares = sharing.Shares(World())
    shares.share({"shares": [{"number": 0, "at": str(tmp_path), "write": True}]})
    shares.wait("/home")

    with pytest.raises(OSError, match=r"cannot be mounted: .*no such server"):
        shares.wait(f"{tmp_path}/sub")


def test_what_is_not_wanted_any_more_is_unmounted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told: list[str] = []
    monkeypatch.setattr(sharing, "mounted", lambda: {"/work/old": 1, str(tmp_path): 2})
    monkeypatch.setattr(sharing, "unmount", told.append)
    shares = sharing.Shares(World())
    shares.share({"shares": [{"number": 2, "at": str(tmp_path), "write": False}]})
    shares.wait(None)

    assert told == ["/work/old"]
