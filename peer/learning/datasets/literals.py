"""Reads the plain data in a Python pickle without running any of it.

`pickle.load` calls whatever a file names. Here the opcodes are read one by one, and what is not a dict,
list, tuple, string, bytes, number or numpy uint8 array is refused:
https://docs.python.org/3/library/pickletools.html.
"""

import pickletools
from typing import Any

import numpy as np
import numpy.typing as npt

from peer.errors import DatasetError

_RECONSTRUCT = {"numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct"}
_DTYPE = "numpy dtype"
_GLOBALS = _RECONSTRUCT | {_DTYPE, "numpy ndarray"}

_VALUES = {
    "BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "BINFLOAT",
    "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
}  # fmt: skip
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_IGNORED = {"PROTO", "FRAME", "STOP"}


class _Global(str):
    """One of the allowed names; nothing is imported."""


class _UnsignedBytes:
    """numpy's dtype of unsigned bytes."""


class _Array:
    """An array between its REDUCE, which names it, and its BUILD, which brings its shape and bytes."""

    content: npt.NDArray[np.uint8] | None = None


class _Mark:
    """Where a list of arguments begins."""


def read(content: bytes, where: str) -> Any:
    """Return the value that a pickle of plain data describes. Strings of Python 2 become str, as Latin-1.

    Args:
        content: the whole pickle.
        where: named in errors.

    Raises:
        DatasetError: damaged, or it names anything beyond plain data and uint8 arrays; nothing was run or
            imported.
    """
    machine = _Machine(where)
    try:
        for opcode, argument, _ in pickletools.genops(content):
            machine.step(opcode.name, argument)
        (value,) = machine.stack
        return _finished(value)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{where} is damaged: {error}; get it again") from error


class _Machine:
    def __init__(self, where: str) -> None:
        self.stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._where = where

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name.startswith("EMPTY_"):
            stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[name]())
        elif name == "MARK":
            stack.append(_Mark())
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            self._push_global(argument)
        elif name not in _IGNORED:
            self._combine(name)

    def _combine(self, name: str) -> None:
        stack = self.stack
        if name.startswith("TUPLE"):
            items = (
                self._since_mark() if name == "TUPLE" else [stack.pop() for _ in range(int(name[5:]))][::-1]
            )
            stack.append(tuple(items))
        elif name in ("APPEND", "APPENDS"):
            items = self._since_mark() if name == "APPENDS" else [stack.pop()]
            list.extend(stack[-1], items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self._since_mark() if name == "SETITEMS" else [stack.pop() for _ in range(2)][::-1]
            dict.update(stack[-1], zip(items[::2], items[1::2], strict=True))
        elif name == "REDUCE":
            arguments = stack.pop()
            stack.append(self._reduced(stack.pop(), arguments))
        elif name == "BUILD":
            state = stack.pop()
            if isinstance(stack[-1], _Array):
                stack[-1].content = _array(state)
            elif not isinstance(stack[-1], _UnsignedBytes):
                raise self._refusal("BUILD")
        else:
            raise self._refusal(name)

    def _since_mark(self) -> list[Any]:
        items: list[Any] = []
        while not isinstance(item := self.stack.pop(), _Mark):
            items.append(item)
        return items[::-1]

    def _push_global(self, argument: str | None) -> None:
        if argument is None:
            name = self.stack.pop()
            argument = f"{self.stack.pop()} {name}"
        if argument not in _GLOBALS:
            raise self._refusal(argument[:80])
        self.stack.append(_Global(argument))

    def _reduced(self, function: Any, arguments: Any) -> "_Array | _UnsignedBytes":
        if isinstance(function, _Global) and function in _RECONSTRUCT:
            return _Array()
        if isinstance(function, _Global) and function == _DTYPE and arguments[0] in ("u1", b"u1", "|u1"):
            return _UnsignedBytes()
        raise self._refusal(f"{str(function)[:80]}{str(arguments)[:80]}")

    def _refusal(self, what: str) -> DatasetError:
        return DatasetError(
            f"{self._where} is not plain data: it asks for {what!r}, which peerless does not run"
        )


def _array(state: Any) -> npt.NDArray[np.uint8]:
    _, shape, dtype, is_fortran, content = state
    if not isinstance(dtype, _UnsignedBytes) or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("an array is not of unsigned bytes")
    raw = content.encode("latin-1") if isinstance(content, str) else content
    return np.frombuffer(raw, dtype=np.uint8).reshape(shape, order="F" if is_fortran else "C")


def _finished(value: Any) -> Any:
    """Return the value with arrays in place of their stand-ins, in dicts of one level as data batches are."""
    if isinstance(value, dict):
        return {key: _finished(item) if isinstance(item, _Array) else item for key, item in value.items()}
    if isinstance(value, (_Global, _UnsignedBytes, _Mark)):
        raise ValueError("it describes no value")
    return value.content if isinstance(value, _Array) else value
