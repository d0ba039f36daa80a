"""What a user gives as data, made ready for a model: a path becomes a folder of images."""

from __future__ import annotations

import os
from typing import Any

from keras_graft.features.sources.image_folder import ImageFolder


def opened(data: Any, model: Any, batch_size: int = 32) -> Any:
    """Return data as it is read: a path becomes an `ImageFolder` of the sizes that a model takes.

    Args:
        data: Data as a user gives it, or the path of a folder of images.
        model: The model that reads it.
        batch_size: Samples in a batch of a folder that is given as a path.

    Raises:
        FeatureError: If there is no such folder, or if the model does not say which size images
            must have.
    """
    if isinstance(data, str | os.PathLike):
        data = ImageFolder(data, batch_size=batch_size)
    return data.sized_for(model) if isinstance(data, ImageFolder) else data


def class_names(data: Any) -> tuple[str, ...] | None:
    """Return the names of the classes that targets are numbers of, or None if data has none.

    They are `class_names` of an `ImageFolder` and of what `keras.utils.image_dataset_from_directory`
    gives, and `classes` of the folders of torchvision, also inside a `DataLoader`.
    """
    for owner in (data, getattr(data, "dataset", None)):
        for name in ("class_names", "classes"):
            found = getattr(owner, name, None)
            if isinstance(found, list | tuple) and found and all(isinstance(n, str) for n in found):
                return tuple(found)
    return None
