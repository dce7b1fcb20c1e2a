"""Checkpoints that try to execute something: pickles, and the two layouts of torch around them.

Each pickle is a callable that takes the path of a canary file and returns the bytes of a pickle;
if a reader executed it, the canary would exist.
"""

import os
import pickle
import pickletools
import zipfile
from collections import OrderedDict

import numpy as np
import torch
from mmengine.logging import HistoryBuffer


class Call:
    """Pickles as a call of ``function``."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


def dumps(value, protocol=2):
    return pickle.dumps(value, protocol=protocol)


def touch(canary):
    return f"open({str(canary)!r}, 'w').close()"


def system(canary):
    return Call(os.system, f"touch {canary}")


def by_opcodes(*lines):
    """Assemble a pickle by hand from the names and arguments of its instructions."""
    codes = {opcode.name: opcode.code.encode("latin1") for opcode in pickletools.opcodes}
    out = b"\x80\x02"
    for name, *arguments in lines:
        out += codes[name]
        if name in ("GLOBAL", "INST"):
            out += "\n".join(arguments).encode() + b"\n"
        elif name == "BINUNICODE":
            text = arguments[0].encode()
            out += len(text).to_bytes(4, "little") + text
        elif name == "SHORT_BINUNICODE":
            text = arguments[0].encode()
            out += len(text).to_bytes(1, "little") + text
        elif name == "BININT1":
            out += bytes(arguments)
    return out + b"."


def call_by_name(module, name, text):
    return by_opcodes(("GLOBAL", module, name), ("BINUNICODE", text), ("TUPLE1",), ("REDUCE",))


def dtype_state(state):
    """A float dtype whose pickled state says something else."""
    dtype = Call(np.dtype, "f8", False, True, state=state)
    raw = Call(
        np.zeros(0).__reduce__()[0], np.ndarray, (0,), b"b", state=(1, (1,), dtype, False, b"8" * 8)
    )
    return dumps({"state_dict": raw})


def history(state):
    return dumps(Call(HistoryBuffer.__new__, HistoryBuffer, state=state))


def getattr_of(owner, *names):
    value = owner
    for name in names:
        value = Call(getattr, value, name)
    return value


PICKLES = {
    "os.system": lambda canary: dumps(system(canary)),
    "in_meta": lambda canary: dumps({"state_dict": {}, "meta": {"a": [1, {"b": system(canary)}]}}),
    "in_optimizer": lambda canary: dumps(
        {"state_dict": {}, "optimizer": {"state": {0: {"exp_avg": system(canary)}}}}
    ),
    "as_key": lambda canary: dumps({system(canary): 1}),
    "in_ordered_dict_attribute": lambda canary: dumps(
        Call(OrderedDict, state={"_metadata": system(canary)})
    ),
    "eval": lambda canary: dumps(Call(eval, touch(canary))),
    "exec": lambda canary: dumps(Call(exec, touch(canary))),
    "python_2_name": lambda canary: call_by_name("__builtin__", "eval", touch(canary)),
    "open": lambda canary: dumps(Call(open, str(canary), "w")),
    "subprocess": lambda canary: call_by_name("subprocess", "getoutput", f"touch {canary}"),
    "runpy": lambda canary: call_by_name("runpy", "run_path", str(canary)),
    "numpy_runstring": lambda canary: by_opcodes(
        ("GLOBAL", "numpy.testing._private.utils", "runstring"),
        ("BINUNICODE", touch(canary)),
        ("EMPTY_DICT",),
        ("TUPLE2",),
        ("REDUCE",),
    ),
    "torch_hub": lambda canary: call_by_name("torch.hub", "load", str(canary)),
    "nested_torch_load": lambda canary: dumps(
        Call(torch.storage._load_from_bytes, dumps(system(canary)))
    ),
    "nested_pickle": lambda canary: dumps(Call(pickle.loads, dumps(system(canary)))),
    "inst": lambda canary: by_opcodes(
        ("MARK",), ("BINUNICODE", f"touch {canary}"), ("INST", "os", "system")
    ),
    "obj": lambda canary: by_opcodes(
        ("MARK",), ("GLOBAL", "os", "system"), ("BINUNICODE", f"touch {canary}"), ("OBJ",)
    ),
    "stack_global": lambda canary: dumps(system(canary), protocol=4),
    "stack_global_by_hand": lambda canary: by_opcodes(
        ("BINUNICODE", "os"),
        ("BINUNICODE", "system"),
        ("STACK_GLOBAL",),
        ("BINUNICODE", f"touch {canary}"),
        ("TUPLE1",),
        ("REDUCE",),
    ),
    "extension": lambda canary: b"\x80\x02\x82\x01.",
    "getattr_globals": lambda canary: dumps(getattr_of(HistoryBuffer, "mean", "__globals__")),
    "getattr_init_globals": lambda canary: dumps(
        getattr_of(HistoryBuffer, "__init__", "__globals__")
    ),
    "getattr_reduce": lambda canary: dumps(getattr_of(HistoryBuffer, "__reduce__")),
    "getattr_subclasses": lambda canary: dumps(getattr_of(HistoryBuffer, "__subclasses__")),
    "getattr_update": lambda canary: dumps(getattr_of(HistoryBuffer, "update")),
    "getattr_of_module_function": lambda canary: dumps(getattr_of(np.dtype, "type")),
    "getattr_of_text": lambda canary: dumps(getattr_of("text", "mean")),
    "call_what_getattr_gave": lambda canary: by_opcodes(
        ("GLOBAL", "builtins", "getattr"),
        ("GLOBAL", "mmengine.logging.history_buffer", "HistoryBuffer"),
        ("BINUNICODE", "mean"),
        ("TUPLE2",),
        ("REDUCE",),
        ("EMPTY_TUPLE",),
        ("REDUCE",),
    ),
    "state_of_a_class": lambda canary: by_opcodes(
        ("GLOBAL", "mmengine.logging.history_buffer", "HistoryBuffer"),
        ("NONE",),
        ("EMPTY_DICT",),
        ("BINUNICODE", "mean"),
        ("GLOBAL", "builtins", "list"),
        ("SETITEM",),
        ("TUPLE2",),
        ("BUILD",),
    ),
    "state_of_a_function": lambda canary: by_opcodes(
        ("GLOBAL", "builtins", "getattr"), ("EMPTY_DICT",), ("BUILD",)
    ),
    "object_array": lambda canary: dumps({"a": np.array([system(canary)], dtype=object)}),
    "object_dtype": lambda canary: dumps({"a": np.array([None], dtype=object)}),
    "structured_dtype": lambda canary: dumps({"a": np.zeros(1, dtype=[("x", "O")])}),
    "dtype_with_object_fields": lambda canary: dtype_state(
        (3, "<", None, ("a",), {"a": (Call(np.dtype, "O", False, True), 0)}, -1, -1, 63)
    ),
    "dtype_with_object_subarray": lambda canary: dtype_state(
        (3, "<", (Call(np.dtype, "O", False, True), (4,)), None, None, -1, -1, 0)
    ),
    "dtype_with_other_size": lambda canary: dtype_state((3, "<", None, None, None, 8000, 8, 0)),
    "array_longer_than_its_bytes": lambda canary: dumps(
        Call(
            np.zeros(0).__reduce__()[0],
            np.ndarray,
            (0,),
            b"b",
            state=(1, (10**6,), np.dtype("f8"), False, b"8" * 8),
        )
    ),
    "reconstruct_another_class": lambda canary: by_opcodes(
        ("GLOBAL", "numpy.core.multiarray", "_reconstruct"),
        ("GLOBAL", "builtins", "list"),
        ("EMPTY_TUPLE",),
        ("NONE",),
        ("TUPLE3",),
        ("REDUCE",),
    ),
}

SHOULD_NAME = {
    "os.system": "posix.system",
    "in_meta": "posix.system",
    "in_optimizer": "posix.system",
    "as_key": "posix.system",
    "in_ordered_dict_attribute": "posix.system",
    "eval": "builtins.eval",
    "exec": "builtins.exec",
    "open": "io.open",
    "subprocess": "subprocess.getoutput",
    "runpy": "runpy.run_path",
    "numpy_runstring": "numpy.testing._private.utils.runstring",
    "torch_hub": "torch.hub.load",
    "nested_torch_load": "torch.storage._load_from_bytes",
    "nested_pickle": "pickle.loads",
    "inst": "os.system",
    "stack_global": "posix.system",
    "stack_global_by_hand": "os.system",
    "getattr_globals": "getattr",
    "getattr_init_globals": "__init__",
    "getattr_reduce": "__reduce__",
    "object_dtype": "numpy.dtype",
    "dtype_with_other_size": "numpy.dtype",
}


def as_zip(path, pickled):
    """Write the layout of torch >= 1.6 around a pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
    return path


def as_legacy(path, pickled):
    """Write the layout of torch < 1.6 around a pickle."""
    system_info = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    head = [0x1950A86A20F9469CFC6C, 1001, system_info]
    path.write_bytes(b"".join(map(dumps, head)) + pickled + dumps([]))
    return path


def as_tar(path, pickled):
    """Write the layout of torch < 0.1.10 around a pickle."""
    import io
    import tarfile

    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("pickle", "storages", "tensors"):
            info = tarfile.TarInfo(name)
            info.size = len(pickled)
            archive.addfile(info, io.BytesIO(pickled))
    return path


LAYOUTS = {"zip": as_zip, "legacy": as_legacy, "tar": as_tar}
