"""The initramfs: an archive the guest kernel reads, with the modules in order and a script that is one."""

from __future__ import annotations

import io
import lzma
import stat
import struct
import subprocess

import pytest

from mlvm.errors import BuildError
from mlvm.image import cpio
from mlvm.image.initramfs import APPLETS, init_script
from mlvm.image.modules import GuestKernel, modinfo, with_dependencies


def module(**facts: str) -> bytes:
    """Return a small ELF file with a `.modinfo` section."""
    info = b"".join(f"{key}={value}\0".encode() for key, value in facts.items())
    names = b"\0.modinfo\0.shstrtab\0"
    at = 64 + 3 * 64
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 1, 62, 1, 0, 0, 64, 0, 64, 0, 0, 64, 3, 2
    )
    sections = bytes(64)
    sections += struct.pack("<IIQQQQIIQQ", 1, 1, 0, 0, at, len(info), 0, 0, 1, 0)
    sections += struct.pack("<IIQQQQIIQQ", 10, 3, 0, 0, at + len(info), len(names), 0, 0, 1, 0)
    return header + sections + info + names


def kernel(builtin: str = "", **modules: bytes) -> GuestKernel:
    files = {f"kernel/{name}.ko": content for name, content in modules.items()}
    return GuestKernel(release="1.0", vmlinuz=b"", modules={**files, "modules.builtin": builtin.encode()})


def read_cpio(content: bytes) -> dict[str, tuple[int, bytes]]:
    found = {}
    offset = 0
    while True:
        fields = [int(content[offset + 6 + 8 * i : offset + 14 + 8 * i], 16) for i in range(13)]
        name = content[offset + 110 : offset + 110 + fields[11] - 1].decode()
        start = (offset + 110 + fields[11] + 3) & ~3
        if name == "TRAILER!!!":
            return found
        found[name] = (fields[1], content[start : start + fields[6]])
        offset = (start + fields[6] + 3) & ~3


def test_an_archive_reads_back() -> None:
    stream = io.BytesIO()
    entries = {"b": cpio.file(b"12345", mode=0o755), "a": cpio.folder(), "c": cpio.link("b")}
    cpio.write_cpio(entries, stream)

    assert read_cpio(stream.getvalue()) == {
        "a": (stat.S_IFDIR | 0o755, b""),
        "b": (stat.S_IFREG | 0o755, b"12345"),
        "c": (stat.S_IFLNK | 0o777, b"b"),
    }
    assert len(stream.getvalue()) % 512 == 0


def test_dependencies_come_first() -> None:
    found = with_dependencies(
        kernel(a=module(depends="b,c"), b=module(depends="c"), c=module(depends="")), ["a"]
    )

    assert list(found) == ["c", "b", "a"]


def test_soft_dependencies_come_first_where_they_are_there() -> None:
    found = with_dependencies(kernel(a=module(softdep="pre: b gone post: d"), b=module(), d=module()), ["a"])

    assert list(found) == ["b", "a"]


def test_what_is_built_in_is_left_out() -> None:
    assert with_dependencies(kernel("kernel/fs/ext4.ko\n"), ["ext4"]) == {}


def test_dashes_and_underscores_are_the_same() -> None:
    assert list(with_dependencies(kernel(**{"a-b": module()}), ["a_b"])) == ["a_b"]


def test_an_optional_module_may_be_nowhere() -> None:
    assert with_dependencies(kernel(), [], optional=["gone"]) == {}


def test_a_wanted_module_may_not() -> None:
    with pytest.raises(BuildError) as caught:
        with_dependencies(kernel(a=module(depends="gone")), ["a"])

    assert caught.value.message == "guest kernel 1.0 has no module `gone`, which `a` needs"


def test_compressed_modules_are_unpacked() -> None:
    packed = GuestKernel(
        release="1.0", vmlinuz=b"", modules={"kernel/a.ko.xz": lzma.compress(module(depends=""))}
    )

    assert with_dependencies(packed, ["a"])["a"][:4] == b"\x7fELF"


def test_facts_of_a_module() -> None:
    assert modinfo(module(depends="a,b", license="GPL")) == {"depends": ["a,b"], "license": ["GPL"]}


@pytest.mark.parametrize("content", [b"", b"text", b"\x7fELF\x02\x01", b"\x7fELF\x02\x01" + b"\xff" * 90])
def test_what_is_no_module(content: bytes) -> None:
    with pytest.raises(BuildError, match="a guest kernel module is not one"):
        modinfo(content)


def test_the_script_is_one() -> None:
    done = subprocess.run(["/bin/sh", "-n"], input=init_script(), capture_output=True, check=False)

    assert (done.returncode, done.stderr) == (0, b"")


def test_the_script_uses_no_program_that_is_not_there() -> None:
    """Words that begin a command in the script are the shell's own, its functions, or applets."""
    own = {
        "export",
        "say",
        "fail",
        "device_of",
        "find_layer",
        "nodes_of",
        "set_address",
        "read",
        "echo",
        "return",
        "unset",
        "exit",
        "exec",
    }
    syntax = {
        "for",
        "do",
        "done",
        "if",
        "fi",
        "until",
        "while",
        "case",
        "esac",
        "then",
        "else",
        "}",
        "||",
        "[",
    }
    words = {
        line.split()[0]
        for line in init_script().decode().splitlines()
        if line.strip() and not line.lstrip().startswith("#")
    }
    commands = {word for word in words if word.isidentifier()} - own - syntax

    assert commands <= set(APPLETS)


def test_circles_of_soft_dependencies_end() -> None:
    found = with_dependencies(kernel(a=module(softdep="pre: b"), b=module(softdep="pre: a")), ["a"])

    assert list(found) == ["b", "a"]
