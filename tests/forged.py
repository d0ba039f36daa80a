"""Forged and damaged model files: each by a seed and a mutation with a name.

`forged(kind, folder, count)` gives `count` of them. `SECRET` is a number that stands only in files
beside them: a model that holds it has read a file that it was not given.
"""

from __future__ import annotations

import io
import json
import random
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import keras
import numpy as np
from keras import layers
from safetensors.numpy import save_file

from keras_graft.weights.address import groups

KINDS = (".keras", ".h5", ".weights.h5", ".safetensors")
SECRET = 31337.5


def model():
    x = keras.Input((4,), name="x")
    y = layers.Dense(5, activation="relu", name="hidden")(x)
    y = layers.BatchNormalization(name="norm")(y)
    return keras.Model(x, layers.Dense(3, name="out")(y), name="small")


def beside(folder: Path) -> None:
    """Write the files that hold the secret."""
    np.full(64, SECRET, "float32").tofile(folder / "secret.bin")
    with h5py.File(folder / "secret.h5", "w") as file:
        for shape in ((4, 5), (5,), (5, 3), (3,)):
            file[f"{shape}"] = np.full(shape, SECRET, "float32")
    (folder / "secret.txt").write_text(f"{SECRET}\n")


def whole(kind: str, folder: Path) -> Path:
    """Write the file that all are made from."""
    path = folder / f"whole{kind}"
    made = model()
    if kind == ".safetensors":
        save_file({w.address: w.read() for w in groups(made).weights()}, path)
    elif kind == ".weights.h5":
        made.save_weights(path)
    else:
        made.save(path)
    return path


# -- bytes ----------------------------------------------------------------------------------------


