"""The published JSON Schema says what the reader does: the same documents pass both, and the same fail both.

Documents are compared as data. What is no matter of data (quotes, anchors, tags ...) is tested with the reader alone,
and so is what a schema cannot say; `BEYOND` lists that.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

import mlvm
from mlvm.errors import SpecError
from mlvm.paths import shipped
from mlvm.spec import nodes
from mlvm.spec.complaints import Place, Report
from mlvm.spec.reader import loads
from mlvm.spec.schema import SCHEMA_NAME, reference, schema, schema_text
from mlvm.spec.table import document

ROOT = Path(mlvm.__file__).parent.parent
PUBLISHED = Draft202012Validator(schema())


def written(data: object) -> str:
    """Write data as YAML that leaves no doubt: JSON."""
    return json.dumps(data, ensure_ascii=False)


def reader_takes(data: object) -> bool:
    """Tell whether the reader takes a document."""
    try:
        loads(written(data))
    except SpecError:
        return False
    return True


def reader_takes_shape(data: object) -> bool:
    """Tell whether the reader finds every field's shape right, whatever fields say of each other."""
    report = Report()
    at = Place(report=report)
    node = nodes.parse(written(data), "x", at=at)
    assert node is not None
    document.read(node, at)
    return not report.complaints


GOOD: list[dict[str, Any]] = [
    {"apt": ["git", "libc6=2.36-9"]},
    {"sdists": ["docopt", "zope.interface"]},
    {"index": {"torch": "https://download.pytorch.org/whl/cu124"}},
    {"cuda": {"version": "12.4", "cudnn": "9", "nvcc": True, "driver": "550.54", "arch": ["8.6"]}},
    {"machine": {"gpu": 1}},
    {},
    {
        "share": [
            "./data:/data",
            {"folder": "data/..b", "at": "/data/x", "write": True},
            "aa:/a:rw",
            "bb:/b:ro",
        ]
    },
    {"share": [{"folder": "data"}]},
    {"share": []},
    {"share": "ro"},
    {"share": "rw"},
    {"schema": 1},
    {"debian": "bookworm"},
    {"debian": "trixie"},
    {"python": "3.11"},
    {"python": "3.13"},
    {"debian": "trixie", "python": "3.13"},
    {"packages": []},
    {"packages": ["numpy", "a-b_c.d[x,y]>=1,<2", 'tomli; python_version < "3.11"', "x (>=1)", "y ~= 1.0"]},
    {"preload": ["numpy", "sklearn.svm"]},
    {"machine": {}},
    {"machine": {"cpus": 1, "memory": "256 MiB", "disk": "1GiB"}},
    {"machine": {"cpus": 255, "memory": "99 TiB", "disk": "1024 MiB"}},
    {"machine": {"memory": "9999999 MiB"}},
    {"env": {}},
    {"env": {"A": "", "_b1": "x y\tz", "N": 5, "M": -5}},
    {"network": "user"},
    {"network": "none"},
    {"ports": []},
    {"ports": ["1:65535", {"guest": 80}, {"guest": 1, "host": 2}]},
    {"template": "minimal"},
    {"template": "science", "packages": ["numpy<2"]},
]
BAD: list[dict[str, Any]] = [
    {"share": ["/etc:/data"]},
    {"share": ["~/x:/data"]},
    {"share": ["data:data"]},
    {"share": ["data:/.."]},
    {"share": ["data:/"]},
    {"share": ["data:/data:rx"]},
    {"share": ["../x:/data"]},
    {"share": ["a/..:/data"]},
    {"share": [{"folder": "a/../../b", "at": "/data"}]},
    {"share": [{"folder": "data", "at": "/data", "write": "yes"}]},
    {"share": "none"},
    {"share": True},
    {"nme": "x"},
    {"name": ""},
    {"name": "A"},
    {"name": "-a"},
    {"name": "a-"},
    {"name": "a b"},
    {"name": "x" * 64},
    {"name": None},
    {"name": 5},
    {"name": ["a"]},
    {"schema": 2},
    {"schema": "1"},
    {"debian": "buster"},
    {"debian": 12},
    {"debian": True},
    {"python": 3.11},
    {"python": "3.8"},
    {"python": "3.12t"},
    {"python": "3.11.2"},
    {"packages": "numpy"},
    {"packages": {"numpy": "1"}},
    {"packages": [1]},
    {"packages": [""]},
    {"packages": ["-numpy"]},
    {"packages": ["numpy=1"]},
    {"packages": ["a @ https://b"]},
    {"packages": None},
    {"machine": []},
    {"machine": {"cpus": 0}},
    {"machine": {"cpus": 256}},
    {"machine": {"cpus": "2"}},
    {"machine": {"cpus": True}},
    {"machine": {"memory": "255 MiB"}},
    {"machine": {"memory": "0 GiB"}},
    {"machine": {"memory": "2 GB"}},
    {"machine": {"memory": "2  GiB"}},
    {"machine": {"memory": "02 GiB"}},
    {"machine": {"memory": "1.5 GiB"}},
    {"machine": {"memory": 2048}},
    {"machine": {"disk": "1023 MiB"}},
    {"machine": {"ram": "2 GiB"}},
    {"env": []},
    {"env": {"A-B": "x"}},
    {"env": {"1A": "x"}},
    {"env": {"A": True}},
    {"env": {"A": 1.5}},
    {"env": {"A": None}},
    {"env": {"A": 10**15}},
    {"network": "bridged"},
    {"network": False},
    {"ports": "8888:8888"},
    {"ports": [8888]},
    {"ports": ["0:1"]},
    {"ports": ["1:65536"]},
    {"ports": ["01:1"]},
    {"ports": ["127.0.0.1:1:1"]},
    {"ports": [{"host": 1}]},
    {"ports": [{"guest": 70000}]},
    {"ports": [{"guest": 80, "bind": "0.0.0.0"}]},
    {"template": ""},
    {"template": "/etc/base.yaml"},
    {"template": "No Such"},
    {"requirements": "requirements.in"},
    {"requirements": "/etc/requirements.txt"},
    {"requirements": "~/requirements.txt"},
    {"requirements": "C:\\x.txt"},
    {"requirements": ["requirements.txt"]},
]
GOOD += [
    {"machines": {"head": {"cpus": 1}, "worker": {"count": 3, "memory": "8 GiB", "after": ["head"]}}},
    {"machines": {"a": {"ready": {"port": 22, "seconds": 5}, "ports": ["8080:80"]}}},
    {"machines": {"a": {"ready": {"command": "true"}}}},
    {"machines": {}, "ports": ["8080:80"]},
    {"machine": {"cpu_weight": 100, "disk_iops": 10}},
    {"machine": {"memory": {"min": "1 GiB", "max": "2 GiB"}}},
]
BAD += [
    {"machines": {"A": {}}},
    {"machines": {"a": {"count": 0}}},
    {"machines": {"a": {"after": "b"}}},
    {"machines": {"a": {"ready": {"port": 0}}}},
    {"machines": {"a": {"ready": {"command": " "}}}},
    {"machines": {"a": {}}, "ports": ["8080:80"]},
    {"machine": {"cpu_weight": 10001}},
    {"machine": {"cpu_weight": 0}},
    {"machine": {"disk_iops": 9}},
    {"machine": {"memory": {"max": "2 GiB"}}},
    {"machine": {"memory": {"min": "1 GiB"}}},
    {"machine": {"memory": {"min": "1 MiB", "max": "2 GiB"}}},
]
BAD += [
    {"apt": "git"},
    {"sdists": "docopt"},
    {"sdists": ["docopt==1"]},
    {"apt": ["Git"]},
    {"apt": ["g"]},
    {"cuda": "12.4"},
    {"cuda": {}},
    {"cuda": {"version": 12.4}},
    {"cuda": {"version": "12.4", "nvcc": "yes"}},
    {"cuda": {"version": "12.4", "arch": ["sm_86"]}},
    {"index": {"torch": "http://a"}},
    {"index": {"torch": "https://user@a"}},
    {"index": {"-": "https://a"}},
    {"preload": ["import numpy"]},
    {"preload": ["a..b"]},
    {"machine": {"gpu": -1}},
]
#: Refused by the reader alone: a schema cannot say it.
BEYOND: list[dict[str, Any]] = [
    {"packages": ["numpy", "NumPy"]},
    {"packages": ["numpy>=>1"]},
    {"packages": ["python"]},
    {"ports": ["1:2", "1:3"]},
    {"requirements": "absent.txt"},
    {"template": "absent"},
    {"template": "absent.yaml"},
    {"machine": {"cpus": 2.0}},
    {"machine": {"memory": {"min": "2 GiB", "max": "1 GiB"}}},
    {"machines": {"a": {"after": ["b"]}}},
    {"machines": {"a": {"after": ["a"]}}},
    {"machines": {"a": {"ready": {}}}},
    {"machines": {"a": {"ports": ["1:1"]}, "b": {"ports": ["1:1"]}}},
    {"machines": {"a": {"count": 2}, "a-2": {}}},
]


