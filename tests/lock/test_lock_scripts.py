"""What scripts would do is found, and refused unless the builder does it."""

from __future__ import annotations

from pathlib import Path

import deb_sample as sample
import pytest

from mlvm.errors import ResolveError
from mlvm.lock import deb
from mlvm.lock.effects import effects_in, effects_of
from mlvm.lock.scripts import RELEASES, unknown_effects


def effects(script: str) -> list[str]:
    return sorted(str(found) for found in effects_in(script))


def complaints(folder: Path, content: bytes, *, release: str = "bookworm", name: str = "sample") -> list[str]:
    return unknown_effects(release, {name: sample.written(folder, content)})


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("adduser --system --quiet --home /run/x --shell /bin/false x", ["adds user `x`"]),
        ("adduser --system --group --gecos 'a b' x", ["adds group `x`", "adds user `x`"]),
        ("useradd -r -s /usr/sbin/nologin -g nogroup x", ["adds user `x`"]),
        ("adduser x video", ["changes account `x video`"]),
        ("addgroup --system --quiet x || true", ["adds group `x`"]),
        ("groupadd -g 42 shadow || (\n  exit 1\n)", ["adds group `shadow`"]),
        ("usermod -a -G video x", ["changes account `x`"]),
        ("NAME=x\nadduser --system $NAME", ["adds user `x`"]),
        ('NAME="x"\nadduser --system "${NAME}"', ["adds user `x`"]),
        ("if ! getent passwd x >/dev/null; then adduser --system x; fi", ["adds user `x`"]),
        ("adduser --system \\\n  --home /y \\\n  x", ["adds user `x`"]),
        ("chroot /x /usr/sbin/adduser --system x", ["adds user `x`"]),
        ("r=$(adduser --system x 2>&1)", ["adds user `x`"]),
        ("r=`adduser --system x`", ["adds user `x`"]),
        ("update-alternatives --install /usr/bin/x x /usr/bin/y 5", ["registers alternative `x`"]),
        ("update-alternatives --remove x /usr/bin/y", []),
        ("dpkg-divert --package p --divert /x.old --rename --add /x", ["diverts `/x`"]),
        ("dpkg-divert --rename --divert /x.old /x", ["diverts `/x`"]),
        ("dpkg-divert --remove /x", []),
        ("dpkg-divert --truename /x", []),
        ("dpkg-statoverride --update --add root x 4754 /y", ["overrides the owner of `/y`"]),
        ("dpkg-statoverride --list /y >/dev/null", []),
        ("deb-systemd-helper enable 'x.service' >/dev/null || true", ["enables unit `x.service`"]),
        ("deb-systemd-helper unmask x.service", []),
        ("systemctl enable x.timer", ["enables unit `x.timer`"]),
        ("ucf --three-way /usr/share/x /etc/x", ["lets ucf write `/etc/x`"]),
        ("ucf --purge /etc/x", []),
        ("setcap cap_net_raw+ep /bin/ping", ["sets capabilities of `/bin/ping`"]),
        ("groupmod -n new old", ["changes account `old`"]),
        ("update-rc.d x defaults >/dev/null || exit 1", ["registers init script `x`"]),
        ("update-rc.d -f x remove >/dev/null", []),
        ("chown x:x /var/lib/x", ["overrides the owner of `/var/lib/x`"]),
        ("chown -R root:x /a /b", ["overrides the owner of `/a`", "overrides the owner of `/b`"]),
        ("chown root:root /a; chown 0:0 /b; chown root /c; chgrp root /d", []),
        ("chgrp _x /usr/bin/x", ["overrides the owner of `/usr/bin/x`"]),
        ("chmod 4755 /usr/bin/x", ["overrides the owner of `/usr/bin/x`"]),
        ("chmod u+s /usr/bin/x", ["overrides the owner of `/usr/bin/x`"]),
        ("chmod 0700 $FOLDER", ["overrides the owner of `$FOLDER`"]),
        ("chmod 644 /a; chmod 0755 /b; chmod +x /c; chmod go+r /d", []),
        ("# adduser --system x", []),
        ("echo 'adduser --system x'", []),
        ("command -v adduser", []),
        ("[ -x /usr/sbin/adduser ]", []),
    ],
)
def test_effects_of_a_line(script: str, expected: list[str]) -> None:
    assert effects(script) == expected


