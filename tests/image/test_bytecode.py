"""What is compiled together: as few starts of the interpreter as there is work for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mlvm.image.bytecode import batches

MIB = 1 << 20


def test_the_largest_is_first_and_alone() -> None:
    assert batches({"small": 1, "large": 9 * MIB, "tiny": 0}) == [["large"], ["small", "tiny"]]


def test_nothing_to_compile() -> None:
    assert batches({}) == []


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 5 * MIB)))
def test_everything_is_in_one_batch_and_no_batch_of_many_is_large(sizes: dict[str, int]) -> None:
    made = batches(sizes)

    assert sorted(name for batch in made for name in batch) == sorted(sizes)
    assert all(len(batch) == 1 or sum(sizes[name] for name in batch) <= 2 * MIB for batch in made)
