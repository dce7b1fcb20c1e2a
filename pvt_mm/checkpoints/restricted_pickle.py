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
from collections.abc import Callable
from functools import cache
from typing import IO, Any, ClassVar

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
_Instruction = Callable[[Any], None]
# The C reader does not let one choose its instructions, hence the one in Python.
_PLAIN: dict[int, _Instruction] = {
    code: pickle._Unpickler.dispatch[code]
    for code in (getattr(pickle, name)[0] for name in _OPCODES)
}

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


def _checked(check: _Instruction, *opcodes: bytes) -> dict[int, _Instruction]:
    """Let instructions run after a look at what they are about to do."""

    def guard(run: _Instruction) -> _Instruction:
        def check_and_run(reader: Any) -> None:
            check(reader)
            run(reader)

        return check_and_run

    return {code: guard(_PLAIN[code]) for (code,) in opcodes}


class Unpickler(pickle._Unpickler):
    """The reader; its interface is that of :class:`pickle.Unpickler`, which torch subclasses."""

    stack: list[Any]
    metastack: list[list[Any]]

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

    def _check_call(self) -> None:
        self._expect_known(self.stack[-2])

    def _build(self) -> None:
        target = self.stack[-2]
        if type(target) is OrderedDict:
            target.__dict__.update(self.stack.pop())
        elif isinstance(target, StandIn):
            target.__setstate__(self.stack.pop())
        else:
            raise RefusedCheckpointError(f"setting the state of a {type(target).__name__}")

    def _check_item(self) -> None:
        self._expect_type(self.stack[-3], dict, OrderedDict, Counter)
        check_key(self.stack[-2])

    def _check_items(self) -> None:
        self._expect_type(self.metastack[-1][-1], dict, OrderedDict, Counter)
        for key in self.stack[::2]:
            check_key(key)

    def _check_reference(self) -> None:
        reference = self.stack[-1]
        is_storage = type(reference) is tuple and reference[:1] in (("storage",), (b"storage",))
        if not is_storage and type(reference) is not int:
            raise RefusedCheckpointError(f"a reference to {reference!r:.80}")

    dispatch: ClassVar[dict[int, _Instruction]] = {
        **_PLAIN,
        **_checked(lambda reader: reader._check_call(), pickle.REDUCE, pickle.NEWOBJ),
        **_checked(lambda reader: reader._expect_type(reader.stack[-2], list), pickle.APPEND),
        **_checked(
            lambda reader: reader._expect_type(reader.metastack[-1][-1], list), pickle.APPENDS
        ),
        **_checked(_check_item, pickle.SETITEM),
        **_checked(_check_items, pickle.SETITEMS),
        **_checked(_check_reference, pickle.BINPERSID),
        pickle.BUILD[0]: lambda reader: reader._build(),
    }

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