def named(change: dict[str, Any]) -> dict[str, Any]:
    """Return a document with that change and a name."""
    return {"name": "a", **change}


@pytest.mark.parametrize("change", GOOD, ids=str)
def test_both_take(change: dict[str, Any]) -> None:
    assert PUBLISHED.is_valid(named(change))
    assert reader_takes(named(change))


@pytest.mark.parametrize("change", BAD, ids=str)
def test_both_refuse(change: dict[str, Any]) -> None:
    assert not PUBLISHED.is_valid(named(change))
    assert not reader_takes(named(change))


@pytest.mark.parametrize("change", BEYOND, ids=str)
def test_only_the_reader_refuses(change: dict[str, Any]) -> None:
    assert PUBLISHED.is_valid(named(change))
    assert not reader_takes(named(change))


@pytest.mark.parametrize("data", [None, [], "a", 5, {"debian": "trixie"}], ids=str)
def test_both_refuse_what_is_no_spec(data: object) -> None:
    assert not PUBLISHED.is_valid(data)
    assert not reader_takes(data)


KEYS = ["name", "python", "debian", "packages", "machine", "env", "network", "ports", "apt", "cuda", "machines",
        "share", "preload", "index", "schema", "cpus", "memory", "guest", "host", "version", "A"]  # fmt: skip
