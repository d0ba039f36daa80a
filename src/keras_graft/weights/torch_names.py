"""The question `torch_names`: which module of PyTorch is which layer of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras_graft.weights.match import Match
from keras_graft.weights.report import ModulePair
from keras_graft.weights.torch_format.names import Names
from keras_graft.weights.torch_format.report import TorchNames
from keras_graft.weights.torch_format.source import torch_source
from keras_graft.weights.transplant import target_groups


def torch_names(
    source: Any,
    target: Any,
    match: Match | Names = "name",
    keep: str | Sequence[str] | None = None,
) -> TorchNames:
    """Say which module of PyTorch would become which layer; nothing is copied.

    What `transplant` would refuse, as several modules may be one layer, is guessed here by order.
    Write the answer to a file, correct the guesses, and give the file to `transplant` as `match=`.

    Args:
        source: A file, a state dict or a PyTorch module, as for `transplant(names="torch")`.
        target: A built model or layer.
        match: What is known already, as for `transplant`.
        keep: Globs of modules and layers to leave out.

    Returns:
        The report: prints as a table, has `mapping`, `save(path)` and `to_dict()`.

    Raises:
        WeightsError: If the source cannot be read, or `match` does not fit.

    >>> import keras, numpy as np, keras_graft as kg
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="out")], name="m")
    >>> state = {"fc.weight": np.ones((2, 4), "float32"), "fc.bias": np.zeros(2, "float32")}
    >>> print(kg.torch_names(state, model))
    the state dict and 'm'
                      count
    modules by shape      1
    <BLANKLINE>
    module  layer  how
    fc      out    shape
    """
    into = target_groups(target)
    with torch_source(source, into, match, keep) as found:
        rows = list(found.rows())
        for modules, slots in found.found.doubts:
            its = sorted(modules, key=lambda m: (m.numbers, m.name))
            for module, slot in zip(its, slots, strict=False):
                rows.append(ModulePair(found.name_of(module, slot), slot.address, "guess"))
        place = {slot.address: i for i, slot in enumerate(found.slots)}
        rows.sort(key=lambda row: place[row.layer])
        known = {row.module for row in rows} | {row.module.removesuffix(".weight") for row in rows}
        layers = {row.layer for row in rows}
        return TorchNames(
            found.label,
            getattr(target, "name", ""),
            tuple(rows),
            tuple(m.name for m in found.modules if m.name not in known),
            tuple(s.address for s in found.slots if s.address not in layers),
        )
