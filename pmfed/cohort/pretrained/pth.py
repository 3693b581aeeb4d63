"""Tensors out of a file that ``torch.save`` wrote before its format was a zip, without running any of it.

Such a file is five pickles and then raw numbers. Loading a pickle runs whatever it names, and even torch's restricted
loader (``weights_only=True``) is a machine that runs pickles. Nothing here does: ``pickletools.genops`` only spells out
the operations, and of these the few that describe a dictionary of plain tensors are followed. Names of classes are
compared as text with a list of four and never looked up; any other name or operation ends the reading. The caller has
compared the SHA-256 of the file with a pinned one before, so a file that ends here was not even meant to be read.
"""

from __future__ import annotations

import io
import math
import pickletools
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001
KINDS = {"torch FloatStorage": "<f4", "torch LongStorage": "<i8"}
ORDERED = "collections OrderedDict"
TENSOR = "torch._utils _rebuild_tensor_v2"

_MARK = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {"LONG1", "BININT", "BININT1", "BININT2", "BINUNICODE"}
_NAMES = {*KINDS, ORDERED, TENSOR}


class _Named(str):
    """The name of a class or function, which stays a name."""


class _Stored(tuple[str, str]):
    """Key and kind of a run of raw numbers."""


class _Tensor(tuple[_Stored, int, tuple[int, ...], tuple[int, ...]]):
    """Where a tensor lies: storage, offset, size, strides."""


def read_pth(content: bytes) -> dict[str, NDArray[Any]]:
    """Return the tensors of a state dictionary by name.

    Raises
    ------
    ValueError
        It is anything else than a dictionary of float32 and int64 tensors in this format.
    """
    file = io.BytesIO(content)
    try:
        magic, version, _, state, keys = (_Pickle(file).described() for _ in range(5))
        if magic != MAGIC or version != VERSION:
            raise ValueError("not a file of that format")
        stored = {tensor[0][0]: KINDS[tensor[0][1]] for tensor in state.values()}
        raw = {key: _numbers(file, np.dtype(stored[key])) for key in keys}
        if file.read(1):
            raise ValueError("something follows the numbers")
        return {name: _placed(tensor, raw) for name, tensor in state.items()}
    except (KeyError, IndexError, TypeError, AttributeError) as error:  # a description of something else
        raise ValueError(f"not a dictionary of tensors ({type(error).__name__})") from None


def _numbers(file: io.BytesIO, kind: np.dtype[Any]) -> NDArray[Any]:
    count = int.from_bytes(file.read(8), "little")
    if count * kind.itemsize > file.getbuffer().nbytes - file.tell():
        raise ValueError("the file is cut off")
    return np.frombuffer(file.read(count * kind.itemsize), kind)


def _placed(tensor: Any, raw: dict[str, NDArray[Any]]) -> NDArray[Any]:
    if not isinstance(tensor, _Tensor):
        raise ValueError("a value is no tensor")
    (key, _), offset, size, strides = tensor
    last = offset + sum((length - 1) * step for length, step in zip(size, strides, strict=True))
    values = raw[key]
    if min((offset, *strides)) < 0 or min((1, *size)) < 1 or max(last + 1, math.prod(size)) > len(values):
        raise ValueError("a tensor lies outside its numbers")
    steps = tuple(step * values.itemsize for step in strides)
    return np.lib.stride_tricks.as_strided(values[offset:], size, steps, writeable=False).copy()


class _Pickle:
    """One pickle, described: what it would build, out of literals, names and tensors."""

    def __init__(self, file: io.BytesIO) -> None:
        self._file = file
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def described(self) -> Any:
        """Read to the end of the pickle and return what it describes."""
        for operation, argument, _ in pickletools.genops(self._file):
            if operation.name == "STOP":
                return self._stack.pop()
            self._follow(operation.name, argument)
        raise ValueError("the file is cut off")

    def _follow(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"):
            stack.append({"EMPTY_DICT": {}, "EMPTY_LIST": [], "EMPTY_TUPLE": ()}[name])
        elif name == "TUPLE":
            stack.append(tuple(self._marked()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack[-int(name[-1]) :] = [tuple(stack[-int(name[-1]) :])]
        elif name == "APPENDS":
            items = self._marked()
            stack[-1].extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self._marked() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif name == "GLOBAL":
            if argument not in _NAMES:
                raise ValueError("it names something that is no tensor")
            stack.append(_Named(argument))
        elif name == "BINPERSID":
            self._storage()
        elif name == "REDUCE":
            self._tensor()
        elif name == "BUILD":
            stack.pop()  # attributes of the dictionary (versions of its modules), which nothing here needs
        elif name != "PROTO":
            raise ValueError(f"it holds the operation {name}")

    def _marked(self) -> list[Any]:
        place = max(place for place, item in enumerate(self._stack) if item is _MARK)
        items = self._stack[place + 1 :]
        del self._stack[place:]
        return items

    def _storage(self) -> None:
        word, kind, key, *_ = self._stack.pop()
        if word != "storage" or kind not in KINDS:
            raise ValueError("it refers to something that is no storage")
        self._stack.append(_Stored((key, kind)))

    def _tensor(self) -> None:
        arguments, name = self._stack.pop(), self._stack.pop()
        if not isinstance(name, _Named):
            raise ValueError("it calls something that is no name")
        if name == ORDERED and arguments == ():
            self._stack.append({})
        elif name == TENSOR and isinstance(arguments[0], _Stored):
            self._stack.append(_Tensor(arguments[:4]))
        else:
            raise ValueError("it calls something that makes no tensor")
