"""Checkpoints that harm by what they declare: archives, tensors, pickles, safetensors, no files.

Each entry writes one file; ``path`` is where, ``canary`` a file that nothing may make.
"""

import io
import json
import os
import pickle
import tarfile
import zipfile
from collections import Counter, OrderedDict

import torch
from hostile import LAYOUTS, PICKLES, Call, as_zip, dumps, system

HUGE = 1 << 40
MAGIC = dumps(0x1950A86A20F9469CFC6C)


class Storage:
    """Pickles as torch's reference to a storage."""

    def __init__(self, length, key="0", kind=torch.FloatStorage, view=()):
        self.reference = ("storage", kind, key, "cpu", length, *view)


class Pickler(pickle.Pickler):
    def persistent_id(self, value):
        return value.reference if isinstance(value, Storage) else None


def with_storages(value):
    file = io.BytesIO()
    Pickler(file, protocol=2).dump(value)
    return file.getvalue()


def tensor(length, size, stride, offset=0, hooks=None, rest=(), **storage):
    hooks = OrderedDict() if hooks is None else hooks
    make = torch._utils._rebuild_tensor_v2
    return Call(make, Storage(length, **storage), offset, size, stride, False, hooks, *rest)


def archive(path, value, records=None, **options):
    """Write a zip archive; ``value`` may be a pickle's bytes."""
    pickled = value if isinstance(value, bytes) else with_storages({"state_dict": value})
    with zipfile.ZipFile(path, "w", **options) as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/version", "3\n")
        for name, content in (records or {"data/0": b"\0" * 16}).items():
            file.writestr(f"archive/{name}", content)


def legacy(path, value, keys=("0",), content=b"\4" + b"\0" * 23):
    info = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    head = MAGIC + dumps(1001) + dumps(info)
    pickled = value if isinstance(value, bytes) else with_storages({"state_dict": value})
    path.write_bytes(head + pickled + dumps(list(keys)) + content)


def in_archive(value, **records):
    return lambda path, canary: archive(path, value, **records)


def in_legacy(value, **options):
    return lambda path, canary: legacy(path, value, **options)


def patched(path, old, new, last=False):
    content = path.read_bytes()
    assert old in content
    before, after = content.rsplit(old, 1) if last else content.split(old, 1)
    path.write_bytes(before + new + after)


def compressed(path, canary):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        with file.open("archive/data.pkl", "w") as entry:
            entry.write(b"\x80\x02]q\x00")
            for _ in range(400):
                entry.write(b"0" * (1 << 20))
        file.writestr("archive/version", "3\n")


def compressed_tensor(path, canary):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", with_storages({"a": tensor(100 << 20, (1,), (1,))}))
        file.writestr("archive/version", "3\n")
        with file.open("archive/data/0", "w") as entry:
            for _ in range(400):
                entry.write(b"\0" * (1 << 20))


def many_entries(path, canary):
    archive(path, {}, {f"data/{index}": b"" for index in range(20_000)})


def overlapping(path, canary):
    """Ten thousand names for the same megabyte."""
    file = zipfile.ZipFile(path, "w")
    file.writestr("archive/data.pkl", dumps({}))
    file.writestr("archive/version", "3\n")
    file.writestr("archive/data/0", b"\0" * (1 << 20))
    first = file.filelist[-1]
    for index in range(1, 10_000):
        again = zipfile.ZipInfo(f"archive/data/{index}")
        again.header_offset, again.CRC = first.header_offset, first.CRC
        again.file_size = again.compress_size = first.file_size
        file.filelist.append(again)
    file._didModify = True
    file.close()


def record_longer_than_file(path, canary):
    archive(path, {"a": tensor(4, (4,), (1,))})
    size = (16).to_bytes(4, "little")
    patched(path, size + size, (1 << 30).to_bytes(4, "little") * 2, last=True)


def two_of_a_name(path, canary):
    archive(path, {}, {"data/0": b"", "DATA/0": b""})


def traversal(path, canary):
    archive(path, {}, {f"../../../../../..{canary}": b"x", f"/..{canary}": b"x"})


def two_directories(path, canary):
    """A harmless archive for readers that allow for what stands before it, before a hostile one."""
    as_zip(path, dumps(system(canary)))
    hostile = path.read_bytes()
    as_zip(path, dumps({}))
    path.write_bytes(hostile + path.read_bytes())


