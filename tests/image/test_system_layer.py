"""The system layer's parts, on packages small enough to see through."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import deb_sample as sample
import pytest
from certificate_sample import CERTIFICATE

from mlvm.errors import BuildError
from mlvm.image.accounts import accounts_of, add_accounts
from mlvm.image.dpkg_database import add_database, packaged_conffiles
from mlvm.image.merged import merged_path
from mlvm.image.pam import add_pam
from mlvm.image.settings import add_settings
from mlvm.image.synthesis import enable, synthesize
from mlvm.image.system_layer import merge
from mlvm.image.tree import Tree
from mlvm.lock import deb
from mlvm.lock.deb import Deb, Kind
from mlvm.lock.mirrors import archives
from mlvm.lock.scripts import RELEASES

BOOKWORM = RELEASES["bookworm"]
PASSWD = b"root:*:0:0:root:/root:/bin/bash\nnobody:*:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
GROUP = b"root:*:0:\nmail:*:8:\nsudo:*:27:\nshadow:*:42:\nutmp:*:43:\nvideo:*:44:\nnogroup:*:65534:\n"


def package(folder: Path, name: str = "sample", **parts: object) -> Deb:
    return deb.read(sample.written(folder, sample.deb(name, **parts), name))  # type: ignore[arg-type]


def base() -> Tree:
    tree = Tree()
    tree.file("usr/share/base-passwd/passwd.master", PASSWD)
    tree.file("usr/share/base-passwd/group.master", GROUP)
    return tree


@pytest.mark.parametrize(
    ("path", "merged"),
    [
        ("bin", "usr/bin"),
        ("bin/sh", "usr/bin/sh"),
        ("lib64/x", "usr/lib64/x"),
        ("library/x", "library/x"),
        ("usr/lib/x", "usr/lib/x"),
    ],
)
def test_paths_in_a_merged_system(path: str, merged: str) -> None:
    assert merged_path(path) == merged


def test_old_places_are_merged_and_documentation_left_out(tmp_path: Path) -> None:
    tree = merge(
        [
            package(
                tmp_path,
                files={
                    "bin/x": b"",
                    "usr/share/doc/sample/copyright": b"licence",
                    "usr/share/doc/sample/README": b"",
                    "usr/share/man/man1/x.1.gz": b"",
                    "usr/share/locale/de/x.mo": b"",
                },
            )
        ]
    )

    assert sorted(tree.nodes) == ["usr/bin/x", "usr/share/doc/sample/copyright"]


def test_a_hard_link_follows_its_target_into_usr(tmp_path: Path) -> None:
    tree = merge([package(tmp_path, files={"bin/a": b"x", "bin/b": sample.Put(type=b"1", link="./bin/a")})])

    assert tree["usr/bin/b"].link == "usr/bin/a"


def test_two_packages_with_one_file(tmp_path: Path) -> None:
    debs = [package(tmp_path, name, files={"etc/x": b""}) for name in ("a", "b")]

    with pytest.raises(BuildError) as caught:
        merge(debs)

    assert caught.value.message == "`a` and `b` both bring `/etc/x`"


def test_a_package_may_replace_anothers_file(tmp_path: Path) -> None:
    first = package(tmp_path, "a", files={"etc/x": b"a"})
    second = package(tmp_path, "b", files={"etc/x": b"b"}, fields="Replaces: a (<< 2)\n")

    assert merge([first, second]).read("etc/x") == b"b"


def test_a_file_where_others_have_a_folder(tmp_path: Path) -> None:
    first = package(tmp_path, "a", files={"etc/x": sample.folder()})
    second = package(tmp_path, "b", files={"etc/x": b""})

    with pytest.raises(BuildError) as caught:
        merge([first, second])

    assert caught.value.message == "`b` has a file where other packages have the folder `/etc/x`"


def test_accounts_have_fixed_ids_and_no_passwords() -> None:
    tree = base()
    add_accounts(tree, accounts_of(tree, BOOKWORM))

    assert "mlvm:x:1000:1000:mlvm:/home/mlvm:/bin/bash" in tree.read("etc/passwd").decode()
    assert "sshd:x:101:65534::/run/sshd:/usr/sbin/nologin" in tree.read("etc/passwd").decode()
    assert "sudo:x:27:mlvm" in tree.read("etc/group").decode()
    passwords = {line.split(":")[1] for line in tree.read("etc/shadow").decode().splitlines()}
    assert passwords == {"*"}
    assert (tree["etc/shadow"].mode, tree["etc/shadow"].gid) == (0o640, 42)
    assert tree.read("etc/sudoers.d/mlvm") == b"mlvm ALL=(ALL:ALL) NOPASSWD: ALL\n"
    assert tree["etc/sudoers.d/mlvm"].mode == 0o440


def test_no_two_accounts_share_an_id() -> None:
    for scripts in RELEASES.values():
        accounts = accounts_of(base(), scripts)
        uids = [line[2] for line in accounts.passwd]
        gids = [line[2] for line in accounts.group]

        assert len(set(uids)) == len(uids)
        assert len(set(gids)) == len(gids)


def test_the_person_gets_the_skeleton() -> None:
    tree = base()
    tree.file("etc/skel/.bashrc", "x")
    add_accounts(tree, accounts_of(tree, BOOKWORM))

    node = tree["home/mlvm/.bashrc"]
    assert (node.uid, node.gid, tree.read("home/mlvm/.bashrc")) == (1000, 1000, b"x")


def test_the_database_says_what_dpkg_would(tmp_path: Path) -> None:
    debs = [
        package(
            tmp_path,
            files={"etc/x.conf": b"x", "usr": sample.folder()},
            control={"conffiles": b"/etc/x.conf\n", "triggers": b"interest-noawait /usr/lib/x\ninterest y\n"},
            scripts={"postinst": "true"},
            fields="Multi-Arch: same\n",
        )
    ]
    tree = Tree()
    add_database(tree, debs, scripts=BOOKWORM, originals=packaged_conffiles(debs))
    digest = hashlib.md5(b"x").hexdigest()

    assert tree.read("var/lib/dpkg/status").decode() == (
        "Package: sample\nStatus: install ok installed\nVersion: 1.0\nArchitecture: amd64\nMulti-Arch: same\n"
        f"Conffiles:\n /etc/x.conf {digest}\n"
    )
    assert tree.read("var/lib/dpkg/info/sample:amd64.list") == b"/.\n/etc/x.conf\n/usr\n"
    assert tree["var/lib/dpkg/info/sample:amd64.postinst"].mode == 0o755
    assert tree.read("var/lib/dpkg/triggers/File") == b"/usr/lib/x sample/noawait\n"
    assert tree.read("var/lib/dpkg/triggers/y") == b"sample\n"


def test_scripts_effects_are_reproduced() -> None:
    tree = base()
    tree.file("usr/bin/mawk", "")
    tree.file("usr/bin/more", "")
    tree.file("usr/bin/ssh-agent", "", mode=0o755)
    tree.file("usr/lib/systemd/system/remote-fs.target", "[Install]\nWantedBy=multi-user.target\n")
    tree.file("usr/share/base-files/motd", "hello")
    tree.file("usr/share/ca-certificates/mozilla/A,B.crt", CERTIFICATE.rstrip())
    accounts = accounts_of(tree, BOOKWORM)
    synthesize(tree, BOOKWORM, accounts, python="3.11")

    assert tree["usr/bin/awk"].link == "/etc/alternatives/awk"
    assert tree["etc/alternatives/nawk"].link == "/usr/bin/mawk"
    assert tree["etc/alternatives/pager"].link == "/bin/more"
    assert tree.read("var/lib/dpkg/alternatives/pager") == b"auto\n/usr/bin/pager\n\n/bin/more\n50\n\n"
    assert "usr/bin/which" not in tree
    assert (tree["usr/bin/ssh-agent"].mode, tree["usr/bin/ssh-agent"].gid) == (0o2755, 102)
    assert tree.read("etc/motd") == b"hello"
    assert tree.read("etc/ssl/certs/ca-certificates.crt") == CERTIFICATE.encode()
    assert tree["etc/ssl/certs/A_B.pem"].link == "/usr/share/ca-certificates/mozilla/A,B.crt"
    assert tree["etc/ssl/certs/0b9bc432.0"].link == "A_B.pem"
    assert tree["bin"].link == "usr/bin"


def test_enabling_follows_the_unit() -> None:
    tree = Tree()
    units = "usr/lib/systemd/system"
    tree.file(
        f"{units}/a.service", "[Install]\nWantedBy=x.target\nAlias=b.service\nAlso=c.socket gone.socket\n"
    )
    tree.file(f"{units}/c.socket", "[Install]\nRequiredBy=y.target\n")
    enable(tree, "a.service")

    links = {path: node.link for path, node in tree.nodes.items() if node.kind is Kind.SYMLINK}
    assert links == {
        "etc/systemd/system/x.target.wants/a.service": f"/{units}/a.service",
        "etc/systemd/system/b.service": f"/{units}/a.service",
        "etc/systemd/system/y.target.requires/c.socket": f"/{units}/c.socket",
    }


PROFILE = """\
Name: Unix
Default: yes
Priority: 256
Auth-Type: Primary
Auth:
\t[success=end default=ignore]\tpam_unix.so try_first_pass
Auth-Initial:
\t[success=end default=ignore]\tpam_unix.so
Session-Type: Additional
Session:
\trequired\tpam_unix.so
"""
SECOND = "Name: Two\nDefault: yes\nPriority: 128\nAuth-Type: Primary\nAuth:\n\t[success=end]\tpam_two.so\n"
UNWANTED = "Name: No\nDefault: no\nPriority: 0\nAuth-Type: Primary\nAuth:\n\trequired\tpam_no.so\n"


def test_pam_profiles_fill_the_templates() -> None:
    tree = Tree()
    for name, text in (("unix", PROFILE), ("two", SECOND), ("no", UNWANTED)):
        tree.file(f"usr/share/pam-configs/{name}", text)
    tree.file("usr/share/pam/common-auth", "$auth_primary\nauth deny\n$auth_additional\n# end\n")
    tree.file(
        "usr/share/pam/common-session-noninteractive", "$session_nonint_primary\n$session_nonint_additional\n"
    )
    add_pam(tree)

    assert tree.read("etc/pam.d/common-auth").decode() == (
        "auth\t[success=2 default=ignore]\tpam_unix.so \nauth\t[success=1]\tpam_two.so \nauth deny\n# end\n"
    )
    assert tree.read("etc/pam.d/common-session-noninteractive").decode() == (
        "session\t[default=1]\t\t\tpam_permit.so\nsession\trequired\tpam_unix.so \n"
    )
    assert tree.read("var/lib/pam/seen") == b"unix\ntwo\nno\n"
    assert tree.read("var/lib/pam/session-noninteractive").decode() == (
        "Module: null\n[default=1]\t\t\tpam_permit.so\nModule: unix\nrequired\tpam_unix.so\n"
    )


def test_a_pam_profile_with_a_line_we_do_not_understand() -> None:
    tree = Tree()
    tree.file("usr/share/pam-configs/odd", "Name: Odd\nDefault: yes\nAuth-Type: Primary\nAuth: required\n")
    tree.file("usr/share/pam/common-auth", "$auth_primary\n")

    with pytest.raises(BuildError) as caught:
        add_pam(tree)

    assert caught.value.message == (
        "a profile in `/usr/share/pam-configs` has a line we do not understand: `required`"
    )


def test_a_pam_template_with_variables_we_do_not_know() -> None:
    tree = Tree()
    tree.file("usr/share/pam/common-auth", "$auth_other\n")

    with pytest.raises(BuildError) as caught:
        add_pam(tree)

    assert caught.value.message == "`/usr/share/pam/common-auth` has a variable we do not know: `$auth_other`"


def settled() -> Tree:
    tree = Tree()
    tree.file("usr/lib/systemd/system/systemd-networkd.service", "[Install]\nWantedBy=multi-user.target\n")
    tree.file("usr/lib/systemd/system/ssh.socket", "[Install]\nWantedBy=sockets.target\n")
    add_settings(tree, archives("bookworm", "20260101T000000Z"), release="bookworm")
    return tree


def test_no_identity_is_in_the_image() -> None:
    tree = settled()

    assert tree.read("etc/machine-id") == b""
    assert not [path for path in tree.nodes if "ssh_host" in path]


def test_apt_in_the_guest_asks_where_the_lock_did() -> None:
    assert settled().read("etc/apt/sources.list").decode() == (
        "deb http://deb.debian.org/debian bookworm main\n"
        "deb http://deb.debian.org/debian-security bookworm-security main\n"
    )


def test_nobody_logs_in_with_a_password_over_ssh() -> None:
    text = settled().read("etc/ssh/sshd_config.d/mlvm.conf").decode()

    assert {"PasswordAuthentication no", "KbdInteractiveAuthentication no", "PermitRootLogin no"} <= set(
        text.splitlines()
    )


def test_masked_units_lead_nowhere() -> None:
    assert settled()["etc/systemd/system/apt-daily.timer"].link == "/dev/null"


def test_what_is_called_by_whoever_needs_it_can_be_called() -> None:
    """A boot does not start these; the units themselves are not masked."""
    tree = settled()

    for unit in ("dbus.service", "systemd-logind.service"):
        assert tree[f"etc/systemd/system/multi-user.target.wants/{unit}"].link == "/dev/null"
        assert f"etc/systemd/system/{unit}" not in tree
    assert (
        tree["etc/systemd/system/sockets.target.wants/ssh.socket"].link
        == "/usr/lib/systemd/system/ssh.socket"
    )


def test_an_image_without_archives_is_refused() -> None:
    with pytest.raises(BuildError) as caught:
        add_settings(Tree(), [], release="bookworm")

    assert caught.value.message == "the lock names no archive of Debian bookworm"


def test_a_replacement_of_a_node_keeps_the_rest() -> None:
    tree = Tree()
    tree.file("a", b"x", mode=0o600)
    tree.put("a", replace(tree["a"], mode=0o644))

    assert (tree.read("a"), tree["a"].mode) == (b"x", 0o644)
