"""A folder of small images in three classes, each with a colour of its own."""

import keras
import numpy as np


def photos(folder, counts=(24, 24, 12), size=14, seed=0):
    """Write images of red, green and blue noise, one folder for each class."""
    rng = np.random.default_rng(seed)
    for channel, (name, count) in enumerate(zip(("red", "green", "blue"), counts, strict=True)):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            image = rng.random((size, size, 3)) * 150
            image[..., channel] += 100
            keras.utils.save_img(folder / name / f"{number}.png", image, scale=False)
    return folder