WORDS = ["a", "3.11", "3.13", "bookworm", "trixie", "2 GiB", "512 MiB", "user", "none", "numpy", "1:2", "8080:80",
         "12.4", "x" * 64, "", "A", "git", "./d:/d", "a.b"]  # fmt: skip
DATA = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 70_000)
    | st.sampled_from(WORDS)
    | st.sampled_from([0.5, 3.11]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=8,
)
FIELDS = st.fixed_dictionaries(
    {"name": st.sampled_from(["a", "A", "b-1"])},
    optional={name: DATA | st.sampled_from([one.examples[0]] if one.examples else [1])
              for name, one in document.fields.items()
              if name not in {"name", "requirements", "template"}},
)  # fmt: skip


def mutated(base: dict[str, Any], name: str, value: object) -> dict[str, Any]:
    """Return `base` with one field of it, or of its machine, changed."""
    changed = copy.deepcopy(base)
    target = changed.get("machine") if name in {"cpus", "memory"} else changed
    (target if isinstance(target, dict) else changed)[name] = value
    return changed


def twice_in(data: Any) -> bool:
    """Tell whether a document says something twice that a schema does not see: packages, ports of the host."""
    packages, machines = data.get("packages"), data.get("machines")
    members = machines.values() if isinstance(machines, dict) else ()
    listed_ports = [
        port
        for one in (data, *members)
        if isinstance(one, dict) and isinstance(one.get("ports"), list)
        for port in one["ports"]
    ]
    hosts = [
        str(port.get("host", port.get("guest"))) if isinstance(port, dict) else str(port).partition(":")[0]
        for port in listed_ports
    ]
    listed = [str(p).lower() for p in packages] if isinstance(packages, list) else []
    return len(set(listed)) < len(listed) or len(set(hosts)) < len(hosts)