def truncated(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def flipped(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 4, 64])):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def head_flipped(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    changed[rng.randrange(min(len(data), 512))] = rng.randrange(256)
    return bytes(changed)


def zeroed(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + bytes(min(64, len(data) - start)) + data[start + 64 :]


def filled(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + b"\xff" * min(8, len(data) - start) + data[start + 8 :]


def swapped(data: bytes, rng: random.Random) -> bytes:
    a, b = (rng.randrange(len(data) - 256) for _ in range(2))
    changed = bytearray(data)
    changed[a : a + 128], changed[b : b + 128] = data[b : b + 128], data[a : a + 128]
    return bytes(changed)


def doubled(data: bytes, rng: random.Random) -> bytes:
    return data + data


def prefixed(data: bytes, rng: random.Random) -> bytes:
    return rng.randbytes(rng.choice([1, 512, 600])) + data


def noise(data: bytes, rng: random.Random) -> bytes:
    return data[:8] + rng.randbytes(rng.randrange(2000))


def empty(data: bytes, rng: random.Random) -> bytes:
    return b""


BYTES = [
    truncated, flipped, flipped, flipped, head_flipped, head_flipped, zeroed, filled, swapped,
    doubled, prefixed, noise, empty,
]  # fmt: skip


# -- HDF5 -----------------------------------------------------------------------------------------


def _datasets(file: h5py.File) -> list[str]:
    found: list[str] = []
    file.visititems(lambda name, x: found.append(name) if isinstance(x, h5py.Dataset) else None)
    return found


def _groups(file: h5py.File) -> list[str]:
    found: list[str] = []
    file.visititems(lambda name, x: found.append(name) if isinstance(x, h5py.Group) else None)
    return found


def _in_place(make: Callable) -> Callable:
    """Return a mutation that puts something in the place of a dataset."""

    def mutation(file: h5py.File, rng: random.Random) -> None:
        path = rng.choice(_datasets(file))
        old = file[path][()]
        del file[path]
        make(file, path, old, rng)

    mutation.__name__ = make.__name__
    return mutation


@_in_place
def external_link(file, path, old, rng):
    file[path] = h5py.ExternalLink("secret.h5", f"/{old.shape}")


@_in_place
def external_link_to_itself(file, path, old, rng):
    file[path] = h5py.ExternalLink(Path(file.filename).name, path)


@_in_place
def soft_link(file, path, old, rng):
    file["elsewhere"] = old
    file[path] = h5py.SoftLink("/elsewhere")


@_in_place
def dangling_link(file, path, old, rng):
    file[path] = h5py.SoftLink("/nowhere")


@_in_place
def external_storage(file, path, old, rng):
    file.create_dataset(
        path, old.shape, "float32", external=[("secret.bin", 0, max(old.nbytes, 4))]
    )


@_in_place
def virtual(file, path, old, rng):
    layout = h5py.VirtualLayout(old.shape, "float32")
    layout[...] = h5py.VirtualSource("secret.h5", f"{old.shape}", old.shape)
    file.create_virtual_dataset(path, layout)


@_in_place
def virtual_of_itself(file, path, old, rng):
    layout = h5py.VirtualLayout(old.shape, "float32")
    layout[...] = h5py.VirtualSource(".", path, old.shape)
    file.create_virtual_dataset(path, layout)


@_in_place
def reference(file, path, old, rng):
    file.create_dataset(path, data=np.array(file.ref, h5py.ref_dtype))


@_in_place
def region(file, path, old, rng):
    file["around"] = np.ones(4)
    file.create_dataset(path, data=np.array(file["around"].regionref[:2], h5py.regionref_dtype))


@_in_place
def compound(file, path, old, rng):
    file[path] = np.zeros(old.shape, [("a", "f4"), ("b", "i4")])


@_in_place
def rows_of_any_length(file, path, old, rng):
    data = file.create_dataset(path, (3,), h5py.vlen_dtype("float32"))
    data[0] = np.ones(5, "float32")


@_in_place
def texts(file, path, old, rng):
    file[path] = ["a", "b"]


@_in_place
def bytes_for_numbers(file, path, old, rng):
    file[path] = np.full(old.shape, b"1.0")


@_in_place
def nothing(file, path, old, rng):
    file[path] = h5py.Empty("float32")


@_in_place
def opaque(file, path, old, rng):
    file[path] = np.zeros(old.shape, "V7")


@_in_place
def enumeration(file, path, old, rng):
    file.create_dataset(path, old.shape, h5py.enum_dtype({"a": 1}, "i4"))


@_in_place
def other_dtype(file, path, old, rng):
    kinds = ["complex64", "int64", "bool", "float16", ">f4", "float128", "uint8", ">f8"]
    file[path] = np.ones(old.shape, rng.choice(kinds))


@_in_place
def other_shape(file, path, old, rng):
    shapes = [
        (),
        (0,),
        (*old.shape, 1),
        old.shape[::-1],
        (old.size,),
        tuple(n + 1 for n in old.shape),
    ]
    file[path] = np.ones(rng.choice(shapes), "float32")


@_in_place
def many_axes(file, path, old, rng):
    file[path] = np.ones((1,) * 32, "float32")


@_in_place
def zeros_packed(file, path, old, rng):
    size = rng.choice([2**28, 2**31, 2**40])
    file.create_dataset(path, (size,), "float32", chunks=(2**16,), compression="gzip")


@_in_place
def many_packed(file, path, old, rng):
    file.create_dataset(path, data=np.zeros(3 * 2**25, "int8"), chunks=(2**24,), compression="gzip")


@_in_place
def never_written(file, path, old, rng):
    file.create_dataset(path, rng.choice([old.shape, (2**28,), (2**20, 2**20)]), "float32")


@_in_place
def huge_chunk(file, path, old, rng):
    file.create_dataset(
        path, old.shape, "float32", data=old, maxshape=(None,) * old.ndim,
        chunks=(3 * 2**23,) + (1,) * (old.ndim - 1), compression="gzip",
    )  # fmt: skip


@_in_place
def a_group(file, path, old, rng):
    file.create_group(path)["0"] = old


@_in_place
def a_datatype(file, path, old, rng):
    file[path] = np.dtype("float32")


@_in_place
def missing(file, path, old, rng):
    pass


@_in_place
def odd_name(file, path, old, rng):
    names = ["²", "9" * 5000, "a\x1b[31mb\n", "..", "٣", "-1", "kernel", " ", "x" * 3000]
    file[f"{path.rpartition('/')[0]}/{rng.choice(names)}"] = old


@_in_place
def undecodable_name(file, path, old, rng):
    file[path.rpartition("/")[0].encode() + b"/\xff\xfe"] = old


def dtype_attribute(file, rng):
    data = file[rng.choice(_datasets(file))]
    data.attrs["dtype"] = rng.choice(["bfloat16", "float64", "nonsense", "object", "float8_e4m3fn"])


def dtype_attribute_of_numbers(file, rng):
    file[rng.choice(_datasets(file))].attrs["dtype"] = np.ones(3)


def name_attribute(file, rng):
    group = file[rng.choice(_groups(file))]
    group.attrs["name"] = rng.choice(
        ["", "out", "\x1b]0;a\x07\nb", "a/b", "x" * 9000, 5, np.ones((2, 2)), b"hidden", "norm#1"]
    )


def undecodable_attribute(file, rng):
    group = file[rng.choice(_groups(file))]
    group.attrs.create("name", b"\xff\xfe", dtype=h5py.string_dtype())


def reference_attribute(file, rng):
    file[rng.choice(_groups(file))].attrs["name"] = file.ref


def texts_of_one_place(file, rng):
    group = file[rng.choice(_groups(file))]
    group.attrs["weight_names"] = np.array(["a"] * 3000, h5py.string_dtype())


def in_itself(file, rng):
    file[f"{rng.choice(_groups(file))}/again"] = file[rng.choice(["/", *_groups(file)])]


def doubling(file, rng):
    group = file["/"]
    for _ in range(40):
        inner = group.create_group("a")
        group["b"] = inner
        group = inner


def deep(file, rng):
    file.create_group("/".join("a" * 3000))["vars/0"] = np.ones(3)


def dataset_twice(file, rng):
    path = rng.choice(_datasets(file))
    for i in range(100):
        file[f"again{i}/vars/0"] = file[path]


def group_for_dataset(file, rng):
    path = rng.choice([p for p in _groups(file) if p.endswith("vars")] or _groups(file))
    del file[path]
    file[path] = np.ones(3, "float32")


def group_gone(file, rng):
    del file[rng.choice(_groups(file))]


def groups_by_a_link(file, rng):
    path = rng.choice(_groups(file))
    del file[path]
    file[path] = rng.choice([h5py.SoftLink("/"), h5py.ExternalLink("secret.h5", "/")])


def vars_on_top(file, rng):
    file["vars/0"] = np.ones((4, 5), "float32")


def nothing_left(file, rng):
    for key in list(file):
        del file[key]


HDF5 = [
    external_link, external_link_to_itself, soft_link, dangling_link, external_storage, virtual,
    virtual_of_itself, reference, region, compound, rows_of_any_length, texts, bytes_for_numbers,
    nothing, opaque, enumeration, other_dtype, other_dtype, other_shape, other_shape, many_axes,
    zeros_packed, many_packed, never_written, huge_chunk, a_group, a_datatype, missing, odd_name,
    odd_name, undecodable_name, dtype_attribute, dtype_attribute, dtype_attribute_of_numbers,
    name_attribute, name_attribute, undecodable_attribute, reference_attribute,
    texts_of_one_place, in_itself, doubling, deep, dataset_twice, group_for_dataset, group_gone,
    groups_by_a_link, vars_on_top, nothing_left,
]  # fmt: skip


def _config_changed(file, rng):
    config = file.attrs["model_config"]
    config = config if isinstance(config, bytes) else config.encode()
    file.attrs["model_config"] = other_config(config, rng)


def config_gone(file, rng):
    del file.attrs["model_config"]


def config_of_numbers(file, rng):
    file.attrs["model_config"] = np.ones(3)


def layer_names(file, rng):
    file["model_weights"].attrs["layer_names"] = rng.choice(
        [np.ones(3), np.array([b"../.."]), np.array([b"/"]), np.array([b"out"] * 3), "out"]
    )


_config_changed.__name__ = "other_config"
LEGACY = [*HDF5, *[_config_changed] * 12, config_gone, config_of_numbers, layer_names, layer_names]


# -- configurations -------------------------------------------------------------------------------


def other_config(config: bytes, rng: random.Random) -> bytes:
    """Return a configuration that is damaged, or of another model."""
    text = config.decode()
    huge = rng.choice(
        ["1000000000000", "100000000", "-1", "2.5", "1e400", "9" * 5000, "null", '"5"']
    )
    changes = [
        lambda: text[: rng.randrange(len(text))],
        lambda: text.replace('"units": 5', f'"units": {huge}'),
        lambda: text.replace('"units": 3', f'"units": {huge}'),
        lambda: text.replace('"units": 5', '"units": 200000000'),
        lambda: text.replace("4]", f"{huge}]"),
        lambda: text.replace(
            '"Dense"', rng.choice(['"Lambda"', '"system"', '"Densse"', '"TFSMLayer"'])
        ),
        lambda: text.replace('"keras.layers"', rng.choice(['"os"', '"builtins"', '"../a"', "[]"])),
        lambda: text.replace('"relu"', rng.choice(['"exec"', '{"class_name": "__lambda__"}', "7"])),
        lambda: "[" * 100_000,
        lambda: '{"a": ' * 3000 + "1" + "}" * 3000,
        lambda: rng.choice(["[]", "7", "null", '"a"', "{}", "NaN"]),
        lambda: text.replace('"layers": [', '"layers": [[], '),
        lambda: text.replace('"hidden"', '"out"'),
        lambda: text.replace('"out"', '"hidden"'),
        lambda: text.replace('"axis": -1', '"axis": 7'),
        lambda: text.replace('"float32"', rng.choice(['"complex64"', '"float8"', "3", '"int8"'])),
        lambda: text.replace('"x"', '"x\\u001b[31m\\n"'),
        lambda: text.replace('"inbound_nodes"', '"outbound_nodes"'),
    ]
    return rng.choice(changes)().encode()


def reads_a_vocabulary(config: bytes, rng: random.Random) -> bytes:
    """Return the configuration of a model with a lookup whose words are in another file."""
    x = keras.Input((1,), dtype="string", name="x")
    made = keras.Model(x, layers.StringLookup(vocabulary=["a", "b"], name="words")(x))
    text = json.dumps(keras.saving.serialize_keras_object(made))
    return text.replace('["a", "b"]', '"secret.txt"').encode()


# -- zips -----------------------------------------------------------------------------------------

Members = dict[str, bytes]


def _other_config(members: Members, rng: random.Random) -> Members:
    return members | {"config.json": other_config(members["config.json"], rng)}


def _reads_a_vocabulary(members: Members, rng: random.Random) -> Members:
    return members | {"config.json": reads_a_vocabulary(members["config.json"], rng)}


def _other_weights(members: Members, rng: random.Random) -> Members:
    change = rng.choice(BYTES)
    return members | {"model.weights.h5": change(members["model.weights.h5"], rng)}


def member_gone(members: Members, rng: random.Random) -> Members:
    gone = rng.choice(list(members))
    return {name: data for name, data in members.items() if name != gone}


def undecodable_config(members: Members, rng: random.Random) -> Members:
    return members | {"config.json": b"\xff\xfe" + members["config.json"]}


def weights_as_npz(members: Members, rng: random.Random) -> Members:
    file = io.BytesIO()
    np.savez(file, __root__=np.array({"a": print}, dtype=object))
    rest = {n: d for n, d in members.items() if n != "model.weights.h5"}
    return rest | {"model.weights.npz": file.getvalue()}


def leads_out(members: Members, rng: random.Random) -> Members:
    name = rng.choice(
        ["../../forged_outside", "/tmp/forged_outside", "assets/../../forged_outside"]
    )
    return members | {name: b"x", "assets/a": b"x"}


def other_metadata(members: Members, rng: random.Random) -> Members:
    return members | {"metadata.json": rng.choice([b"", b"[]", b'{"keras_version": 7}'])}


ZIPS = [
    *[_other_config] * 24, _reads_a_vocabulary, *[_other_weights] * 13, member_gone, member_gone,
    undecodable_config, weights_as_npz, leads_out, other_metadata,
]  # fmt: skip


def _zipped(members: Members, path: Path, packed: bool = False) -> None:
    how = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", how) as file:
        for name, data in members.items():
            file.writestr(name, data)


def _bomb(path: Path, members: Members, rng: random.Random) -> None:
    """Write 100 MB of zeros in 0.1 MB, as one of the members."""
    name = rng.choice(["model.weights.h5", "config.json", "assets/a"])
    _zipped({n: d for n, d in members.items() if n != name}, path)
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file,
        file.open(name, "w", force_zip64=True) as member,
    ):
        for _ in range(100):
            member.write(bytes(2**20))


def _twice(path: Path, members: Members, rng: random.Random) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for name, data in [*members.items(), rng.choice(list(members.items()))]:
            file.writestr(name, data)


def _record(offset: int, size: int, values: list[int]) -> Callable:
    """Return a mutation of a field in the directory of a zip."""

    def change(path: Path, members: Members, rng: random.Random) -> None:
        _zipped(members, path, rng.random() < 0.5)
        data = bytearray(path.read_bytes())
        starts = [i for i in range(len(data)) if data[i : i + 4] == b"PK\x01\x02"]
        at = rng.choice(starts) + offset
        data[at : at + size] = rng.choice(values).to_bytes(size, "little")
        path.write_bytes(bytes(data))

    return change


ARCHIVES = {
    "bomb": _bomb, "member_twice": _twice, "encrypted": _record(8, 2, [1]),
    "other_packing": _record(10, 2, [1, 8, 12, 14, 99]),
    "packed_size": _record(20, 4, [0, 7, 2**31, 2**32 - 1]),
    "unpacked_size": _record(24, 4, [0, 7, 2**31, 2**32 - 1]),
    "offset": _record(42, 4, [0, 7, 2**31, 2**32 - 1]), "name_length": _record(28, 2, [0, 999]),
}  # fmt: skip


# -- safetensors ----------------------------------------------------------------------------------


def _header(make: Callable) -> Callable:
    """Return a mutation of the header of a `.safetensors` file."""

    def mutation(data: bytes, rng: random.Random) -> bytes:
        size = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8 : 8 + size])
        made = make(header, rng)
        text = made if isinstance(made, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + data[8 + size :]

    mutation.__name__ = make.__name__
    return mutation


def _one(header, rng):
    return header[rng.choice([k for k in header if k != "__metadata__"])]


@_header
def offsets(header, rng):
    begin, end = _one(header, rng)["data_offsets"]
    _one(header, rng)["data_offsets"] = rng.choice(
        [
            [0, 2**60],
            [end, begin],
            [-1, 5],
            [begin, end + 4],
            [2**64, 2**65],
            [begin],
            "a",
            [0.5, 1],
            [],
        ]
    )


@_header
def shapes(header, rng):
    entry = _one(header, rng)
    entry["shape"] = rng.choice(
        [[2**40], [-1], [0], entry["shape"][::-1], [*entry["shape"], 1], [1] * 100, [], "a", None,
         [2**32, 2**32], [2**63, 2]]
    )  # fmt: skip


@_header
def dtypes(header, rng):
    _one(header, rng)["dtype"] = rng.choice(
        ["F64", "BF16", "I32", "F8_E4M3", "F8_E8M0", "F4", "C64", "U8", "BOOL", "", "X", 7, None]
    )


@_header
def dtypes_of_one_size(header, rng):
    entry = _one(header, rng)
    if entry["dtype"] == "F32":
        entry["dtype"] = rng.choice(["I32", "U32"])


@_header
def renamed(header, rng):
    name = rng.choice(list(header))
    other = rng.choice(["", ".", "/", "a" + ".b" * 3000, "a" + "/b" * 3000, "²", "9" * 5000,
                        "hidden/²", "hidden/" + "9" * 5000, "\x1b[31m\n", "out/kernel", "__metadata__",
                        "hidden.kernel", "a/../b", "\u0000", "hidden"])  # fmt: skip
    header[other] = header.pop(name)


@_header
def many_names(header, rng):
    for i in range(20_000):
        header[f"a.{i}.b"] = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}


