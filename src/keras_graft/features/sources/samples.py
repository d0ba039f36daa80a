"""A torch `Dataset` that gives single samples, put together into batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_graft.errors import FeatureError

tree = keras.tree


def is_samples(data: Any) -> bool:
    """Whether it is a torch `Dataset` of samples that are got by their numbers."""
    kinds = {c.__name__ for c in type(data).__mro__ if c.__module__.startswith("torch.utils.data")}
    return "Dataset" in kinds and "IterableDataset" not in kinds and hasattr(data, "__len__")


def collated(data: Any, batch_size: int) -> Iterator[Any]:
    """Yield the batches of a torch `Dataset`, in order.

    Raises:
        FeatureError: If samples of a batch have different shapes.
    """
    for start in range(0, len(data), batch_size):
        samples = [data[i] for i in range(start, min(start + batch_size, len(data)))]
        # A sample may be a list of inputs and targets.
        samples = [tuple(s) if isinstance(s, list) and len(s) <= 3 else s for s in samples]
        try:
            yield tree.map_structure(lambda *leaves: _stacked(leaves), *samples)
        except ValueError as error:
            shapes = {str(tree.map_structure(np.shape, s)) for s in samples}
            raise FeatureError(
                f"The samples {start} to {start + len(samples) - 1} cannot be one batch: they have the "
                f"shapes {', '.join(sorted(shapes)[:3])}. Bring them to one shape in the dataset's "
                "__getitem__."
            ) from error


def _stacked(leaves: Any) -> Any:
    if all(isinstance(leaf, str | bytes) for leaf in leaves):
        return np.array(leaves, object)
    if hasattr(leaves[0], "detach"):  # a tensor of torch
        leaves = [leaf.detach().cpu() for leaf in leaves]
        if str(leaves[0].dtype) == "torch.bfloat16":
            leaves = [leaf.float() for leaf in leaves]
    return np.stack([np.asarray(leaf) for leaf in leaves])
