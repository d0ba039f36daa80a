"""What features of 100 million and of a billion samples cost, for each cut of two networks.

    KERAS_BACKEND=torch python benchmarks/scale.py            # writes docs/scale.md
    KERAS_BACKEND=torch python benchmarks/scale.py --print    # to the screen

Nothing is run: bytes and multiply-adds are those of `kg.features.advise` and `kg.costs`, rates are
the constants below.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import keras
from keras import layers

import keras_graft as kg
from keras_graft.tables import in_bytes

ROOT = Path(__file__).parents[1]
SAMPLES = (100_000_000, 1_000_000_000)
SHARD = 32 << 20
RATE = 2e13
"""Multiply-adds a GPU does in a second, in such a network: assumed, 4,900 images for ResNet50."""
GPU_HOUR, GB_MONTH, MILLION_PUTS, MILLION_GETS = 2.5, 0.023, 5.0, 0.4
"""Prices: assumed, of the order of what clouds ask for."""
READ = 344e6
"""Bytes that one process reads in a second, shuffled: the lowest of docs/benchmarks-features.md."""
PUTS, GETS = 2, 1
"""Requests for a shard while it is written, as tests/features/test_s3.py counts them."""
CUTS = {
    "ResNet50": ("conv2_block3_out", "conv3_block4_out", "conv4_block6_out", "conv5_block3_out", "avg_pool"),
    "ViT-B/16": ("block3", "block6", "block9", "norm", "class"),
}  # fmt: skip


def vit() -> keras.Model:
    """Return a ViT-B/16 (https://arxiv.org/abs/2010.11929), as far as costs go: no positions."""
    x = inputs = keras.Input((224, 224, 3))
    x = layers.Conv2D(768, 16, 16, name="patches")(x)
    x = layers.Reshape((196, 768))(x)
    for i in range(12):
        h = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(12, 64)(h, h)])
        h = layers.LayerNormalization()(x)
        h = layers.Dense(3072, activation="gelu")(h)
        x = layers.Add(name=f"block{i + 1}")([x, layers.Dense(768)(h)])
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.GlobalAveragePooling1D(name="class")(x)
    return keras.Model(inputs, layers.Dense(1000, name="head")(x), name="vit_b16")


def quantity(number: float) -> str:
    """Return a number with two significant digits, without an exponent."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def rows(name: str, model: keras.Model) -> list[tuple[str, ...]]:
    """Return the lines of the table of a network."""
    total = kg.costs(model).total.multiply_adds
    assert isinstance(total, int)
    advice = kg.features.advise(model, 1, dtype="float16", most=None)
    found: list[tuple[str, ...]] = []
    for place in advice.rows:
        if place.cut.name not in CUTS[name]:
            continue
        size, below = place.bytes_per_sample, total * place.compute_saved
        assert size is not None
        for samples in SAMPLES:
            hours, stored = samples * below / RATE / 3600, samples * size
            shards = -(-stored // SHARD)
            month = stored / 1e9 * GB_MONTH
            requests = shards * (PUTS * MILLION_PUTS + GETS * MILLION_GETS) / 1e6
            once, each = hours * GPU_HOUR, shards * MILLION_GETS / 1e6
            # A month with E epochs: E * once against once + requests + month + E * each.
            paid = (once + requests + month) / (once - each) if once > each else None
            found.append((
                place.cut.name, f"{samples // 1_000_000:,} M", in_bytes(size), f"{place.compute_saved:.1%}",
                quantity(hours), in_bytes(stored), f"{shards:,}", quantity(stored / READ / 3600),
                f"${quantity(once)}", f"${quantity(month)}", "never" if paid is None else f"{paid:.1f}",
            ))  # fmt: skip
    return found


HEAD = ("cut", "samples", "bytes each", "compute below", "GPU hours", "store", "shards of 32 MiB",
        "hours to read", "trunk once", "store a month", "pays after epochs")  # fmt: skip


def markdown(lines: list[tuple[str, ...]]) -> str:
    """Return lines as a table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (HEAD, ("---",) * len(HEAD), *lines))