@settings(max_examples=300, deadline=None)
@given(
    base=st.sampled_from([named(change) for change in GOOD]) | FIELDS,
    name=st.sampled_from(KEYS),
    value=DATA,
)
def test_they_agree_on_whatever_comes(base: dict[str, Any], name: str, value: object) -> None:
    data = mutated(base, name, value)
    if twice_in(data):
        return

    assert reader_takes(data) == PUBLISHED.is_valid(data)


@settings(max_examples=200, deadline=None)
@given(
    base=st.sampled_from([named(change) for change in GOOD]) | FIELDS,
    name=st.sampled_from(KEYS),
    value=DATA,
)
def test_they_agree_on_shapes(base: dict[str, Any], name: str, value: object) -> None:
    data = mutated(base, name, value)
    pair = [data.get("debian"), data.get("python")]
    if (
        twice_in(data)
        or pair in (["bookworm", "3.13"], ["trixie", "3.11"])
        or (data.get("machines") and "ports" in data)
    ):  # neither pair is a matter of shape
        return

    assert reader_takes_shape(data) == PUBLISHED.is_valid(data)


def test_the_schema_is_valid() -> None:
    Draft202012Validator.check_schema(schema())


def test_the_published_schema_is_this_one() -> None:
    """If not: `python tools/publish_spec.py`."""
    assert (shipped("templates") / SCHEMA_NAME).read_text() == schema_text()


def test_every_field_has_a_description() -> None:
    described = schema()["properties"]

    assert all(one["description"].endswith(".") for one in described.values())


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("boxes/*/mlvm.yaml")) + sorted(ROOT.glob("templates/*.yaml")), ids=str
)
def test_shipped_documents_fit_the_schema(path: Path) -> None:
    assert list(PUBLISHED.iter_errors(yaml.safe_load(path.read_text()))) == []


def test_the_reference_is_this_one() -> None:
    """If not: `python tools/publish_spec.py`."""
    assert reference() in (ROOT / "docs" / "spec.md").read_text()


def examples() -> list[str]:
    """Return the YAML examples of the reference."""
    page = (ROOT / "docs" / "spec.md").read_text()
    return [part.partition("```")[0] for part in page.split("```yaml\n")[1:]]


@pytest.mark.parametrize("text", examples())
def test_the_examples_of_the_reference_work(text: str) -> None:
    assert loads(text).name


def test_the_complaints_of_the_reference_are_real() -> None:
    """The page shows a block of complaints; this is the document that gives them."""
    text = "name: a\n\nnetwork: no\npackges: []\nmachine:\n  memory: 2G\n"

    with pytest.raises(SpecError) as raised:
        loads(text)

    shown = "".join(f"  {line}\n" for line in raised.value.details.splitlines())
    assert f"error: {raised.value.message}\n{shown}" in (ROOT / "docs" / "spec.md").read_text()


TRAPS = [
    ("python: 3.10", "`3.10` without quotes is the number 3.1"),
    ("network: no", "write `none`"),
    ("ports: [22:22]", '1342 to YAML; write "22:22"'),
    ("machine: {cpus: 010}", "write it in plain decimal"),
    ("env: {NO: x}", "put it in quotes"),
    ("env:", "give it a value, or remove the line"),
]


@pytest.mark.parametrize(("line", "said"), TRAPS)
def test_the_traps_of_the_reference_are_real(line: str, said: str) -> None:
    with pytest.raises(SpecError) as raised:
        loads(f"name: a\n{line}\n")

    assert said in raised.value.details
