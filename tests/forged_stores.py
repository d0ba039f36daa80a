"""Stores that somebody forged, or a disk damaged: the same ones each time.

What is forged has correct checksums, so only what it says is wrong; what is damaged has not.
"""

import json
import random

import numpy as np

from keras_graft.features.store.checksum import checksum

WRONG = [
    None, True, -1, 0, 1, 3, 1 << 31, 1 << 62, (1 << 63) - 1, 1 << 63, 10**40, 1.5, 1e300, "", "x",
    "float32", "one", "dict", "list", "keys/", "../../etc/passwd", "/etc/passwd",
    "shard-00000.safetensors", "manifest.json", "0" * 16, "\x1b[31m\nforged: all as written",
    "\ud800", "a" * 200_000, [], [[]], {}, {"a": 1}, [0], [1 << 40], [1 << 31] * 8, [0, 1 << 62],
    [1] * 40, [-1], [None], [0.5], ["x"], [1 << 63, 1 << 63], [0, 1 << 50], [10**15, 3],
]  # fmt: skip
"""What is put in the place of something else."""
RAW = [
    "[" * 30_000 + "]" * 30_000, '{"a":' * 100_000 + "1" + "}" * 30_000, "9" * 5000,
    "-" + "9" * 5000, "NaN", "-Infinity", "1e999", "[" + "[]," * 20_000 + "[]]",
    '{"a": 1, "a": 2}', '"\\ud800"', '"\\u0000"', ".".join("x" * 3000).join('""'),
]  # fmt: skip
"""The same as text, which `json` would not write."""
_MARK = "@raw@"


def signed(text):
    """Return a manifest with its checksum, of what stands in it without."""
    return f'{{\n "checksum": "{checksum([text.encode()])}",{text[1:]}'.encode()


def said(data):
    """Return what a manifest says."""
    raw = json.loads(data)
    del raw["checksum"]
    return raw


def written(raw):
    """Return a manifest that says something."""
    return signed(json.dumps(raw, indent=1))


def places(value, path=()):
    """Yield the paths of all that is in JSON; of long lists, of the first and the last."""
    if path:
        yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for i in sorted({0, len(value) - 1} & set(range(len(value)))):
            yield from places(value[i], (*path, i))


def changed(value, path, change):
    """Return JSON with something in it changed."""
    value = json.loads(json.dumps(value))
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    change(inner, path[-1])
    return value


def put(new):
    def change(inner, key):
        inner[key] = new

    return change


def remove(inner, key):
    del inner[key]


def rename(inner, key):
    if isinstance(inner, dict):
        inner[f"{key}x"] = inner.pop(key)
    else:
        inner.append(inner[key])


