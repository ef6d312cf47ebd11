"""What Vagrant says: recorded from Vagrant 2.3.4 with vagrant-libvirt 0.11.2 (`data/`), and any line at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlvm.machine.vagrant import said

DATA = Path(__file__).parent / "data"


def lines_of(name: str) -> list[str]:
    return (DATA / f"{name}.txt").read_text().splitlines()


def test_a_line_of_a_machine_is_taken_apart() -> None:
    found = said.parse("1795515743,default,metadata,provider,libvirt")
    assert found == said.Said(target="default", kind="metadata", words=("provider", "libvirt"))


def test_commas_and_line_ends_are_put_back() -> None:
    found = said.parse("1,,ui,error,one%!(VAGRANT_COMMA) two\\nthree")
    assert found is not None
    assert found.text == "one, two\nthree"


def test_the_machine_s_name_is_left_out() -> None:
    found = said.parse("1,default,ui,output,==> default: Starting domain.")
    assert found is not None
    assert found.text == "Starting domain."


@pytest.mark.parametrize("line", ["", "x", "1,2", "/usr/lib/ruby/x.rb:1:in `a': b (C)", "no,,ui,info,x"])
def test_what_is_not_vagrant_s_is_no_line_of_its(line: str) -> None:
    assert said.parse(line) is None


@given(st.text())
def test_any_line_is_taken_or_left(line: str) -> None:
    found = said.parse(line)
    assert found is None or isinstance(found.text, str)


@given(st.lists(st.text()))
def test_any_output_gives_a_reason_or_none(lines: list[str]) -> None:
    assert isinstance(said.failure(lines).text, str)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("no_provider", "Vagrant::Errors::ProviderNotFound"),
        ("unusable_provider", "Vagrant::Errors::ProviderNotUsable"),
        ("no_box", "Vagrant::Errors::BoxAddShortNotFound"),
        ("locked", "Vagrant::Errors::MachineActionLockedError"),
        ("no_libvirt", "VagrantPlugins::ProviderLibvirt::Errors::FogLibvirtConnectionError"),
        ("no_ruby", ""),
    ],
)
def test_the_class_of_an_error_is_found(name: str, kind: str) -> None:
    assert said.failure(lines_of(name)).kind == kind


def test_a_backtrace_is_left_out() -> None:
    found = said.failure(
        [
            "/usr/share/gems/x/create.rb:12:in `call': Call to virDomainCreate failed: no (Libvirt::Error)",
            "\tfrom /usr/share/gems/x/warden.rb:48:in `call'",
        ]
    )
    assert found.text == "Call to virDomainCreate failed: no (Libvirt::Error)"
