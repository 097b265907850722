"""The ground truth of revisited Oxford and Paris, read from its pickles while nothing in them runs."""

import io
import math
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ibot_hub.errors import UsageError

MAX_BYTES = 1 << 26  # the published files have less than one megabyte
NUMBERS = frozenset({"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"})  # NumPy's
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels


@dataclass(frozen=True)
class Query:
    """One query: what is asked for, and which images of the gallery show it."""

    name: str
    box: Box | None  # of the image that is asked for; None: all of it
    easy: tuple[int, ...]  # places in the gallery: it is seen well
    hard: tuple[int, ...]  # it is seen badly
    junk: tuple[int, ...]  # neither right nor wrong


@dataclass(frozen=True)
class GroundTruth:
    """What is asked of which images; names have no extension."""

    images: tuple[str, ...]  # the gallery
    queries: tuple[Query, ...]


def read_ground_truth(file: str | Path) -> GroundTruth:
    """The ground truth of a `gnd_roxford5k.pkl` or `gnd_rparis6k.pkl`, or of a file made in their form.

    It is a pickled dict with `imlist` and `qimlist`, names without extension, and `gnd`, a dict for each query with `easy`, `hard`
    and `junk`, places in `imlist` from 0 on, and optionally `bbx`, left, top, right and bottom. Numbers may be NumPy's. A pickle can
    ask for any function of Python; this one is given nothing but containers, strings and numbers.

    Raises:
        UsageError: no such file, one that asks for something else, or one in another form.
    """
    try:
        with Path(file).open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"The ground truth {file} cannot be read: {error.strerror}.") from error
    if len(data) > MAX_BYTES:
        raise UsageError(f"{file} has more than {MAX_BYTES} bytes; a ground truth has far fewer.")
    try:
        content = _plain(_PlainUnpickler(io.BytesIO(data), encoding="latin1").load())
    except _Refused as error:
        raise UsageError(f"{file} asks for {error}, which no ground truth needs; nothing in it was run.") from error
    except Exception as error:  # damaged pickles raise anything
        raise UsageError(f"{file} is no pickle of plain numbers and names ({type(error).__name__}: {error}).") from error
    try:
        return _ground_truth(content)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise UsageError(f"{file} is no ground truth of revisited Oxford or Paris: {reason}.") from error


def _ground_truth(content: Any) -> GroundTruth:
    if not isinstance(content, Mapping):
        raise TypeError(f"it holds a {type(content).__name__}, not a dict")
    images, names, truths = (_sequence(content[key], key) for key in ("imlist", "qimlist", "gnd"))
    for name in (*images, *names):
        if not isinstance(name, str):
            raise TypeError(f"{name!r} is no name of an image")
    if not names or len(names) != len(truths):
        raise ValueError(f"qimlist has {len(names)} queries and gnd {len(truths)}")
    return GroundTruth(tuple(images), tuple(_query(name, truth, len(images)) for name, truth in zip(names, truths, strict=True)))


def _query(name: str, truth: Any, images: int) -> Query:
    if not isinstance(truth, Mapping):
        raise TypeError(f"what gnd has for {name} is a {type(truth).__name__}, not a dict")
    if "easy" not in truth and "ok" in truth:
        raise ValueError("it has ok where the revisited one has easy and hard, so it is of the first version of the benchmark")
    places = {key: tuple(_place(value, images, name) for value in _sequence(truth[key], key)) for key in ("easy", "hard", "junk")}
    box = None if truth.get("bbx") is None else tuple(float(value) for value in _sequence(truth["bbx"], "bbx"))
    if box is None:
        return Query(name, None, **places)
    if len(box) != 4 or not all(map(math.isfinite, box)) or box[2] <= box[0] or box[3] <= box[1]:
        raise ValueError(f"the bbx of {name} is {list(box)}, not left, top, right and bottom")
    return Query(name, (box[0], box[1], box[2], box[3]), **places)


def _place(value: Any, images: int, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or not 0 <= value < images:
        raise ValueError(f"{value!r} of {name} is no place among {images} images")
    return int(value)


def _sequence(value: Any, key: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"{key} is a {type(value).__name__}, not a list")
    return value


class _Refused(Exception):
    """A pickle asks for something of Python that it is not given."""


class _PlainUnpickler(pickle.Unpickler):
    """Reads containers, strings and numbers; arrays of NumPy's numbers come as stand-ins, so that no code of NumPy sees the file."""

    def find_class(self, module: str, name: str) -> Any:
        """What a pickle of NumPy's numbers asks for, replaced by what is harmless. Raises _Refused for anything else."""
        found = _STAND_INS.get((module.replace("numpy._core", "numpy.core"), name))
        if found is None:
            raise _Refused(f"{module}.{name}")
        return found

    def persistent_load(self, pid: Any) -> Any:
        """Raises _Refused."""
        raise _Refused(f"the outside object {pid!r}")


@dataclass
class _Dtype:
    """A type of numbers."""

    code: str  # "i8"
    order: str = "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = "<" if state[1] in ("<", "|", "=") else ">"

    def numbers(self, data: Any) -> np.ndarray[Any, Any]:
        """The numbers [n] that bytes hold."""
        if self.code not in NUMBERS:
            raise _Refused(f"an array of type {self.code!r}")
        return np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, self.order + self.code)


@dataclass
class _Array:
    """An array as nested lists, once the pickle has filled it."""

    values: Any = field(default_factory=list)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, by_column, data = state
        self.values = dtype.numbers(data).reshape(shape, order="F" if by_column else "C").tolist()


def _array_of(data: Any, dtype: _Dtype, shape: tuple[int, ...], order: str) -> _Array:
    """What NumPy asks for in the newest pickles."""
    return _Array(dtype.numbers(data).reshape(shape, order="F" if order == "F" else "C").tolist())


_STAND_INS: Mapping[tuple[str, str], Any] = {
    ("numpy", "ndarray"): lambda *_: _Array(),
    ("numpy.core.multiarray", "_reconstruct"): lambda *_: _Array(),
    ("numpy.core.numeric", "_frombuffer"): _array_of,
    ("numpy", "dtype"): lambda code, *_: _Dtype(code),
    ("numpy.core.multiarray", "scalar"): lambda dtype, data: dtype.numbers(data)[0].item(),
    ("_codecs", "encode"): lambda text, *_: text.encode("latin1"),  # how bytes stand in old pickles, and
    ("__builtin__", "bytes"): lambda *_: b"",  # how none do
}


def _plain(value: Any) -> Any:
    """The same with lists where arrays are."""
    if isinstance(value, _Array):
        return value.values
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