def _changes(rng, raw, count):
    """Yield JSON with one thing changed, by name: `count` of each kind at most."""
    ways = [(path, new) for path in places(raw) for new in WRONG]
    for path, new in rng.sample(ways, min(count, len(ways))):
        yield f"{path} is {new!r:.40}", changed(raw, path, put(new))
    paths = list(places(raw))
    for path in rng.sample(paths, min(count // 4, len(paths))):
        yield f"{path} is gone", changed(raw, path, remove)
        yield f"{path} is renamed or twice", changed(raw, path, rename)


def _texts(rng, raw, count):
    """Yield the text of JSON with something in it that `json` would not write."""
    ways = [(path, new) for path in places(raw) for new in RAW]
    for path, new in rng.sample(ways, min(count, len(ways))):
        text = json.dumps(changed(raw, path, put(_MARK)), indent=1)
        yield f"{path} is {new[:20]}", text.replace(json.dumps(_MARK), new)
    text = json.dumps(raw, indent=1)
    first = text.index("\n", 3)
    yield "a key twice", text[:first] + text[1:first] + text[first:]
    for whole in ("[]", "{}", "null", "3", '"x"', RAW[0], RAW[1], RAW[2], " " * 30_000 + "{}"):
        yield f"it is {whole[:20]}", whole


def _together(raw):
    """Yield what is right by itself and does not fit together."""
    shards = raw["shards"]
    for name, new in {
        "no shards": [], "a shard twice": [shards[0], shards[0]], "reversed": shards[::-1],
        "a hole": [shards[0], shards[2]], "the first alone": shards[:1],
    }.items():  # fmt: skip
        yield name, {**raw, "shards": new}
        yield f"{name}, not complete", {**raw, "shards": new, "complete": False}
    columns = raw["columns"]
    for name in columns:
        yield f"no {name}", {**raw, "columns": {k: v for k, v in columns.items() if k != name}}
        for dtype in ("uint8", "float64", "bfloat16", "bool"):
            new = {**columns, name: {**columns[name], "dtype": dtype}}
            yield f"{name} is {dtype}", {**raw, "columns": new}
        for text in (True, False):
            new = {**columns, name: {**columns[name], "text": text}}
            yield f"{name} is text: {text}", {**raw, "columns": new}
        for shape in ([0], [1 << 40], [0, 1 << 40, 1 << 40], [1] * 31, [2, 2]):
            new = {**columns, name: {**columns[name], "shape": shape}}
            yield f"{name} has the shape {shape}", {**raw, "columns": new}
    for kind in raw["layout"]:
        for layout in ("one", "dict", "list"):
            yield f"{kind}: {layout}", {**raw, "layout": {**raw["layout"], kind: layout}}
    nothing = {k: {**c, "shape": [0], "text": False} for k, c in columns.items()}
    for rows in (1 << 20, 1 << 40, (1 << 63) - 1):
        one = {**shards[0], "rows": rows}
        yield f"{rows} rows", {**raw, "shards": [one]}
        yield f"{rows} rows of nothing", {**raw, "columns": nothing, "shards": [one]}
        yield f"{rows} bytes too", {**raw, "shards": [{**one, "bytes": (1 << 63) - 1}]}
    for skipped in ([0, 0], [9999], [1 << 62], list(range(200))):
        left = [{"index": i, "reason": "x"} for i in skipped]
        yield f"left out {skipped[:3]}", {**raw, "shards": [{**shards[0], "skipped": left}]}
    for version in (1, 2, 4, 10**18):
        yield f"format {version}", {**raw, "format": version}


def _damaged(rng, data, count):
    """Yield bytes that a disk or a line changed."""
    for _ in range(count):
        place = rng.randrange(len(data))
        bad = bytearray(data)
        bad[place] ^= 1 << rng.randrange(8)
        yield f"byte {place} flipped", bytes(bad)
    for length in (0, 1, 7, 8, 9, 40, len(data) // 2, len(data) - 1):
        yield f"cut at {length}", data[:length]
        yield f"zeros from {length} on", data[:length] + bytes(len(data) - length)
    yield "longer", data + b"x"
    yield "another encoding", data.decode("latin-1").encode("utf-16")
    yield "a mark of its order", b"\xef\xbb\xbf" + data
    yield "random", rng.randbytes(1000)


def manifests(good):
    """Yield what a forger or a disk makes of a manifest: what it is, and its bytes."""
    rng, raw = random.Random(18), said(good)
    for name, new in _changes(rng, raw, 80):
        yield name, written(new)
    for name, text in _texts(rng, raw, 30):
        yield name, signed(text)
    for name, new in _together(raw):
        yield name, written(new)
    yield from _damaged(rng, good, 30)


def _parted(shard):
    length = int.from_bytes(shard[:8], "little")
    return json.loads(shard[8 : 8 + length]), shard[8 + length :]


def _joined(text, data, length=None):
    text = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    length = len(text) if length is None else length
    return length.to_bytes(8, "little") + text + data


def _shards(good):
    rng = random.Random(81)
    header, data = _parted(good)
    for name, new in _changes(rng, header, 80):
        yield name, _joined(json.dumps(new), data)
    for name, text in _texts(rng, header, 30):
        yield name, _joined(text, data)
    text = json.dumps(header)
    for length in (
        0,
        1,
        len(text) - 1,
        len(text) + 1,
        len(good),
        len(good) - 8,
        1 << 62,
        (1 << 64) - 1,
    ):
        yield f"a header of {length}", _joined(text, data, length)
    for other in (b"", b"\xff" * 100, b" " * 1_000_000, text.encode("utf-16")):
        yield f"the header {other[:3]}", _joined(other, data)
    one, other = list(header)[:2]
    swapped = {**header, one: header[other], other: header[one]}
    yield "columns that are each other", _joined(json.dumps(swapped), data)
    yield "one more column", _joined(json.dumps({**header, "features/more": header[one]}), data)
    yield "metadata", _joined(json.dumps({"__metadata__": {"format": "pt"}, **header}), data)
    for by in (-8, 8, 1 << 50):
        moved = {
            k: {**c, "data_offsets": [o + by for o in c["data_offsets"]]} for k, c in header.items()
        }
        yield f"all moved by {by}", _joined(json.dumps(moved), data)
    yield "data too short", _joined(text, data[:-1])
    yield "data too long", _joined(text, data + b"x")
    for rows in (0, 1, 10**15):
        more = {k: {**c, "shape": [rows, *c["shape"][1:]]} for k, c in header.items()}
        yield f"{rows} rows", _joined(json.dumps(more), data)
    yield "other numbers", _joined(text, rng.randbytes(len(data)))
    yield "numbers that are none", _joined(text, b"\xff" * len(data))
    yield "zeros", _joined(text, bytes(len(data)))
    yield "text that is none", _joined(text, np.random.default_rng(0).bytes(len(data)))


def shards(manifest, good, number):
    """Yield what a forger or a disk makes of a shard: what it is, the manifest, and the shard."""
    raw = said(manifest)
    for name, data in _shards(good):
        entry = {**raw["shards"][number], "bytes": len(data), "checksum": checksum([data])}
        forged = [*raw["shards"][:number], entry, *raw["shards"][number + 1 :]]
        yield name, written({**raw, "shards": forged}), data
    for name, data in _damaged(random.Random(8), good, 40):
        yield f"damaged: {name}", manifest, data
