"""A folder of images, one folder inside it for each class."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from numbers import Integral
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_graft.errors import FeatureError
from keras_graft.features.store.failures import said
from keras_graft.graph.names import listed
from keras_graft.printable import quoted, shown, words_of
from keras_graft.tables import counted

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
"""The files that are read as images, whatever the case of their letters."""
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_THREADS = 8


class ImageFolder(keras.utils.PyDataset):
    """Images in a folder, as batches of (images, classes), read when they are needed.

    Each folder inside is a class, and its images may lie deeper. Classes are numbered in the order
    of their names, and images come in the order of their paths, the same each time. Several threads
    decode a batch. Images are float32 from 0 to 255, resized as the model takes them; grey, palette
    and transparent images are converted. Hidden files are left out, and files that are not images
    are listed in `ignored`.

    It is what `data="photos/"` makes, and a Keras `PyDataset`: `model.fit` takes it too. Needs
    Pillow.

    Args:
        path: The folder. If it has images and no folders inside, there are no targets.
        size: Height and width of the images; None: those of the model's input.
        channels: 1, 3 or 4; None: those of the model's input, or 3.
        batch_size: Images in a batch.
        classes: The names of folders, in the order in which they are numbered; None: all, sorted.

    Attributes:
        class_names: The names of the classes.
        keys: The path of each image in the folder, `"cats/1.jpg"`: what a store has as keys.
        targets: The number of the class of each image; None if there are no classes.
        ignored: The paths of files that are not images.
        samples: How many images there are.

    Raises:
        FeatureError: If there is no such folder, no image in it, or if a file is damaged: it names
            the file.

    >>> import numpy as np, tempfile, pathlib, keras, keras_graft as kg
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("cats", "dogs"):
    ...         pathlib.Path(folder, name).mkdir()
    ...         keras.utils.save_img(f"{folder}/{name}/1.png", np.zeros((9, 9, 3)))
    ...     images = kg.features.ImageFolder(folder, size=(4, 4))
    ...     images.class_names, images.keys, images[0][0].shape, images[0][1].tolist()
    (('cats', 'dogs'), ('cats/1.png', 'dogs/1.png'), (2, 4, 4, 3), [0, 1])
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        size: tuple[int, int] | None = None,
        channels: int | None = None,
        batch_size: int = 32,
        classes: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.path = Path(os.path.expanduser(path))
        _check(size, channels, batch_size)
        self.size, self.channels, self.batch_size = size, channels, int(batch_size)
        self._first = False  # whether channels come first
        folders, top = _listed(self.path)
        missing = [name for name in classes or () if name not in folders]
        if missing:
            raise FeatureError(
                f"{quoted(str(self.path))} has no folder {listed(missing)}: it has {listed(folders)}."
            )
        self.class_names = tuple(folders if classes is None else classes)
        found = [
            (key, number)
            for number, name in enumerate(self.class_names)
            for key in self._files(self.path / name)
        ]
        if not folders:
            found = [(name, 0) for name in top]
        elif top:
            found += [(name, -1) for name in top]
        images = [pair for pair in found if pair[1] >= 0 and pair[0].lower().endswith(SUFFIXES)]
        kept = set(images)
        self.ignored = tuple(pair[0] for pair in found if pair not in kept)
        if not images:
            raise FeatureError(
                f"{quoted(str(self.path))} has no images in the folders {listed(self.class_names)}: "
                f"images end with {', '.join(SUFFIXES)}."
                if self.class_names
                else f"{quoted(str(self.path))} is empty, or has no images: images end with "
                f"{', '.join(SUFFIXES)}."
            )
        self.keys = tuple(key for key, _ in images)
        numbers = np.array([number for _, number in images], "int32")
        self.targets = numbers if self.class_names else None
        self.samples = len(images)

    def _files(self, folder: Path) -> list[str]:
        """Return the paths of all files in a folder, in the order in which they are read."""
        found = []
        for place, folders, files in os.walk(folder):
            folders[:] = sorted(name for name in folders if not _hidden(name))
            here = Path(place).relative_to(self.path)
            found += [(here / name).as_posix() for name in sorted(files) if not _hidden(name)]
        return found

    def sized_for(self, model: Any) -> ImageFolder:
        """Return the folder with the sizes that a model takes, where none were given.

        Raises:
            FeatureError: If the model takes images of any size, or no images.
        """
        inputs = getattr(model, "inputs", None) or ()
        shape = tuple(inputs[0].shape[1:]) if len(inputs) == 1 else ()
        if len(shape) != 3:
            if self.size is not None and not inputs:
                return self
            takes = ", ".join(str(tuple(i.shape)) for i in inputs) or "inputs that it does not tell"
            raise FeatureError(
                f"{quoted(str(self.path))} is a folder of images, and {model.name!r} takes {takes}: give "
                "data of these shapes."
            )
        made = copy.copy(self)
        made._first = shape[0] in _MODES and shape[2] not in _MODES
        height, width, channels = (*shape[1:], shape[0]) if made._first else shape
        made.channels = self.channels or channels or 3
        if made.channels not in _MODES:
            raise FeatureError(
                f"{model.name!r} takes images of {channels} channels, and files have 1, 3 or 4: give "
                "arrays."
            )
        if self.size is None and (height is None or width is None):
            raise FeatureError(
                f"{model.name!r} takes images of any size, {shape}: say which, data=kg.features."
                f"ImageFolder({str(self.path)!r}, size=(224, 224))."
            )
        made.size = self.size or (height, width)
        return made

    @property
    def num_batches(self) -> int:
        """Batches in a pass; the last one may be smaller."""
        return -(-self.samples // self.batch_size)

    def __len__(self) -> int:
        return self.num_batches

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(f"There are {len(self)} batches, not number {shown(index)}.")
        if self.size is None:
            raise FeatureError(
                "The size of the images is not known: kg.features.ImageFolder("
                f"{str(self.path)!r}, size=(224, 224))."
            )
        own = slice(index * self.batch_size, (index + 1) * self.batch_size)
        # Pillow works without Python's lock. The threads end with the batch.
        with ThreadPoolExecutor(_THREADS) as threads:
            images = np.stack(list(threads.map(self._image, self.keys[own])))
        return images if self.targets is None else (images, self.targets[own])

    def _image(self, key: str) -> np.ndarray:
        """Return one image."""
        try:
            from PIL import Image
        except ImportError as error:
            raise FeatureError(
                "Images are read with Pillow, which is an extra: pip install 'keras-graft[features]'"
            ) from error
        assert self.size is not None
        height, width = self.size
        mode = _MODES[self.channels or 3]
        try:
            with Image.open(self.path / key) as file:
                # Of a large JPEG only as much is decoded as the size needs.
                file.draft("RGB", (width, height))
                image: Any = file
                if image.mode.startswith("I"):  # 16 bits
                    image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
                if image.mode == "P" and mode == "L":
                    image = image.convert("RGB")
                image = image.convert(mode).resize((width, height), Image.Resampling.BILINEAR)
                found = np.asarray(image, np.float32)
        except Exception as error:
            raise FeatureError(
                f"The image {quoted(str(self.path / key))} cannot be read: {words_of(error)}. Delete it, "
                "or move it out of the folder, and call again: what was computed is kept."
            ) from error
        found = found[..., None] if found.ndim == 2 else found
        return np.ascontiguousarray(np.moveaxis(found, -1, 0)) if self._first else found

    def __repr__(self) -> str:
        return f"<ImageFolder {str(self.path)!r}: {counted(self.samples, 'image')}, {counted(len(self.class_names), 'class', 'classes')}>"


def _listed(path: Path) -> tuple[list[str], list[str]]:
    """Return the names of the folders and of the files in a folder.

    Raises:
        FeatureError: If there is no such folder, or if it cannot be read.
    """
    try:
        found = [p for p in sorted(path.iterdir()) if not _hidden(p.name)]
        return [p.name for p in found if p.is_dir()], [p.name for p in found if p.is_file()]
    except (OSError, ValueError) as error:
        raise FeatureError(
            f"{shown(str(path))} is not a folder of images: {said(error)}. Give a folder with a folder of "
            "images for each class, data='photos', or arrays."
        ) from error


def _hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX")) or name in ("Thumbs.db", "desktop.ini")


def _check(size: Any, channels: Any, batch_size: Any) -> None:
    pair = isinstance(size, tuple | list) and len(size) == 2
    if size is not None and not (
        pair and all(isinstance(n, Integral) and int(n) > 0 for n in size)
    ):
        raise FeatureError(f"size must be (height, width), such as (224, 224), got {shown(size)}.")
    if channels is not None and channels not in _MODES:
        raise FeatureError(f"channels must be 1, 3 or 4, got {shown(channels)}.")
    if not isinstance(batch_size, Integral) or batch_size < 1:
        raise FeatureError(
            f"batch_size must be a whole number, 1 or more, got {shown(batch_size)}."
        )
