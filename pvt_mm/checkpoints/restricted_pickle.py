"""A pickle reader with an allow-list, for torch 2.1 to 2.5.

There ``torch.load(weights_only=True)`` takes no allow-list of ours, so that it cannot read what
mmengine saves. This module serves as its ``pickle_module`` instead. Like torch's own restricted
reader it knows the few instructions that ``torch.save`` writes and calls, builds and fills only
what the allow-list names.
"""

from __future__ import annotations

import pickle
from _codecs import encode
from collections import Counter, OrderedDict
from functools import cache
from typing import IO, Any

import torch

from pvt_mm.checkpoints.stand_ins import ALLOWED, StandIn
from pvt_mm.errors import RefusedCheckpointError

__all__ = ["Unpickler", "check_key", "full_name", "known_globals", "load"]

_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # as protocol 2 still writes them
_OPCODES = """
    PROTO STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE
    SHORT_BINSTRING EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS
    EMPTY_DICT SETITEM SETITEMS EMPTY_SET BINGET LONG_BINGET BINPUT LONG_BINPUT
    GLOBAL NEWOBJ REDUCE BUILD BINPERSID
""".split()  # noqa: SIM905


_KEYS = (str, bytes, float, bool, type(None), torch.dtype)
_LARGEST_INT_KEY = 1 << 32


def check_key(key: Any) -> None:
    """Refuse keys of a dict or set that cannot be hashed safely or can be made to collide."""
    for part in key if type(key) is tuple else (key,):
        if type(part) not in _KEYS and not (type(part) is int and abs(part) <= _LARGEST_INT_KEY):
            raise RefusedCheckpointError(f"a {type(part).__name__} as key")


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":  # what pickle uses for bytes; other codecs may inflate
        raise RefusedCheckpointError(f"_codecs.encode to {encoding!r:.80}")
    return encode(text, encoding)


def full_name(module: str, name: str) -> str:
    """Join what a pickle says of a function or class, in Python 3's words."""
    return f"{_PYTHON_2.get(module, module)}.{name}"


@cache
def known_globals() -> dict[str, Any]:
    """The names that a checkpoint may use, with what each stands for here."""
    known = {
        "collections.OrderedDict": OrderedDict,
        "collections.Counter": Counter,
        "builtins.set": set,
        "builtins.complex": complex,
        "builtins.bytearray": bytearray,
        "_codecs.encode": _encode,
        "torch.nn.parameter.Parameter": torch.nn.Parameter,
        "torch.Size": torch.Size,
        "torch.device": torch.device,
    }
    for name in ("tensor", "tensor_v2", "tensor_v3", "parameter"):
        if hasattr(torch._utils, f"_rebuild_{name}"):  # v3 is younger than torch 2.1
            known[f"torch._utils._rebuild_{name}"] = getattr(torch._utils, f"_rebuild_{name}")
    for name, value in vars(torch).items():
        is_storage = name.endswith("Storage") and isinstance(value, type)
        if name == "TypedStorage":  # the base class
            continue
        if is_storage or isinstance(value, torch.dtype):
            known[f"torch.{name}"] = value
    known["torch.storage.UntypedStorage"] = torch.UntypedStorage
    return known | ALLOWED


class Unpickler(pickle._Unpickler):
    """The reader; its interface is that of :class:`pickle.Unpickler`, which torch subclasses."""

    # The C reader does not let one choose its instructions, hence the one in Python.
    dispatch = {
        code: pickle._Unpickler.dispatch[code]
        for code in (getattr(pickle, name)[0] for name in _OPCODES)
    }

    def __init__(self, file: IO[bytes], **options: Any) -> None:
        super().__init__(file, **options)
        self.known = known_globals()

    def load(self) -> Any:
        """Read one object."""
        try:
            return super().load()
        except KeyError as error:
            raise pickle.UnpicklingError(f"unexpected instruction or reference {error}") from None

    def find_class(self, module: str, name: str) -> Any:
        """Look a name up in the allow-list, importing nothing."""
        wanted = full_name(module, name)
        if wanted not in self.known:
            raise RefusedCheckpointError(wanted)
        return self.known[wanted]

    def _reduce(self) -> None:
        self._expect_known(self.stack[-2])
        super().load_reduce()

    dispatch[pickle.REDUCE[0]] = _reduce

    def _newobj(self) -> None:
        self._expect_known(self.stack[-2])
        super().load_newobj()

    dispatch[pickle.NEWOBJ[0]] = _newobj

    def _build(self) -> None:
        target = self.stack[-2]
        if type(target) is OrderedDict:
            target.__dict__.update(self.stack.pop())
        elif isinstance(target, StandIn):
            target.__setstate__(self.stack.pop())
        else:
            raise RefusedCheckpointError(f"setting the state of a {type(target).__name__}")

    dispatch[pickle.BUILD[0]] = _build

    def _append(self) -> None:
        self._expect_type(self.stack[-2], list)
        super().load_append()

    dispatch[pickle.APPEND[0]] = _append

    def _appends(self) -> None:
        self._expect_type(self.metastack[-1][-1], list)
        super().load_appends()

    dispatch[pickle.APPENDS[0]] = _appends

    def _setitem(self) -> None:
        self._expect_type(self.stack[-3], dict, OrderedDict, Counter)
        check_key(self.stack[-2])
        super().load_setitem()

    dispatch[pickle.SETITEM[0]] = _setitem

    def _setitems(self) -> None:
        self._expect_type(self.metastack[-1][-1], dict, OrderedDict, Counter)
        for key in self.stack[::2]:
            check_key(key)
        super().load_setitems()

    dispatch[pickle.SETITEMS[0]] = _setitems

    def _binpersid(self) -> None:
        reference = self.stack[-1]
        is_storage = type(reference) is tuple and reference[:1] in (("storage",), (b"storage",))
        if not is_storage and type(reference) is not int:
            raise RefusedCheckpointError(f"a reference to {reference!r:.80}")
        super().load_binpersid()

    dispatch[pickle.BINPERSID[0]] = _binpersid

    def _expect_known(self, function: Any) -> None:
        # By identity, because what the file made may compare equal to anything. The storage types
        # are torch's own: its subclass of this reader makes them, and they cannot be called.
        if not any(function is known for known in self.known.values()) or not callable(function):
            raise RefusedCheckpointError(f"calling a {type(function).__name__}")

    @staticmethod
    def _expect_type(container: Any, *types: type) -> None:
        if type(container) not in types:
            raise RefusedCheckpointError(f"filling a {type(container).__name__}")


def load(file: IO[bytes], *, encoding: str = "ASCII", **_: Any) -> Any:
    """Read one object, as :func:`pickle.load` does."""
    return Unpickler(file, encoding=encoding).load()
