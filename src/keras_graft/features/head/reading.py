"""How a dataset reads its stores: row by row or in blocks, and the part of one reader."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any

from keras_graft.errors import FeatureError
from keras_graft.features.head.memory import memory
from keras_graft.features.head.order import Share
from keras_graft.features.store.store import FeatureStore
from keras_graft.printable import shown
from keras_graft.tables import Table, Tabular, counted, in_bytes

_WINDOW = 1 << 30
"""The most bytes of a window. Two are in memory."""
_BLOCK = 64 << 10, 4 << 20
"""The fewest and the most bytes of a block: 4 MiB take a disk much longer than to find them."""
_MIXED = 64
"""Blocks in a window, where memory is short."""
_NOWHERE = 1 << 62


@dataclass(frozen=True, repr=False)
class Reading(Tabular):
    """How a dataset reads its stores; prints as a table.

    Attributes:
        shuffle: `"rows"`, `"blocks"`, or `"none"`.
        why: Why it was chosen.
        samples: How many samples one epoch of this reader has.
        share: The part of the samples that this reader gets.
        bytes: The size of the stores.
        memory: What this process may use of it, in bytes.
        block: The most samples of a block.
        window: Samples that are mixed with each other.
        window_bytes: The bytes of a window. Two are in memory.
    """

    shuffle: str
    why: str
    samples: int
    share: Share
    bytes: int
    memory: int
    block: int
    window: int
    window_bytes: int

    @property
    def dropped(self) -> int:
        """How many samples no reader gets in an epoch."""
        return self.share.dropped

    @property
    def repeated(self) -> int:
        """How many samples are given twice in an epoch."""
        return self.share.repeated

    def tables(self) -> list[Table]:
        """Return the table."""
        rows: list[tuple[str, object]] = [("shuffled", f"{self.shuffle} ({self.why})")]
        if self.shuffle == "blocks":
            block = counted(self.block, "sample") if self.block < _NOWHERE else "a shard"
            rows.append(("a block", block))
            rows.append(
                ("mixed at a time", f"{self.window:,} samples, {in_bytes(self.window_bytes)}")
            )
        rows.append(("samples an epoch", f"{self.samples:,}"))
        if self.share.world > 1:
            rows.append(("part", f"{self.share.rank} of {self.share.world} (counted from 0)"))
            rows.append(("left out of each epoch", f"{self.dropped:,}"))
            rows.append(("given twice in each epoch", f"{self.repeated:,}"))
        return [("", ("reading", ""), rows)]

    def to_dict(self) -> dict[str, Any]:
        """Return it as data."""
        return {
            "shuffle": self.shuffle, "why": self.why, "samples": self.samples, "bytes": self.bytes,
            "memory": self.memory, "block": self.block, "window": self.window,
            "window_bytes": self.window_bytes, "rank": self.share.rank, "world": self.share.world,
            "dropped": self.dropped, "repeated": self.repeated,
        }  # fmt: skip


def share(samples: int, part: Any, remainder: Any) -> Share:
    """Return the part of the samples that a reader gets.

    Raises:
        FeatureError: If it is none.
    """
    if remainder not in ("drop", "repeat"):
        raise FeatureError(f'remainder must be "drop" or "repeat", got {shown(remainder)}.')
    if part is None:
        return Share(samples)
    whole = isinstance(part, tuple | list) and len(part) == 2
    if not whole or not all(isinstance(n, Integral) and not isinstance(n, bool) for n in part) or (
        not 0 <= part[0] < part[1]
    ):  # fmt: skip
        raise FeatureError(
            f"part must be (rank, world), a number from 0 on and how many readers there are, got {shown(part)}. "
            "With torch: (torch.distributed.get_rank(), torch.distributed.get_world_size()); with JAX: "
            "(jax.process_index(), jax.process_count())."
        )
    found = Share(samples, int(part[0]), int(part[1]), remainder)
    if samples and not len(found):
        raise FeatureError(
            f"{counted(samples, 'sample')} cannot be divided among {found.world} readers: take fewer, or "
            'remainder="repeat".'
        )
    return found


def planned(
    stores: list[FeatureStore], shuffle: Any, own: Share, batch_size: int, row_bytes: int
) -> Reading:
    """Return how stores are read.

    Args:
        stores: The stores.
        shuffle: What the user asks for: a bool, `"rows"` or `"blocks"`.
        own: The part that is read.
        batch_size: Samples in a batch.
        row_bytes: Bytes of a sample in all stores.

    Raises:
        FeatureError: If `shuffle` is something else.
    """
    if not (isinstance(shuffle, bool) or shuffle in ("rows", "blocks")):
        raise FeatureError(
            f'shuffle must be True, False, "rows" or "blocks", got {shown(shuffle)}.'
        )
    size, there = sum(store.bytes for store in stores), memory()
    bounds = [store.cache_bytes for store in stores if store.cache_bytes is not None]
    if not shuffle:
        kind, why = "none", "as asked for"
    elif shuffle is not True:
        kind, why = shuffle, "as asked for"
    elif size > there // 2:
        kind, why = (
            "blocks",
            f"{in_bytes(size)} are more than half of the {in_bytes(there)} of memory",
        )
    elif bounds and size > min(bounds):
        kind, why = "blocks", f"{in_bytes(size)} are more than the cache of {in_bytes(min(bounds))}"
    else:
        kind, why = "rows", f"{in_bytes(size)} fit into the {in_bytes(there)} of memory"
    window = min(_WINDOW, there // 8)
    low, high = _BLOCK
    block = max(1, min(high, max(low, window // _MIXED)) // max(1, row_bytes))
    if any(store.fetched for store in stores):  # whole shards are fetched
        block = _NOWHERE
    rows = max(1, window // max(1, row_bytes) // batch_size) * batch_size
    rows = min(rows, -(-max(1, len(own)) // batch_size) * batch_size)
    return Reading(
        kind, why, len(own), own, size, there, block, rows, rows * row_bytes
    )  # fmt: skip
