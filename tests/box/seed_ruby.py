"""The keys and the seed of a generated Vagrantfile, made by running its own Ruby, with no Vagrant about."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

STAND_IN = """
module Vagrant
  module Errors; class VagrantError < StandardError; def self.error_message(text); end; end; end
  module Util; class Platform; def self.windows?; false; end; end; end
  def self.configure(version); end
end
"""
_ASK = """
require "json"
ssh = Struct.new(:insert_key, :private_key_path, :keys_only, :verify_host_key, :config).new
config = Struct.new(:ssh).new(ssh)
MlvmSeed.strict(config)
print JSON.generate([MlvmSeed.seed, config.ssh.private_key_path, config.ssh.config])
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seed:
    """A disc with keys, the key that opens the machine, and how ssh checks the machine's."""

    disc: Path
    key: Path
    ssh_config: Path

    def ssh(self, port: int, *command: str) -> list[str]:
        """Return a command line that runs a command in the machine, its host key checked."""
        options = ["-F", str(self.ssh_config), "-i", str(self.key), "-p", str(port)]
        strict = [
            "-o",
            "BatchMode=yes",
            "-o",
            "IdentitiesOnly=yes",
            "-o",
            "ConnectTimeout=60",
            "-o",
            "LogLevel=ERROR",
        ]
        return ["ssh", *options, *strict, "vagrant@127.0.0.1", *command]


def make_seed(vagrantfile: str, folder: Path) -> Seed:
    """Run the Vagrantfile's module in `folder`."""
    program = folder / "Vagrantfile"
    program.write_text(STAND_IN + vagrantfile + _ASK)
    done = subprocess.run(["ruby", "-W0", program], cwd=folder, check=True, capture_output=True)
    disc, key, ssh_config = map(Path, json.loads(done.stdout))
    return Seed(disc=disc, key=key, ssh_config=ssh_config)
