"""The usual way to Python packages in a machine of Vagrant's: a stock base box, and a provisioner that calls pip.

No registry of boxes is asked: the base box is a Debian by mmdebstrap, as those in registries are, with a user
`vagrant`, on the cloud flavour of the guest kernel. It is started without a boot loader, and the wheels lie beside the
Vagrantfile: downloads of neither way are measured.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks.first_cell import Clock
from benchmarks.stock import PACKAGES, cell_by_ssh, run
from mlvm.download import Blobs
from mlvm.lock.document import Lock
from mlvm.spec.document import MIB, MachineShape

NAME = "bench/stock"
_TREE = """\
set -eu
useradd --create-home --uid 1000 --shell /bin/bash vagrant
echo 'vagrant ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/vagrant
systemctl enable systemd-networkd.service ssh.service
install -d -m 0700 -o vagrant -g vagrant /home/vagrant/.ssh
install -m 0600 -o vagrant -g vagrant /key.pub /home/vagrant/.ssh/authorized_keys
rm /key.pub
: > /etc/machine-id
"""
_VAGRANTFILE = """\
Vagrant.configure("2") do |config|
  config.vm.box = "{name}"
  config.vm.box_check_update = false
  config.vm.guest = :debian
  config.vm.boot_timeout = 900
  config.ssh.insert_key = false
  config.ssh.private_key_path = "{folder}/key"
  config.vm.synced_folder ".", "/vagrant", disabled: true
  config.vm.synced_folder "{folder}/wheels", "/wheels", type: "rsync"
  config.vm.provision "shell", inline: <<~SHELL
    python3 -m venv /opt/venv
    /opt/venv/bin/pip install --quiet --no-index --find-links /wheels {packages}
  SHELL
  config.vm.provider :libvirt do |libvirt|
    libvirt.driver = ENV["MLVM_LIBVIRT_DRIVER"]
    libvirt.cpu_mode = "custom"
    libvirt.cpu_model = "Haswell-noTSX"
    libvirt.memory = {memory}
    libvirt.cpus = {cpus}
    libvirt.graphics_type = "none"
    libvirt.video_type = "none"
    libvirt.random model: "random"
    libvirt.default_prefix = "bench-"
    libvirt.kernel = "{folder}/vmlinuz"
    libvirt.initrd = "{folder}/initrd"
    libvirt.cmd_line = "root=/dev/vda rw console=ttyS0 net.ifnames=0 quiet"
  end
end
"""


class StockBox:
    """The base box, which `folder` keeps, and a project that uses it."""

    def __init__(self, folder: Path, lock: Lock, blobs: Blobs, *, shape: MachineShape) -> None:
        self.folder = folder
        self.lock = lock
        self.project = folder / "project"
        if not (folder / "built").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            self._build(blobs)
            (folder / "built").touch()
        self.project.mkdir(exist_ok=True)
        wanted = " ".join(f"{package.name}=={package.version}" for package in lock.python.packages)
        text = _VAGRANTFILE.format(
            name=NAME, folder=folder, packages=wanted, memory=-(-shape.memory // MIB), cpus=shape.cpus
        )
        (self.project / "Vagrantfile").write_text(text)
        self.vagrant(
            "box", "add", "--force", "--name", NAME, "--provider", "libvirt", str(folder / "stock.box")
        )

    def _build(self, blobs: Blobs) -> None:
        tree, key = self.folder / "tree", self.folder / "key"
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
        run("mmdebstrap", "--variant=minbase", f"--include={PACKAGES},rsync", "bookworm", str(tree))
        network = "[Match]\nType=ether\n[Network]\nDHCP=yes\n"
        (tree / "etc/systemd/network/99-ether.network").write_text(network)
        (tree / "etc/fstab").write_text("/dev/vda / ext4 defaults 0 1\n")
        shutil.copyfile(f"{key}.pub", tree / "key.pub")
        run("chroot", str(tree), "sh", "-c", _TREE)
        for name, pattern in (("vmlinuz", "vmlinuz-*"), ("initrd", "initrd.img-*")):
            (found,) = (tree / "boot").glob(pattern)
            shutil.copyfile(found, self.folder / name)
        raw, disk = self.folder / "disk.raw", self.folder / "root.qcow2"
        run("mke2fs", "-q", "-t", "ext4", "-d", str(tree), str(raw), "8G")
        run("qemu-img", "convert", "-O", "qcow2", str(raw), str(disk))
        disks = [{"path": disk.name, "name": "root"}]
        metadata = self.folder / "metadata.json"
        metadata.write_text(json.dumps({"provider": "libvirt", "format": "qcow2", "disks": disks}))
        with tarfile.open(self.folder / "stock.box", "w") as box:
            for path in (metadata, disk):
                box.add(path, path.name)
        shutil.rmtree(tree)
        raw.unlink()
        (self.folder / "wheels").mkdir()
        for package in self.lock.python.packages:
            for wheel in package.wheels or ():
                source = blobs.path(wheel.hashes["sha256"])
                shutil.copyfile(source, self.folder / "wheels" / wheel.filename)

    def vagrant(self, *words: str) -> str:
        """Run Vagrant in the project and return what it says."""
        done = subprocess.run(
            ["vagrant", *words], cwd=self.project, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"vagrant {' '.join(words)}: {done.stdout}")
        return done.stdout

    def sample(self) -> dict[str, float]:
        """Bring it up, the packages installed, and run a cell in a kernel reached by ssh."""
        with ExitStack() as stack:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            stack.callback(self.vagrant, "destroy", "--force")
            clock = Clock()
            self.vagrant("up", "--provider", "libvirt")
            clock.mark("up", None)
            config = scratch / "ssh_config"
            config.write_text(self.vagrant("ssh-config"))
            cell_by_ssh(stack, scratch, ["ssh", "-F", str(config), "default"])
            clock.mark("cell", None)
            return clock.seconds