TEXT = f"""# A hundred million samples, and a billion

What a store of features costs at that size, before it is computed. Written by `benchmarks/scale.py`. Bytes and
multiply-adds are those of `kg.features.advise` and `kg.costs`, with features kept as float16. The rates and prices are
of three kinds:

- **Assumed**, so put in yours: a GPU does {RATE:.0e} multiply-adds a second in these networks (4,900 images of ResNet50)
  and costs ${GPU_HOUR} an hour; an object store costs ${GB_MONTH} for a GB and month, ${MILLION_PUTS:g} for a million
  writes and ${MILLION_GETS} for a million reads. No GPU was measured for this page.
- **Measured** on two shared cores: one process reads {READ / 1e6:.0f} MB/s of shuffled rows
  ([benchmark](benchmarks-features.md)). A shard takes 0.3 ms and 564 bytes beside itself, and opening a store of 100,000
  takes 1.2 s and 86 bytes for each ([benchmark](benchmarks-store.md)).
- **Counted** by a test: while a store grows in an object store, a shard takes two writes (itself, and its line in the
  journal), one read, and one deletion, however many there are. An epoch takes one read for a shard.

## The formula

For `n` samples, `b` bytes and `m` multiply-adds below the cut for each, and `r` multiply-adds a second:

- GPU hours for the trunk, once: `n * m / r / 3600`. Without a store, in every epoch.
- Bytes: `n * b`. Shards: `n * b / shard_bytes`.
- Hours to read an epoch: `n * b / rate / readers / 3600`. With `part=(rank, world)` readers share it.
- A store pays in a month with `E` epochs if `E * trunk > trunk + writes + month + E * reads`. What it saves beside that
  is not counted: reading and decoding images, which may well take longer than the trunk.

Per sample, and with the requests left out, a store is dearer than the trunk when
`b * price of a byte and month * months > (E - 1) * m / r * price of a GPU second`.

## ResNet50, images of 224x224

{{resnet}}

## ViT-B/16, images of 224x224

{{vit}}

## What follows

- **Cut behind the pooling** where you can. The store is then so small that a disk holds it, and the second epoch pays.
- **A map of many positions costs more than the trunk** that makes it, on a fast GPU and an object store: it pays after
  tens to thousands of epochs in a month. Pool or project it first (`kg.insert` puts a pooling layer behind
  the cut), keep it on disks that are paid for anyway, or run the trunk in each epoch.
- A cut in the middle is no middle way: with depth, bytes for a sample fall (ResNet) or stay (ViT), and what the store
  saves grows.
- `kg.features.advise(model, 100_000_000, dtype="float16")` says bytes and shares for each cut of any model.

```python
import keras
import keras_graft as kg

image = keras.Input((32, 32, 3))
x = keras.layers.Conv2D(16, 3, strides=2, name="conv")(image)
x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
model = keras.Model(image, keras.layers.Dense(10, name="head")(x))
for place in kg.features.advise(model, 100_000_000, dtype="float16").rows:
    hours = 100_000_000 * kg.costs(model).total.multiply_adds * place.compute_saved / {RATE:.0e} / 3600
    print(place.cut.name, place.bytes_in_all, f"{{{{hours:.4f}}}}")
```

## Where this stops being the right tool

| Limit | At | Then |
| --- | --- | --- |
| A manifest is one file of at most 1 GiB, 218 bytes for a shard | 4.9 million shards: 165 TB of 32 MiB | a larger `shard_bytes` |
| To resume or to use a store again, samples are compared by their hashes: 25 bytes of memory for each | a billion: 25 GB | several stores, one for each part of the data |
| `indices=`, `validation_split=`, `views=` and `shuffle="rows"` take 8 bytes for each sample | a billion: 8 GB | `shuffle="blocks"` of a whole store, and a store of its own for validation |
| One writer, or one caller of Ray for a Ray dataset, adds shards one after the other (of local data each actor of Ray adds its own) | an object store that answers in 50 ms: some 7 shards, 200 MB, a second | several stores |
| A shard is fetched whole | a few rows of a large remote store | a table with an index: Lance |
| Samples of one shape | texts and sounds of any length | WebDataset, or Grain with ArrayRecord |
| Only features, of one trunk | a pipeline of decoding, augmentation and packing | Grain, WebDataset |

A shard is a safetensors file with a row for each sample, so each of these can be filled from a store without Keras:
`store.take(range(start, stop))` gives the rows in order. `kg.features.export` does it for two formats:
[how](features.md#other-libraries). Grain and Lance read Parquet, so neither has a format of its own here.

Measured by `benchmarks/export.py`, in one run: 20,000 samples of 1,024 float32 and a target, in memory. The time is that
of the processor, for batches of 250 samples; `webdataset` 1.0.2 and `pyarrow` 26.0.1 read the exports, in one process.

| What | samples a second of one core | time, of reading the store | bytes on the disk |
| --- | --- | --- | --- |
| the store, in order | 767,975 | 1.0 | 82 MB |
| the store, shuffled by rows | 229,188 | 3.4 | 82 MB |
| export to WebDataset | 11,087 | 69.3 | 123 MB |
| WebDataset, in order | 3,563 | 215.5 | 123 MB |
| export to Parquet | 49,284 | 15.6 | 82 MB |
| Parquet, in order | 65,551 | 11.7 | 82 MB |

A tar file has a head for each array of each sample, and its reader makes each array by itself: that is the cost of small
samples of any shape. So export vectors as Parquet, and to WebDataset only what its pipeline needs. To export 100
million such vectors takes one core 2.5 hours to WebDataset, and 0.6 hours to Parquet.
"""


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--print", action="store_true")
    shown: Any = options.parse_args().print
    resnet = keras.applications.ResNet50(weights=None)
    text = TEXT.format(
        resnet=markdown(rows("ResNet50", resnet)), vit=markdown(rows("ViT-B/16", vit()))
    )
    if shown:
        print(text)
    else:
        (ROOT / "docs" / "scale.md").write_text(text)


if __name__ == "__main__":
    main()