def test_a_quote_over_several_lines_hides_nothing_after_it() -> None:
    assert effects("echo 'one\ntwo'\nadduser --system x\n") == ["adds user `x`"]


def test_files_for_sysusers_count_as_scripts(tmp_path: Path) -> None:
    declared = b'# comment\nu x - "A user" /run/x\ng y 55\nm x y\nr - 500-900\n'
    package = deb.read(sample.written(tmp_path, sample.deb(files={"usr/lib/sysusers.d/x.conf": declared})))

    assert sorted(str(found) for found in effects_of(package)) == [
        "adds group `y`",
        "adds user `x`",
        "changes account `x y`",
    ]


def test_triggers_that_a_package_answers_to(tmp_path: Path) -> None:
    triggers = b"# comment\ninterest-noawait /usr/share/x # more\ninterest y\nactivate-noawait ldconfig\n"
    package = deb.read(sample.written(tmp_path, sample.deb(control={"triggers": triggers})))

    assert sorted(str(found) for found in effects_of(package)) == [
        "answers to trigger `/usr/share/x`",
        "answers to trigger `y`",
    ]


def test_removal_scripts_do_not_run_at_installation(tmp_path: Path) -> None:
    package = sample.deb(scripts={"postrm": "adduser --system x", "prerm": "addgroup y"})

    assert effects_of(deb.read(sample.written(tmp_path, package))) == frozenset()


@pytest.mark.parametrize("release", RELEASES)
def test_a_package_that_adds_a_user_is_refused(tmp_path: Path, release: str) -> None:
    content = sample.deb("greeter", scripts={"postinst": "#!/bin/sh\nadduser --system greeter\n"})

    assert complaints(tmp_path, content, release=release) == ["greeter: adds user `greeter`"]


def test_every_complaint_at_once_and_in_order(tmp_path: Path) -> None:
    debs = {
        "b": sample.written(tmp_path, sample.deb("b", scripts={"postinst": "addgroup y\nadduser x"}), "b"),
        "a": sample.written(tmp_path, sample.deb("a", scripts={"preinst": "ucf /a /etc/a"}), "a"),
    }

    assert unknown_effects("bookworm", debs) == [
        "a: lets ucf write `/etc/a`",
        "b: adds group `y`",
        "b: adds user `x`",
    ]


def test_what_the_builder_does_is_accepted(tmp_path: Path) -> None:
    script = "adduser --system sshd\ndeb-systemd-helper enable ssh.service\n"

    assert complaints(tmp_path, sample.deb("openssh-server", scripts={"postinst": script})) == []


def test_the_accounts_of_base_passwd_are_accepted(tmp_path: Path) -> None:
    base = sample.deb(
        "base-passwd",
        files={
            "usr/share/base-passwd/passwd.master": b"games:*:5:60:games:/usr/games:/usr/sbin/nologin\n",
            "usr/share/base-passwd/group.master": b"games:*:60:\n",
        },
    )
    other = sample.deb("other", scripts={"postinst": "adduser --system --group games"})
    debs = {
        "base-passwd": sample.written(tmp_path, base, "base"),
        "other": sample.written(tmp_path, other, "other"),
    }

    assert unknown_effects("bookworm", debs) == []


def test_a_release_without_a_table() -> None:
    with pytest.raises(ResolveError) as caught:
        unknown_effects("sarge", {})

    assert caught.value.message == "mlvm has no table of what Debian sarge's scripts do"
    assert caught.value.hint == "use one of bookworm, bullseye, trixie"
