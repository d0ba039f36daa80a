"""Trained weights into another model: for grey images, and with other classes."""

import tempfile
from pathlib import Path

import keras

import keras_graft as kg


def network(channels, classes):
    return keras.applications.MobileNetV2(
        weights=None, input_shape=(32, 32, channels), classes=classes, name=f"for_{classes}"
    )


trained, target = network(3, 10), network(1, 4)

# By name and shape. What does not fit is listed, with what may help; nothing has changed.
try:
    kg.transplant(trained, target)
except kg.WeightsError as error:
    print(error, "\n")

# Said how: grey sums the kernels of three channels; three old classes stay, one is new.
rules = [kg.resize.channels("mean"), kg.resize.classes(keep=[7, 2, 5, None])]
print(kg.transplant(trained, target, resize=rules), "\n")

# A file does as well as a model. Its weights are found by the names of their layers.
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "trained.weights.h5"
    trained.save_weights(path)
    again = network(3, 10)
    report = kg.transplant(path, again)
    print(f"from the file: {len(report.moved)} of {len(again.weights)} weights")
