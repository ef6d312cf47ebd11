"""How values cross between host and guest: packed as data, opened without running anything.

This one file works on both sides; the guest is sent its text, so it is Python 3.9 and imports nothing of mlvm. A crate
is a few buffers: the first is JSON that says what is what, the others are the bytes of arrays, as they lie in memory.

Known types (numbers, text, containers, times, NumPy arrays, pandas frames) are rebuilt by this code and by nobody
else's. Everything else needs pickle, and opening a pickle runs what its maker wanted: the guest opens the host's, it
runs the host's code anyhow; the host opens a guest's only for somebody who said so (`trusted`).
"""

from __future__ import annotations

import datetime
import decimal
import json
import math
import pickle
import re
import sys
import uuid
from collections.abc import Callable
from typing import Any

Node = Any  # what JSON can say
#: Integers beyond this are written in hexadecimal, which has no limit on digits.
PLAIN = 1 << 53
#: The first pyarrow that reads foreign bytes without running what they name (CVE-2023-47248).
SAFE_ARROW = (14, 0, 1)
#: Extension types of pandas that are rebuilt from a list of plain values.
NULLABLE = re.compile(r"str|string(\[\w+\])?|boolean|U?Int(8|16|32|64)|Float(32|64)")


class CrateError(Exception):
    """A value cannot cross, in words for a person."""