def torchscript(path, canary):
    archive(path, {}, {"constants.pkl": dumps(()), "code/a.py": b"import os"})


def tar_that_begins_as_a_pickle(path, canary):
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as file:
        link = tarfile.TarInfo("storages")
        link.type, link.linkname = tarfile.SYMTYPE, "/dev/zero"
        file.addfile(link)
    head = bytearray(path.read_bytes())
    head[: len(MAGIC)] = MAGIC
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head[:512])
    path.write_bytes(head)


def laughs(make, levels=60):
    """Each level holds the one before twice."""
    value = make("ha", "ha")
    for _ in range(levels):
        value = make(value, value)
    return dumps({"state_dict": {}, "meta": {"epoch": value, "iter": value}})


def copies(code, number):
    """``number`` calls of a memoised function on a memoised list of 50,000 numbers."""
    listed = b"]q\x01(" + b"K\x01" * 50_000 + b"e0"
    return b"\x80\x02" + code + b"q\x020" + listed + b"](" + b"h\x02h\x01\x85R" * number + b"e."


def colliding():
    keys = (b"\x8a\x0a" + (k * (2**61 - 1)).to_bytes(10, "little") + b"N" for k in range(20_000))
    return b"\x80\x02}(" + b"".join(keys) + b"u."


def deep_key(levels=150_000):
    return b"\x80\x02})" + b"\x85" * levels + b"Ns."


def rebuild(name, *arguments):
    return Call(getattr(torch._utils, f"_rebuild_{name}"), *arguments)


