"""Where a cell belongs while a notebook is attached: a cell for the machine must never run on the host."""

from __future__ import annotations

import pytest

from mlvm.errors import KernelError
from mlvm.notebook.attach import Place, place_of, without_local_mark
from mlvm.notebook.luggage import limit_of


@pytest.mark.parametrize(
    ("code", "place"),
    [
        ("1 + 1", Place.GUEST),
        ("", Place.GUEST),
        ("%%time\nx", Place.GUEST),
        ("%%markdown\n%mlvm up", Place.GUEST),
        ("%mlvmx", Place.GUEST),
        ("print('%mlvm up')", Place.GUEST),
        ("%mlvm detach", Place.HOST),
        ("\n# back\n%mlvm detach\n", Place.HOST),
        ("%load_ext mlvm\n%mlvm up box", Place.HOST),
        ("%%local\nx = 1", Place.HOST),
        ("  %%local\nx = 1", Place.HOST),
        ("%%mlvm other\nx = 1", Place.HOST),
        ("%mlvm up box\nimport torch", Place.BOTH),
        ("x = 1\n%mlvm push x", Place.BOTH),
    ],
)
def test_places(code: str, place: Place) -> None:
    assert place_of(code) is place


def test_the_local_mark_is_taken_off_and_lines_keep_their_numbers() -> None:
    assert without_local_mark(["\n", "%%local\n", "x = 1\n"]) == ["\n", "\n", "x = 1\n"]
    assert without_local_mark(["x = '%%local'\n"]) == ["x = '%%local'\n"]


@pytest.mark.parametrize(
    ("text", "size"), [("5", 5), ("1 KiB", 1024), ('"2.5 MB"', 2_500_000), ("1gib", 1 << 30)]
)
def test_limits(text: str, size: int) -> None:
    assert limit_of(text) == size


@pytest.mark.parametrize("text", ["", "much", "1 TBx", "1.2.3", "."])
def test_what_is_no_limit(text: str) -> None:
    with pytest.raises(KernelError, match="is no size"):
        limit_of(text)