class Packer:
    """Packs values; `buffers` are filled as it goes. `pickled` allows pickle, `arrow` says the other side has it."""

    def __init__(self, *, pickled: bool, arrow: bool) -> None:
        self.buffers: list[Any] = []
        self.pickled = pickled
        self.arrow = arrow and arrow_here()

    def pack(self, value: object) -> Node:
        """Return the node of a value. Raises CrateError."""
        kind = type(value)
        if value is None or kind in (bool, str):
            return value
        simple = SIMPLE.get(kind)
        if simple is not None:
            return simple(self, value)
        packed = self._numpy(value)
        if packed is None:
            packed = self._pandas(value)
        if packed is None:
            packed = self._pickle(value)
        return packed

    def keep(self, buffer: Any) -> int:
        """Keep a buffer and return its number."""
        self.buffers.append(memoryview(buffer).cast("B") if not isinstance(buffer, bytes) else buffer)
        return len(self.buffers)  # number 0 is the JSON

    def _numpy(self, value: object) -> Node:
        numpy = sys.modules.get("numpy")
        if numpy is None or not isinstance(value, (numpy.ndarray, numpy.generic)):
            return None
        if isinstance(value, numpy.generic):
            return {"t": "scalar", "v": self._array(numpy, numpy.asarray(value))}
        return self._array(numpy, value) if type(value) is numpy.ndarray else None

    def _array(self, numpy: Any, array: Any) -> Node:
        if array.dtype.hasobject:
            if array.dtype != object:
                return None
            return {
                "t": "objects",
                "shape": list(array.shape),
                "v": [self.pack(one) for one in array.ravel().tolist()],
            }
        fortran = array.flags.f_contiguous and not array.flags.c_contiguous
        flat = numpy.ascontiguousarray(array.T if fortran else array)
        return {
            "t": "ndarray",
            "dtype": _described(numpy, array.dtype),
            "shape": list(array.shape),
            "fortran": bool(fortran),
            "b": self.keep(flat.reshape(-1).view("u1") if flat.size else b""),
        }

    def _pandas(self, value: Any) -> Node:  # noqa: PLR0911  (a table of types)
        pandas = sys.modules.get("pandas")
        if pandas is None:
            return None
        if type(value) is pandas.DataFrame:
            return self._arrow_table(pandas, value) or self._columns(pandas, value)
        if type(value) is pandas.Series:
            return {
                "t": "series",
                "name": self.pack(value.name),
                "index": self.pack(value.index),
                "v": self._column(value),
            }
        if isinstance(value, pandas.MultiIndex):
            levels = [self._column(value.get_level_values(i)) for i in range(value.nlevels)]
            return {"t": "multiindex", "names": self.pack(list(value.names)), "v": levels}
        if type(value) is pandas.RangeIndex:
            return {
                "t": "rangeindex",
                "v": [value.start, value.stop, value.step],
                "name": self.pack(value.name),
            }
        if isinstance(value, pandas.Index):
            return {"t": "index", "name": self.pack(value.name), "v": self._column(value)}
        if value is pandas.NaT or value is pandas.NA:
            return {"t": "missing", "v": "NaT" if value is pandas.NaT else "NA"}
        if type(value) is pandas.Timestamp:
            return {"t": "timestamp", "v": value.isoformat()}
        return None

    def _arrow_table(self, pandas: Any, frame: Any) -> Node:
        if not self.arrow or frame.columns.nlevels > 1 or frame.attrs:
            return None
        import pyarrow  # noqa: PLC0415

        try:
            table = pyarrow.Table.from_pandas(frame)
            same = table.to_pandas().dtypes.equals(frame.dtypes)
        except (pyarrow.ArrowException, TypeError, ValueError):
            return None
        if not same:
            return None
        sink = pyarrow.BufferOutputStream()
        with pyarrow.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return {"t": "arrow", "b": self.keep(memoryview(sink.getvalue()))}

    def _columns(self, pandas: Any, frame: Any) -> Node:
        columns = [self._column(frame.iloc[:, i]) for i in range(frame.shape[1])]
        return {
            "t": "frame",
            "index": self.pack(frame.index),
            "columns": self.pack(frame.columns),
            "v": columns,
        }

    def _column(self, values: Any) -> Node:
        """Pack the values of a column or an index, without its labels."""
        name = str(values.dtype)
        if name == "category":
            codes = values.cat.codes if hasattr(values, "cat") else values.codes
            categories = values.cat.categories if hasattr(values, "cat") else values.categories
            return {
                "t": "category",
                "codes": self.pack(_plain_array(codes)),
                "v": self._column(categories),
                "ordered": bool(values.dtype.ordered),
            }
        if NULLABLE.fullmatch(name):
            missing = values.isna()
            return {
                "t": "nullable",
                "dtype": name,
                "v": [None if gone else self.pack(one) for one, gone in zip(values.tolist(), missing)],  # noqa: B905  (3.9)
            }
        zone = getattr(values.dtype, "tz", None)
        if zone is not None:
            naive = values.dt if hasattr(values, "dt") else values
            naive = naive.tz_convert("UTC").dt if hasattr(values, "dt") else naive.tz_convert("UTC")
            return {"t": "zoned", "zone": str(zone), "v": self.pack(_plain_array(naive.tz_localize(None)))}
        array = _plain_array(values)
        if array is None:
            raise CrateError(f"a column of type `{name}` cannot cross; convert it first")
        return self.pack(array)

    def _pickle(self, value: object) -> Node:
        name = f"{type(value).__module__}.{type(value).__qualname__}"
        if not self.pickled:
            raise CrateError(f"a value of type `{name}` cannot cross as plain data")
        outside: list[Any] = []
        try:
            data = pickle.dumps(value, protocol=5, buffer_callback=outside.append)
            numbers = [self.keep(one.raw()) for one in outside]
        except Exception as error:
            raise CrateError(f"a value of type `{name}` cannot be packed: {error}") from error
        return {"t": "pickle", "b": self.keep(data), "out": numbers}


def arrow_here() -> bool:
    """Tell whether there is a pyarrow that foreign bytes can be given to."""
    try:
        import pyarrow  # noqa: PLC0415
    except ImportError:
        return False
    found = tuple(int(part) for part in re.findall(r"\d+", pyarrow.__version__)[:3])
    return found >= SAFE_ARROW


def packed(values: dict[str, object], *, pickled: bool, arrow: bool) -> list[Any]:
    """Pack named values into the buffers of a crate. Raises CrateError, which names the value."""
    packer = Packer(pickled=pickled, arrow=arrow)
    nodes: dict[str, Node] = {}
    sizes: dict[str, int] = {}
    for name, value in values.items():
        before = len(packer.buffers)
        try:
            nodes[name] = packer.pack(value)
        except CrateError as error:
            raise CrateError(f"`{name}`: {error}") from error
        except RecursionError:
            raise CrateError(f"`{name}`: it is nested too deeply, or contains itself") from None
        sizes[name] = sum(len(one) for one in packer.buffers[before:]) + len(json.dumps(nodes[name]))
    head = {
        "values": nodes,
        "sizes": sizes,
        "what": {name: described(value) for name, value in values.items()},
    }
    return [json.dumps(head).encode(), *packer.buffers]