def safetensors(path, header, content=b"", declared=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(text) if declared is None else declared
    path.write_bytes(length.to_bytes(8, "little") + text + content)


def in_safetensors(header, content=b"\0" * 16, declared=None):
    return lambda path, canary: safetensors(path, header, content, declared)


def entry(shape, *offsets, kind="F32"):
    return {"dtype": kind, "shape": shape, "data_offsets": offsets}


def long_header(path, canary):
    safetensors(path, b'{"a":' + b" " * (1 << 20), declared=(1 << 28) - 8)
    os.truncate(path, 1 << 28)  # sparse


def message_hub(path, canary):
    scalars = OrderedDict(loss=system(canary))
    as_zip(path, dumps({"state_dict": {}, "message_hub": {"log_scalars": scalars}}))


def from_table(name, layout):
    return lambda path, canary: LAYOUTS[layout](path, PICKLES[name](canary))


def content(text):
    return lambda path, canary: path.write_bytes(text)


def link_to(target):
    return lambda path, canary: path.symlink_to(target(path) if callable(target) else target)


float_tensor = tensor(4, (4,), (1,))
CODE = {
    "system_zip": from_table("os.system", "zip"),
    "system_legacy": from_table("os.system", "legacy"),
    "system_tar": from_table("os.system", "tar"),
    "in_meta": from_table("in_meta", "zip"),
    "in_optimizer": from_table("in_optimizer", "zip"),
    "in_message_hub": message_hub,
    "inst": from_table("inst", "zip"),
    "obj": from_table("obj", "zip"),
    "extension": from_table("extension", "zip"),
    "globals_of_getattr": from_table("getattr_globals", "zip"),
    "torchscript": torchscript,
    "two_directories": two_directories,
}
ARCHIVES = {
    "compressed_pickle": compressed,
    "compressed_tensor": compressed_tensor,
    "many_entries": many_entries,
    "overlapping_entries": overlapping,
    "record_longer_than_file": record_longer_than_file,
    "two_records_of_a_name": two_of_a_name,
    "path_traversal": traversal,
    "tar_that_begins_as_a_pickle": tar_that_begins_as_a_pickle,
}
TENSORS = {
    "storage_of_a_terabyte": in_archive({"a": tensor(HUGE // 4, (HUGE // 4,), (1,))}),
    "storage_longer_than_its_record": in_archive({"a": tensor(1 << 20, (1 << 20,), (1,))}),
    "storage_without_record": in_archive({"a": tensor(4, (4,), (1,), key="7")}),
    "storage_key_with_path": in_archive({"a": tensor(4, (4,), (1,), key="../version")}),
    "storage_of_negative_length": in_archive({"a": tensor(-4, (4,), (1,))}),
    "storage_of_two_lengths": in_archive({"a": float_tensor, "b": tensor(2, (2,), (1,))}),
    "tensor_longer_than_storage": in_archive({"a": tensor(4, (HUGE,), (1,))}),
    "offset_behind_storage": in_archive({"a": tensor(4, (4,), (1,), offset=1)}),
    "negative_offset": in_archive({"a": tensor(4, (4,), (1,), offset=-2)}),
    "negative_stride": in_archive({"a": tensor(4, (4,), (-1,), offset=3)}),
    "stride_beyond_storage": in_archive({"a": tensor(4, (2, 2), (1 << 61, 1))}),
    "overflowing_stride": in_archive({"a": tensor(4, (5, 2), (1 << 62, 1))}),
    "expanded_to_a_terabyte": in_archive({"linear.weight": tensor(1, (HUGE // 4,), (0,))}),
    "sizes_of_other_types": in_archive({"a": tensor(4, (4.0,), (True,))}),
    "a_million_dimensions": in_archive({"a": tensor(4, (1,) * 10**5, (1,) * 10**5)}),
    "hooks": in_archive({"a": tensor(4, (4,), (1,), hooks={0: len})}),
    "flags": in_archive({"a": tensor(4, (4,), (1,), rest=({"conj": True},))}),
    "no_storage": in_archive({"a": rebuild("tensor_v2", 4, 0, (4,), (1,), False, None)}),
    "quantised": in_archive({"a": rebuild("qtensor", Storage(4), 0, (HUGE,), (1,), (), 0, None)}),
    "sparse": in_archive({"a": rebuild("sparse_tensor", torch.float32, (1, 2, (HUGE,)))}),
    "meta": in_archive(
        {"a": rebuild("meta_tensor_no_storage", torch.float32, (HUGE,), (1,), False)}
    ),
    "wrapper": in_archive({"a": rebuild("wrapper_subclass", torch.float32, (9,), (1,), 0, 0)}),
    "parameter_with_state": in_archive(
        {"a": rebuild("parameter_with_state", float_tensor, True, OrderedDict(), {"numel": 1})}
    ),
    "state_of_a_tensor": in_archive(
        {"a": Call(torch._utils._rebuild_tensor, Storage(4), 0, (4,), (1,), state=(1, HUGE))}
    ),
    "new_storage": in_archive({"a": Call(torch.FloatStorage, HUGE)}),
    "new_untyped_storage": in_archive({"a": Call(torch.UntypedStorage, HUGE)}),
    "new_tensor": in_archive({"a": Call(torch.Tensor, HUGE)}),
    "new_parameter": in_archive({"a": Call(torch.nn.Parameter, HUGE)}),
    "new_bytearray": in_archive({"a": Call(bytearray, HUGE)}),
    "other_codec": in_archive({"a": Call(__import__("_codecs").encode, "a" * 10**5, "idna")}),
    "old_storage_of_a_terabyte": in_legacy({"a": tensor(HUGE, (1,), (1,), view=(None,))}),
    "old_storage_longer_than_file": in_legacy({"a": tensor(1 << 30, (1,), (1,), view=(None,))}),
    "old_storage_without_content": in_legacy(
        {"a": tensor(1 << 20, (4,), (1,), view=(None,))}, keys=(), content=b"\0" * (4 << 20)
    ),
    "old_view_beyond_storage": in_legacy({"a": tensor(4, (4,), (1,), view=(("v", 3, 4),))}),
    "old_reference_to_a_module": in_legacy(b"\x80\x02(X\x06\0\0\0moduleNN)tQ."),
}
PICKLED = {
    "laughs_of_tuples": in_archive(laughs(lambda *pair: pair)),
    "laughs_of_lists": in_archive(laughs(lambda *pair: list(pair))),
    "laughs_of_dicts": in_archive(laughs(lambda a, b: {"a": a, "b": b})),
    "a_text_many_times": in_archive(dumps(["ha" * 10**6] * 1000)),
    "sets_many_times": in_archive(copies(b"cbuiltins\nset\n", 5000)),
    "lists_many_times": in_archive(copies(b"cbuiltins\nlist\n", 50_000)),
    "sizes_many_times": in_archive(copies(b"ctorch\nSize\n", 50_000)),
    "old_laughs": in_legacy(laughs(lambda *pair: pair)),
    "deep_lists": in_archive(b"\x80\x02" + b"]" * 150_000 + b"a" * 149_999 + b"."),
    "deep_tuples": in_archive(b"\x80\x02)" + b"\x85" * 150_000 + b"."),
    "deep_key": in_archive(deep_key()),
    "deep_key_of_counter": in_archive(
        b"\x80\x02ccollections\nCounter\n])" + b"\x85" * 150_000 + b"a\x85R."
    ),
    "keys_that_collide": in_archive(colliding()),
    "counted_collisions": in_archive(with_storages({"a": Call(Counter, [2**61 - 1] * 3)})),
    "long_of_2_GiB": in_archive(b"\x80\x02\x8b\xff\xff\xff\x7f."),
    "text_of_4_GiB": in_archive(b"\x80\x02X\xff\xff\xff\xff."),
    "old_text_of_4_GiB": in_legacy(b"\x80\x02X\xff\xff\xff\xff."),
    "bytes_of_an_exabyte": in_archive(b"\x80\x02\x8e" + b"\xff" * 7 + b"\x0f."),
    "frame_of_an_exabyte": in_archive(b"\x80\x04\x95" + b"\xff" * 7 + b"\x0f."),
    "endless_name": in_archive(b"\x80\x02c" + b"a" * (8 << 20)),
    "marks": in_archive(b"\x80\x02" + b"(" * 150_000 + b"."),
    "array_with_bignum_shape": in_archive(
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\x01b\x87R."
    ),
    "persistent_number": in_archive(b"\x80\x02K\x05Q."),
    "persistent_text": in_archive(b"\x80\x02X\x02\0\0\0osQ."),
    "reduce_of_an_instance": in_archive(b"\x80\x02K\x01)R."),
    "empty_stack": in_archive(b"\x80\x02R."),
}
SAFETENSORS = {
    "safetensors_long_header": long_header,
    "safetensors_header_beyond_file": in_safetensors({}, declared=1 << 62),
    "safetensors_overlapping": in_safetensors({"a": entry([4], 0, 16), "b": entry([4], 0, 16)}),
    "safetensors_out_of_range": in_safetensors({"a": entry([4], 16, 32)}),
    "safetensors_backwards": in_safetensors({"a": entry([4], 16, 0)}),
    "safetensors_huge_shape": in_safetensors({"a": entry([HUGE], 0, 16)}),
    "safetensors_overflowing_shape": in_safetensors({"a": entry([1 << 32, 1 << 32], 0, 0)}),
    "safetensors_negative": in_safetensors({"a": entry([-4], 0, 16)}),
    "safetensors_duplicate": in_safetensors(
        b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},'
        b'"a":{"dtype":"F32","shape":[2],"data_offsets":[0,16]}}'
    ),
    "safetensors_deep_json": in_safetensors(b'{"a":' + b"[" * 10**6 + b"]" * 10**6 + b"}"),
    "safetensors_metadata": in_safetensors(
        b'{"__metadata__":{"a":' + b'{"a":' * 10**5 + b"1" + b"}" * 10**5 + b"}}"
    ),
    "safetensors_unknown_type": in_safetensors({"a": entry([4], 0, 16, kind="PY")}),
    "safetensors_no_utf_8": in_safetensors(b'{"\xff\xfe":1}'),
    "safetensors_no_json": in_safetensors(b"{" + b"\0" * 64),
}
NO_FILES = {
    "pipe": lambda path, canary: os.mkfifo(path),
    "folder": lambda path, canary: path.mkdir(),
    "device": link_to("/dev/zero"),
    "terminal": link_to("/dev/tty"),
    "link_to_itself": link_to(lambda path: path.name),
    "link_to_nothing": link_to("nothing.pth"),
    "link_to_text": link_to("/etc/passwd"),
    "process_memory": link_to("/proc/self/mem"),
    "empty": content(b""),
    "web_page": content(b"<!DOCTYPE html><html><body>Sign in</body></html>"),
    "lfs_pointer": content(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    "text": content(b"not a checkpoint\n" * 1000),
    "gzip": content(b"\x1f\x8b\x08" + b"\0" * 1000),
}
FILES = {**CODE, **ARCHIVES, **TENSORS, **PICKLED, **SAFETENSORS, **NO_FILES}
# What holds nothing that harms whoever reads it as we do.
MAY_LOAD = {"many_entries", "path_traversal"}
