"""The record of a shipped box's last run: to disk and back, and of which lock it speaks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mlvm.errors import LockError
from mlvm.image.document import BUILDER
from mlvm.image.last_run import NAME, LastRun, load, save
from mlvm.lock.document import ImageRecord
from mlvm.lock.text import load as load_lock
from mlvm.paths import shipped

RUN = LastRun(
    date="2026-11-24",
    builder=BUILDER,
    digests={"system": "a" * 64, "python": "b" * 64},
    sizes={"system": 100, "python": 20, "agent": 3},
    downloads=60,
    seconds={"build": 9.5, "boot": 20.0, "verify": 31.2},
    host={"cpu": "some", "cores": 2, "qemu": "7.2", "load": [1.0, 1.0, 1.0], "accelerator": "tcg"},
)


def test_there_and_back(tmp_path: Path) -> None:
    save(RUN, tmp_path)

    assert load(tmp_path) == RUN
    assert RUN.size == 123


def test_none_is_recorded(tmp_path: Path) -> None:
    assert load(tmp_path) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 2}', '{"schema": 1, "date": "2026-11-24"}'])
def test_one_that_cannot_be_read(text: str, tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(text)

    with pytest.raises(LockError) as refused:
        load(tmp_path)

    assert refused.value.message.startswith(f"`{tmp_path / NAME}` is not the record of a run: ")
    assert refused.value.hint == f"python tools/boxes.py run {tmp_path.name}"


def test_it_speaks_of_the_lock_whose_digests_it_saw() -> None:
    lock = load_lock(shipped("boxes") / "sklearn" / "mlvm.lock")
    seen = replace(lock, image=ImageRecord(builder=BUILDER, digests=dict(RUN.digests)))

    assert RUN.speaks_of(seen)
    assert not RUN.speaks_of(lock)
    assert not RUN.speaks_of(replace(lock, image=None))


def test_it_is_json_that_a_person_can_read(tmp_path: Path) -> None:
    save(RUN, tmp_path)

    assert json.loads((tmp_path / NAME).read_text())["seconds"] == {
        "build": 9.5,
        "boot": 20.0,
        "verify": 31.2,
    }