def opened(buffers: list[Any], *, trusted: bool) -> dict[str, object]:
    """Return the named values of a crate. Raises CrateError for whatever is wrong with it."""
    try:
        head = json.loads(bytes(buffers[0]))
        opener = Opener(buffers, trusted=trusted)
        return {str(name): opener.open(node) for name, node in head["values"].items()}
    except CrateError:
        raise
    except RecursionError:
        raise CrateError("it is nested too deeply") from None
    except Exception as error:
        raise CrateError(f"what came cannot be opened: {type(error).__name__}: {error}") from error


def head_of(buffers: list[Any]) -> dict[str, Any]:
    """Return what a crate says of itself: `what` and `sizes` by name."""
    head: dict[str, Any] = json.loads(bytes(buffers[0]))
    return head


class Opener:
    """Rebuilds values from nodes; nothing a node says is run, imported or looked up by name."""

    def __init__(self, buffers: list[Any], *, trusted: bool) -> None:
        self.buffers = buffers
        self.trusted = trusted

    def open(self, node: Node) -> Any:
        """Return the value of a node."""
        if not isinstance(node, dict):
            if isinstance(node, list):
                raise CrateError("what came is no crate")
            return node
        try:
            opening = OPENINGS[node["t"]]
        except KeyError:
            raise CrateError(f"what came holds something unknown: {node.get('t')!r:.40}") from None
        return opening(self, node)

    def each(self, nodes: list[Node]) -> list[Any]:
        """Return the values of nodes."""
        return [self.open(one) for one in nodes]

    def array(self, node: Node) -> Any:
        """Rebuild a NumPy array."""
        import numpy  # noqa: PLC0415

        dtype = numpy.dtype(_dtype_of(node["dtype"]))
        if dtype.hasobject:
            raise CrateError("what came holds references instead of data")
        shape = tuple(int(one) for one in node["shape"])
        if any(one < 0 for one in shape) or math.prod(shape) * dtype.itemsize != len(self.buffers[node["b"]]):
            raise CrateError("what came holds an array that is larger or smaller than its data")
        flat = (
            numpy.frombuffer(bytearray(self.buffers[node["b"]]), dtype=dtype)
            if math.prod(shape)
            else numpy.empty(0, dtype)
        )
        return flat.reshape(shape[::-1]).T if node["fortran"] else flat.reshape(shape)

    def objects(self, node: Node) -> Any:
        """Rebuild an array of Python values."""
        import numpy  # noqa: PLC0415

        values = self.each(node["v"])
        array = numpy.empty(len(values), dtype=object)
        for number, one in enumerate(values):
            array[number] = one
        return array.reshape(tuple(int(one) for one in node["shape"]))

    def arrow(self, node: Node) -> Any:
        """Rebuild a frame from Arrow's stream."""
        if not arrow_here():
            raise CrateError("what came needs pyarrow, of version 14.0.1 or later")
        import pyarrow  # noqa: PLC0415

        with pyarrow.ipc.open_stream(pyarrow.py_buffer(self.buffers[node["b"]])) as reader:
            table = reader.read_all()
        table.validate(full=True)
        if any(isinstance(field.type, pyarrow.BaseExtensionType) for field in table.schema):
            raise CrateError("what came holds a column of a type that is somebody's own")
        return table.to_pandas()

    def frame(self, node: Node) -> Any:
        """Rebuild a frame from its columns."""
        import pandas  # noqa: PLC0415

        index = self.open(node["index"])
        frame = pandas.DataFrame(
            {i: pandas.Series(self.open(one), index=index) for i, one in enumerate(node["v"])}, index=index
        )
        frame.columns = self.open(node["columns"])
        return frame

    def series(self, node: Node) -> Any:
        """Rebuild a series."""
        import pandas  # noqa: PLC0415

        return pandas.Series(
            self.open(node["v"]), index=self.open(node["index"]), name=self.open(node["name"])
        )

    def index(self, node: Node) -> Any:
        """Rebuild an index."""
        import pandas  # noqa: PLC0415

        if node["t"] == "rangeindex":
            return pandas.RangeIndex(*(int(one) for one in node["v"]), name=self.open(node["name"]))
        if node["t"] == "multiindex":
            return pandas.MultiIndex.from_arrays(self.each(node["v"]), names=self.open(node["names"]))
        return pandas.Index(self.open(node["v"]), name=self.open(node["name"]))

    def column(self, node: Node) -> Any:
        """Rebuild what only pandas has a type for."""
        import pandas  # noqa: PLC0415

        if node["t"] == "category":
            return pandas.Categorical.from_codes(
                self.open(node["codes"]),
                categories=pandas.Index(self.open(node["v"])),
                ordered=bool(node["ordered"]),
            )
        if node["t"] == "zoned":
            return pandas.DatetimeIndex(self.open(node["v"])).tz_localize("UTC").tz_convert(str(node["zone"]))
        if node["t"] == "missing":
            return pandas.NaT if node["v"] == "NaT" else pandas.NA
        if node["t"] == "timestamp":
            return pandas.Timestamp(str(node["v"]))
        if not NULLABLE.fullmatch(node["dtype"]):
            raise CrateError("what came holds a column of an unknown type")
        values = self.each(node["v"])
        if node["dtype"] == "str" and pandas.__version__.startswith(
            ("1.", "2.")
        ):  # there it is NumPy's, without gaps
            return pandas.Series(values, dtype=object).array
        return pandas.array(values, dtype=node["dtype"])

    def unpickled(self, node: Node) -> Any:
        """Open a pickle, which runs what it says."""
        if not self.trusted:
            raise CrateError("what came is a pickle")
        buffers = [self.buffers[one] for one in node["out"]]
        return pickle.loads(bytes(self.buffers[node["b"]]), buffers=buffers)  # noqa: S301  (said to be trusted)


