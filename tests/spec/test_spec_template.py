"""Templates: what a spec inherits, and what stops it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlvm.errors import SpecError
from mlvm.spec.document import GIB, MachineShape, PortForward, Spec
from mlvm.spec.reader import load, loads


def spec_of(folder: Path, **files: str) -> Spec:
    """Write each file as `<key>.yaml`, and read `mlvm.yaml`."""
    for key, text in files.items():
        (folder / f"{key}.yaml").write_text(text)
    return load(folder / "mlvm.yaml")


BASE = """\
name: base
debian: bookworm
packages: [numpy<2, "tomli; python_version < '3.11'", "tomli; python_version >= '3.11'", six]
machine: {cpus: 3, memory: 3 GiB}
env: {A: base, B: base}
network: none
ports: ["1000:80", "2000:22", "3000:33"]
"""


def test_a_shipped_template() -> None:
    spec = loads(
        "name: mine\ntemplate: science\npackages: [scikit-learn<1.6, xgboost]\nmachine: {memory: 8 GiB}\n"
    )

    assert spec.name == "mine"
    assert spec.template == "science"
    assert spec.packages == ("numpy", "scipy", "pandas", "matplotlib", "scikit-learn<1.6", "xgboost")
    assert (spec.machine.cpus, spec.machine.memory) == (2, 8 * GIB)


def test_joining(tmp_path: Path) -> None:
    own = (
        "name: own\ntemplate: base.yaml\npackages: [Tomli>=2, numpy]\nmachine: {memory: 4 GiB}\n"
        'env: {B: own, C: own}\nports: ["1000:81", "2222:22"]\n'
    )

    assert spec_of(tmp_path, base=BASE, mlvm=own) == Spec(
        name="own",
        template="base.yaml",
        packages=("six", "tomli>=2", "numpy"),
        machine=MachineShape(cpus=3, memory=4 * GIB),
        env={"A": "base", "B": "own", "C": "own"},
        network="none",
        ports=(
            PortForward(host=3000, guest=33),
            PortForward(host=1000, guest=81),
            PortForward(host=2222, guest=22),
        ),
    )


@pytest.mark.parametrize(
    ("line", "pair"),
    [
        ("", ("bookworm", "3.11")),
        ("debian: trixie", ("trixie", "3.13")),
        ('python: "3.13"', ("trixie", "3.13")),
    ],
)
def test_debian_and_python_are_one_choice(tmp_path: Path, line: str, pair: tuple[str, str]) -> None:
    spec = spec_of(tmp_path, base=BASE, mlvm=f"name: own\ntemplate: base.yaml\n{line}\n")

    assert (spec.debian, spec.python) == pair


def test_a_template_may_have_one_too_and_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "list.txt").write_text("six\n")
    (tmp_path / "sub" / "middle.yml").write_text("template: ../base.yaml\nrequirements: list.txt\n")

    spec = spec_of(tmp_path, base="packages: [numpy]", mlvm="name: own\ntemplate: sub/middle.yml\n")

    assert spec.packages == ("numpy", "six")


def test_complaints_name_the_template_s_file(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as raised:
        spec_of(tmp_path, base="network: no\nnmae: x\n", mlvm="name: own\ntemplate: base.yaml\nnetwork: on\n")

    assert [line.replace(f"{tmp_path}/", "") for line in raised.value.details.splitlines()] == [
        "mlvm.yaml:3:10: network: `on` without quotes is a truth value to YAML; write `user` or `none`",
        "base.yaml:1:10: network: `no` without quotes is a truth value to YAML; write `none`",
        "base.yaml:2:1: nmae: there is no `nmae`; did you mean `name`?",
    ]


@pytest.mark.parametrize("chain", [["mlvm"], ["a", "mlvm"], ["a", "b", "a"]])
def test_a_cycle(tmp_path: Path, chain: list[str]) -> None:
    files = {
        inheriting: f"template: {inherited}.yaml\n"
        for inheriting, inherited in zip(["mlvm", *chain], chain, strict=False)
    }
    files["mlvm"] = "name: own\n" + files["mlvm"]

    with pytest.raises(SpecError) as raised:
        spec_of(tmp_path, **files)

    assert f"template: `{chain[-1]}.yaml` inherits from itself" in raised.value.details


def test_a_long_chain(tmp_path: Path) -> None:
    files = {f"t{number}": f"template: t{number + 1}.yaml\n" for number in range(30)}

    with pytest.raises(SpecError) as raised:
        spec_of(tmp_path, mlvm="name: own\ntemplate: t0.yaml\n", **files)

    assert "template: more than 20 templates inherit from each other" in raised.value.details
