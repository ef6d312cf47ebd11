"""Vagrantfiles are run by Ruby here: what a value says, and that no value is ever a program."""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlvm.box import vagrantfile
from mlvm.box.providers import KINDS
from mlvm.box.ruby import literal
from mlvm.box.vagrantfile import BoxFile, Catalog
from mlvm.errors import MlvmError
from mlvm.lock.document import Lock
from mlvm.lock.text import loads
from mlvm.paths import shipped
from mlvm.spec.document import GIB, MachineShape, PortForward, Spec

HOSTILE = [
    '#{system("touch pwned")}',
    '"; system("touch pwned"); "',
    "'; `touch pwned`; '",
    '\\"#{1}',
    "a\nsystem 'touch pwned'\n=begin",
    "#$0 #@x",
    "\u2028__END__\x00",
    "ünï\N{PILE OF POO}",
    "{{settings}}",
]
#: What Vagrant gives a Vagrantfile, as far as the constants are concerned.
STAND_IN = """
module Vagrant
  module Errors; class VagrantError < StandardError; def self.error_message(text); end; end; end
  def self.configure(version); end
end
"""


def ruby(program: str, folder: Path) -> str:
    done = subprocess.run(
        ["ruby", "-W0", "-rjson", "-"], input=program.encode(), cwd=folder, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


@pytest.fixture
def lock() -> Lock:
    return loads((shipped("boxes") / "python-3.11" / "mlvm.lock").read_text())


texts = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=12, deadline=None)
@given(st.lists(values, min_size=1, max_size=30))
def test_ruby_reads_what_was_meant(value: list[object]) -> None:
    said = ruby(f"print JSON.generate({literal(value)})", Path("/"))
    assert json.loads(said) == value


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_text_stays_a_text(text: str, tmp_path: Path) -> None:
    assert json.loads(ruby(f"print JSON.generate([{literal(text)}])", tmp_path)) == [text]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_address_stays_one_in_a_whole_vagrantfile(text: str, tmp_path: Path, lock: Lock) -> None:
    written = vagrantfile.render(
        Spec(name="x"),
        lock,
        boxes={"libvirt": BoxFile(url=text, sha256=text)},
        catalog=Catalog(url=text, name=text, version=text),
    )
    said = ruby(f"{STAND_IN}\n{written}\nprint JSON.generate([MLVM_BOX, MLVM_BOXES, MLVM_CATALOG])", tmp_path)
    assert json.loads(said) == [text, {"libvirt": [text, text]}, text]
    assert not list(tmp_path.iterdir())


def test_sizes_and_ports_are_the_spec_s(tmp_path: Path, lock: Lock) -> None:
    spec = Spec(
        name="x",
        machine=MachineShape(cpus=3, memory=5 * GIB),
        ports=(PortForward(guest=8888, host=9999),),
    )
    text = vagrantfile.render(spec, lock, boxes={})
    said = ruby(f"{STAND_IN}\n{text}\nprint JSON.generate([MLVM_CPUS, MLVM_MEMORY, MLVM_PORTS])", tmp_path)
    assert json.loads(said) == [3, 5120, {"8888": 9999}]


def test_every_provider_with_boxes_has_its_block() -> None:
    text = (shipped("templates") / "Vagrantfile").read_text()
    assert [name for name in KINDS if f'config.vm.provider "{name}" do' not in text] == []


def test_every_forwarded_port_is_on_loopback() -> None:
    text = (shipped("templates") / "Vagrantfile").read_text()
    lines = [line for line in text.splitlines() if '"forwarded_port"' in line]
    assert lines
    assert all('host_ip: "127.0.0.1"' in line for line in lines)


def test_another_lock_is_another_box(lock: Lock) -> None:
    assert vagrantfile.box_name(lock) != vagrantfile.box_name(replace(lock, box=()))


def test_what_stands_below_the_mark_is_kept(tmp_path: Path, lock: Lock) -> None:
    first = vagrantfile.render(Spec(name="x"), lock, boxes={})
    path = vagrantfile.write(tmp_path, first)
    own = b"\n# mine \xff\r\nVagrant.configure(2) { }\n"
    path.write_bytes(first.encode() + own)
    second = vagrantfile.render(Spec(name="y"), lock, boxes={})
    vagrantfile.write(tmp_path, second)
    assert path.read_bytes() == second.encode() + own


def test_a_vagrantfile_of_somebody_else_s_is_left_alone(tmp_path: Path, lock: Lock) -> None:
    (tmp_path / "Vagrantfile").write_text("# mine\n")
    with pytest.raises(MlvmError, match="is not from `mlvm vagrant init`"):
        vagrantfile.write(tmp_path, vagrantfile.render(Spec(name="x"), lock, boxes={}))
    assert (tmp_path / "Vagrantfile").read_text() == "# mine\n"


def test_box_files_are_pinned_by_their_digest(tmp_path: Path, lock: Lock) -> None:
    (tmp_path / f"{lock.name}-hyperv.box").write_bytes(b"box")
    found = vagrantfile.box_files(lock, tmp_path, url="https://example.org/boxes/", beside=tmp_path)
    digest = hashlib.sha256(b"box").hexdigest()
    assert found == {
        "hyperv": BoxFile(url=f"https://example.org/boxes/{lock.name}-hyperv.box", sha256=digest)
    }