def described(value: object) -> str:
    """Say what a value is, for a person."""
    shape = getattr(value, "shape", None)
    name = type(value).__name__
    if isinstance(shape, tuple):
        return f"{name} {' x '.join(str(one) for one in shape)}"
    try:
        return f"{name} of {len(value)}" if not isinstance(value, (str, bytes)) else name  # type: ignore[arg-type]
    except Exception:  # noqa: BLE001  (a foreign __len__)
        return name


def _plain_array(values: Any) -> Any:
    """Return what NumPy has a type for as an array of its own; None when it has none."""
    numpy = sys.modules["numpy"]
    return values.to_numpy() if isinstance(values.dtype, numpy.dtype) else None


def _described(numpy: Any, dtype: Any) -> Node:
    if dtype.names is None:
        return dtype.str
    return numpy.lib.format.dtype_to_descr(dtype)


def _dtype_of(described_as: Node) -> Any:
    """Return what `numpy.dtype` takes; JSON has made lists of tuples."""
    if isinstance(described_as, str):
        return described_as
    return [
        (str(one[0]), _dtype_of(one[1]), *(tuple(int(size) for size in extent) for extent in one[2:]))
        for one in described_as
    ]


def _zone(value: Any) -> Node:
    """Return the node of a time zone; None for none."""
    if value is None:
        return None
    if type(value) is datetime.timezone:
        return value.utcoffset(None).total_seconds()
    key = getattr(value, "key", None)
    if isinstance(key, str):
        return key
    raise CrateError(f"a time zone of type `{type(value).__name__}` cannot cross")


def _zone_of(node: Node) -> Any:
    if node is None:
        return None
    if isinstance(node, str):
        import zoneinfo  # noqa: PLC0415

        return zoneinfo.ZoneInfo(node)
    return datetime.timezone(datetime.timedelta(seconds=node))


def _in(kind: str, parts: Callable[[Any], Any]) -> Callable[[Packer, Any], Node]:
    return lambda packer, value: {"t": kind, "v": [packer.pack(one) for one in parts(value)]}


