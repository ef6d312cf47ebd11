"""Wrap a disk as qcow2, version 3: a header, tables, and the blocks that are not zeros, in their order.

Uncompressed: the box around it is compressed, and a guest reads faster from it. The format: docs/interop/qcow2.rst of
QEMU. Tables come first and their sizes are known beforehand, so it is one pass, and the same disk is the same bytes.
"""

from __future__ import annotations

import struct

from mlvm.box.recipe import Recipe

_CLUSTER_BITS = 16
_CLUSTER = 1 << _CLUSTER_BITS
_COPIED = 1 << 63
_ENTRIES = _CLUSTER // 8
_REFCOUNTS = _CLUSTER // 2


def wrap_qcow2(disk: Recipe) -> Recipe:
    """Return the qcow2 file of a disk."""
    numbers = list(disk.full_blocks(_CLUSTER))
    tables = sorted({number // _ENTRIES for number in numbers})
    l1_entries = -(-disk.size // (_CLUSTER * _ENTRIES))
    l1_clusters = -(-l1_entries * 8 // _CLUSTER)
    # Reference counts count themselves: more of them until they reach.
    blocks = 1
    while (total := 1 + 1 + blocks + l1_clusters + len(tables) + len(numbers)) > blocks * _REFCOUNTS:
        blocks += 1
    l1_start = 2 + blocks
    first_table = l1_start + l1_clusters
    first_data = first_table + len(tables)
    header = struct.pack(
        ">4sIQIIQIIQQIIQQQQII",
        *(b"QFI\xfb", 3, 0, 0, _CLUSTER_BITS, disk.size, 0),
        *(l1_entries, l1_start * _CLUSTER, _CLUSTER, 1, 0, 0),
        *(0, 0, 0, 4, 104),
    )
    file = Recipe(disk.scratch)
    file.data(header + struct.pack(">II", 0, 0))
    file.align(_CLUSTER)
    file.data(struct.pack(f">{blocks}Q", *((2 + index) * _CLUSTER for index in range(blocks))))
    file.align(_CLUSTER)
    file.data(struct.pack(f">{total}H", *([1] * total)))
    file.align(_CLUSTER)
    l1 = [0] * l1_entries
    for index, table in enumerate(tables):
        l1[table] = (first_table + index) * _CLUSTER | _COPIED
    file.data(struct.pack(f">{l1_entries}Q", *l1))
    file.align(_CLUSTER)
    place = {number: (first_data + index) * _CLUSTER | _COPIED for index, number in enumerate(numbers)}
    for table in tables:
        first = table * _ENTRIES
        file.data(struct.pack(f">{_ENTRIES}Q", *(place.get(first + index, 0) for index in range(_ENTRIES))))
    for number in numbers:
        for piece in disk.part(number * _CLUSTER, _CLUSTER):
            file.add(piece)
    return file
