"""The seed, as the Vagrantfile makes it: read by other programs, private, and the same until it is thrown away."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from seed_ruby import make_seed

from mlvm.box import vagrantfile
from mlvm.box.layer import SEED_LABEL
from mlvm.lock.text import loads
from mlvm.paths import shipped
from mlvm.spec.document import Spec


@pytest.fixture(scope="module")
def text() -> str:
    lock = loads((shipped("boxes") / "python-3.11" / "mlvm.lock").read_text())
    return vagrantfile.render(Spec(name="x"), lock, boxes={})


def test_the_disc_has_the_label_that_the_guest_looks_for(text: str, tmp_path: Path) -> None:
    seed = make_seed(text, tmp_path)
    said = subprocess.run(
        ["blkid", "-p", "-s", "LABEL", "-o", "value", seed.disc], check=True, capture_output=True
    )
    assert said.stdout.decode().strip() == SEED_LABEL


def test_the_disc_holds_the_host_s_secret_and_the_user_s_public_key(text: str, tmp_path: Path) -> None:
    seed = make_seed(text, tmp_path)
    held = [
        subprocess.run(["bsdtar", "-xOf", seed.disc, name], check=True, capture_output=True).stdout
        for name in ("HOSTKEY", "USERKEY")
    ]
    assert held == [seed.key.with_name("host").read_bytes(), Path(f"{seed.key}.pub").read_bytes()]


def test_nobody_else_may_read_what_is_secret(text: str, tmp_path: Path) -> None:
    seed = make_seed(text, tmp_path)
    secrets = [seed.disc, seed.key, seed.key.with_name("host")]
    assert [path.stat().st_mode & 0o777 for path in secrets] == [0o600] * 3


def test_keys_are_made_once(text: str, tmp_path: Path) -> None:
    first = make_seed(text, tmp_path).disc.read_bytes()
    assert make_seed(text, tmp_path).disc.read_bytes() == first


def test_a_folder_with_a_space_does_not_break_ssh(text: str, tmp_path: Path) -> None:
    folder = tmp_path / "my project"
    folder.mkdir()
    seed = make_seed(text, folder)
    shown = subprocess.run([*seed.ssh(22)[:-1], "-G", "vagrant@127.0.0.1"], check=True, capture_output=True)
    known = [line for line in shown.stdout.decode().splitlines() if line.startswith("userknownhostsfile")]
    assert known[0].split()[1:] == [str(seed.disc.with_name("known_hosts"))]
    assert " " not in str(seed.disc)
