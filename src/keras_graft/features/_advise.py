"""Where to cut a model: the size of a store at each place, and the compute that it saves."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any, NamedTuple

from keras_graft.errors import FeatureError
from keras_graft.features.data import count
from keras_graft.features.sources.given import opened
from keras_graft.look.cuts import MOST, Cut, Cuts, cuts, in_order, printed, smallest
from keras_graft.tables import Table, Tabular, counted


class Place(NamedTuple):
    """One place to cut.

    Attributes:
        cut: The cut, as in `kg.cuts`; itself a selector.
        bytes_per_sample: The size of one sample; None where a length is unknown.
        bytes_in_all: The size of a store of all samples; None where a length is unknown.
        compute_saved: The share of the multiply-adds that lies below. A store does it once.
    """

    cut: Cut
    bytes_per_sample: int | None
    bytes_in_all: int | None
    compute_saved: float


@dataclass(frozen=True, repr=False)
class Advice(Tabular):
    """What each cut of a model would cost and save; prints as a table of the smallest.

    Attributes:
        samples: For how many samples.
        rows: For each cut: the cut, bytes per sample, bytes in all, and the share of the
            multiply-adds that lies below it. A store does that share only once.
        dtype: What floating features are kept as; None: the dtype that they have.
        most: How many are printed; None: all.
    """

    samples: int
    rows: tuple[Place, ...]
    dtype: str | None = None
    most: int | None = MOST

    def tables(self) -> list[Table]:
        """Return the smallest cuts as a table, one per line."""
        head = ("cut", "output", "bytes/sample", "bytes in all", "compute saved")
        cuts, told = smallest([row.cut for row in self.rows], self.most)
        kept = "" if self.dtype is None else f", kept as {self.dtype}"
        title = tuple(filter(None, (counted(self.samples, "sample") + kept, told)))
        names = {cut.name for cut in cuts}
        return [(title, head, [
            (cut.name, cut.spec or "?", str(cut.size), cut.size.times(self.samples), f"{share:.1%}")
            for cut, _, _, share in self.rows if cut.name in names
        ])]  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Return all cuts as plain data, ready for JSON."""
        return {
            "samples": self.samples,
            "dtype": self.dtype,
            "cuts": [
                data | {"bytes_in_all": row.bytes_in_all, "compute_saved": row.compute_saved}
                for data, row in zip(
                    Cuts(row.cut for row in self.rows).to_dict(), self.rows, strict=True
                )
            ],
        }


def advise(
    model: Any,
    data: Any,
    *,
    sort: str = "graph",
    most: int | None = MOST,
    input_shape: Any = None,
    dtype: str | None = None,
) -> Advice:
    """Say for each cut of a model how large a store of its features is, and what it saves.

    The share of compute is that of the multiply-adds that `kg.costs` counts. A length that the model
    leaves open counts as one, unless `input_shape` says it; what is not known counts as nothing.

    Args:
        model: A Keras model or a `Graph`.
        data: How many samples, or the data itself, as `kg.features.compute` takes it.
        sort: "graph": in the order of the graph. "bytes": the smallest store first.
        most: How many to print: those with the smallest tensor. None: all.
        input_shape: The shape of one sample, for a model that leaves lengths open, as for
            `kg.cuts`.
        dtype: What floating features are kept as, as for `kg.features.compute`; None: the dtype
            that they have.

    Raises:
        FeatureError: If the number of samples is not known, or not 1 or more.
        SelectionError: If another argument is none of these.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((8,), name="x")
    >>> h = keras.layers.Dense(4, name="h")(x)
    >>> print(kg.features.advise(keras.Model(x, keras.layers.Dense(8, name="out")(h)), 1000))
    1,000 samples
    cut  output          bytes/sample  bytes in all  compute saved
    h    (?, 4) float32          16 B         16 kB          50.0%
    """
    samples = int(data) if isinstance(data, Integral) else count(opened(data, model))
    if samples is not None and samples < 1:
        raise FeatureError(f"There are {samples} samples: give a number of 1 or more, or data.")
    if samples is None:
        raise FeatureError(
            "The data does not say how many samples it has: give their number, "
            "kg.features.advise(model, 50_000)."
        )
    most = printed(most, "advise")
    rows = []
    for cut in cuts(model, dtype=dtype, input_shape=input_shape):
        each = cut.bytes_per_sample
        rows.append(Place(cut, each, None if each is None else each * samples, cut.compute_below))
    ordered = in_order(rows, sort, lambda row: row.cut.size, "advise")
    return Advice(samples, tuple(ordered), dtype, most)