#: How each plain type is packed.
SIMPLE: dict[type, Callable[[Packer, Any], Node]] = {
    int: lambda _, value: value if -PLAIN < value < PLAIN else {"t": "int", "v": hex(value)},
    float: lambda _, value: value if math.isfinite(value) else {"t": "float", "v": str(value)},
    complex: lambda packer, value: {"t": "complex", "v": [packer.pack(value.real), packer.pack(value.imag)]},
    bytes: lambda packer, value: {"t": "bytes", "b": packer.keep(value)},
    bytearray: lambda packer, value: {"t": "bytearray", "b": packer.keep(bytes(value))},
    list: _in("list", list),
    tuple: _in("tuple", list),
    set: _in("set", list),
    frozenset: _in("frozenset", list),
    dict: lambda packer, value: {"t": "dict", "v": [[packer.pack(k), packer.pack(v)] for k, v in value.items()]},
    range: lambda _, value: {"t": "range", "v": [hex(value.start), hex(value.stop), hex(value.step)]},
    slice: _in("slice", lambda value: [value.start, value.stop, value.step]),
    datetime.datetime: lambda _, value: {
        "t": "datetime", "v": value.replace(tzinfo=None).isoformat(), "zone": _zone(value.tzinfo), "fold": value.fold
    },
    datetime.date: lambda _, value: {"t": "date", "v": value.isoformat()},
    datetime.time: lambda _, value: {
        "t": "time", "v": value.replace(tzinfo=None).isoformat(), "zone": _zone(value.tzinfo)
    },
    datetime.timedelta: lambda _, value: {"t": "timedelta", "v": [value.days, value.seconds, value.microseconds]},
    decimal.Decimal: lambda _, value: {"t": "decimal", "v": str(value)},
    uuid.UUID: lambda _, value: {"t": "uuid", "v": value.hex},
}  # fmt: skip

#: How each kind of node is opened.
OPENINGS: dict[str, Callable[[Opener, Node], Any]] = {
    "int": lambda _, node: int(node["v"], 16),
    "float": lambda _, node: float(node["v"]),
    "complex": lambda opener, node: complex(*opener.each(node["v"])),
    "bytes": lambda opener, node: bytes(opener.buffers[node["b"]]),
    "bytearray": lambda opener, node: bytearray(opener.buffers[node["b"]]),
    "list": lambda opener, node: opener.each(node["v"]),
    "tuple": lambda opener, node: tuple(opener.each(node["v"])),
    "set": lambda opener, node: set(opener.each(node["v"])),
    "frozenset": lambda opener, node: frozenset(opener.each(node["v"])),
    "dict": lambda opener, node: {opener.open(key): opener.open(value) for key, value in node["v"]},
    "range": lambda _, node: range(*(int(one, 16) for one in node["v"])),
    "slice": lambda opener, node: slice(*opener.each(node["v"])),
    "datetime": lambda _, node: datetime.datetime.fromisoformat(node["v"]).replace(
        tzinfo=_zone_of(node["zone"]), fold=int(node["fold"])
    ),
    "date": lambda _, node: datetime.date.fromisoformat(node["v"]),
    "time": lambda _, node: datetime.time.fromisoformat(node["v"]).replace(tzinfo=_zone_of(node["zone"])),
    "timedelta": lambda _, node: datetime.timedelta(*(int(one) for one in node["v"])),
    "decimal": lambda _, node: decimal.Decimal(node["v"]),
    "uuid": lambda _, node: uuid.UUID(node["v"]),
    "ndarray": Opener.array,
    "scalar": lambda opener, node: opener.array(node["v"])[()],
    "objects": Opener.objects,
    "arrow": Opener.arrow,
    "frame": Opener.frame,
    "series": Opener.series,
    "index": Opener.index,
    "rangeindex": Opener.index,
    "multiindex": Opener.index,
    "category": Opener.column,
    "zoned": Opener.column,
    "nullable": Opener.column,
    "missing": Opener.column,
    "timestamp": Opener.column,
    "pickle": Opener.unpickled,
}