@_header
def metadata(header, rng):
    header["__metadata__"] = rng.choice(
        [{"format": "pt"}, {"format": 7}, [], "a", {"a": {"b": "c"}}]
    )


@_header
def entry_gone(header, rng):
    del header[rng.choice(list(header))]


@_header
def not_json(header, rng):
    text = json.dumps(header)
    return rng.choice(
        [text[:-5], "[]", "7", "[" * 50_000, text + "}", "{" + text[1:-1] + ',"a":NaN}', " " * 9]
    ).encode()


@_header
def undecodable(header, rng):
    return json.dumps(header).encode().replace(b"hidden", b"hi\xff\xfeen")


def length(data: bytes, rng: random.Random) -> bytes:
    size = rng.choice([0, 1, 2**63, 2**64 - 1, 10**8, len(data), len(data) - 8])
    return struct.pack("<Q", size) + data[8:]


TENSORS = [
    *BYTES, *[offsets] * 3, *[shapes] * 4, *[dtypes] * 4, dtypes_of_one_size, *[renamed] * 6,
    many_names, metadata, metadata, entry_gone, *[not_json] * 3, undecodable, *[length] * 2,
]  # fmt: skip


# -- all ------------------------------------------------------------------------------------------


def forged(kind: str, folder: Path, count: int = 200) -> Iterator[tuple[str, Path]]:
    """Give `count` files of a kind, each with the name of what was done to it and its seed."""
    source = whole(kind, folder)
    path = folder / f"forged{kind}"
    makers = {".keras": _keras, ".h5": _hdf5, ".weights.h5": _hdf5, ".safetensors": _tensors}
    for seed in range(count):
        name = makers[kind](source, path, seed, random.Random(seed))
        yield f"{kind} {seed} {name}", path


def _of(mutations: list, seed: int) -> Callable:
    return mutations[seed % len(mutations)]


def _bytes(source: Path, path: Path, mutation: Callable, rng: random.Random) -> str:
    path.write_bytes(mutation(source.read_bytes(), rng))
    return mutation.__name__


def _hdf5(source: Path, path: Path, seed: int, rng: random.Random) -> str:
    mutations = [*(HDF5 if source.name.endswith(".weights.h5") else LEGACY), *BYTES, *BYTES]
    mutation = _of(mutations, seed)
    if mutation in BYTES:
        return _bytes(source, path, mutation, rng)
    shutil.copy(source, path)
    with h5py.File(path, "r+", libver="latest" if seed % 2 else None) as file:
        mutation(file, rng)
    return mutation.__name__


def _keras(source: Path, path: Path, seed: int, rng: random.Random) -> str:
    with zipfile.ZipFile(source) as file:
        members = {name: file.read(name) for name in file.namelist()}
    mutation = _of([*HDF5, *ZIPS, *ARCHIVES, *BYTES], seed)
    if mutation in BYTES:
        return _bytes(source, path, mutation, rng)
    if mutation in ARCHIVES:
        ARCHIVES[mutation](path, members, rng)
        return mutation
    if mutation in ZIPS:
        members = mutation(members, rng)
    else:
        inner = path.with_name("inner.h5")
        inner.write_bytes(members["model.weights.h5"])
        with h5py.File(inner, "r+") as file:
            mutation(file, rng)
        members["model.weights.h5"] = inner.read_bytes()
    _zipped(members, path, rng.random() < 0.3)
    return mutation.__name__.strip("_")


def _tensors(source: Path, path: Path, seed: int, rng: random.Random) -> str:
    return _bytes(source, path, _of(TENSORS, seed), rng)
