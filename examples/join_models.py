"""Join: a trunk of one model under the head of another, also of two loads of the same file."""

import tempfile
from pathlib import Path

import keras
import numpy as np

import keras_graft as kg

model = keras.applications.MobileNetV3Small(weights=None, input_shape=(32, 32, 3), classes=4)
cut = "expanded_conv_5_add"
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "model.keras"
    model.save(path)
    first, second = keras.models.load_model(path), keras.models.load_model(path)

    # All their layers have the same names. No layer of a donor is renamed.
    trunk, head = kg.split(first, at=cut)[0], kg.split(second, at=cut)[1]
    mixed = kg.join(trunk, head)
    x = np.random.default_rng(0).random((2, 32, 32, 3), "float32")
    same = map(keras.ops.convert_to_numpy, (model(x), mixed(x)))
    assert np.array_equal(*same)
    print("trunk of the first load, head of the second: equal to the bit")

    # A new head on the same trunk, as one flat model that Keras saves and loads.
    features = keras.Input(trunk.output.shape[1:], name="features")
    y = keras.layers.GlobalAveragePooling2D(name="pool")(features)
    joined = kg.join(
        trunk, keras.Model(features, keras.layers.Dense(2, name="new")(y), name="new_head")
    )
    joined.save(path)
    loaded = keras.models.load_model(path)
    assert np.array_equal(*map(keras.ops.convert_to_numpy, (joined(x), loaded(x))))

report = kg.diff(model, joined)
print(f"shared {report.shared_parameters:,}, new {report.new_parameters:,}, "
      f"dropped {report.dropped_parameters:,} parameters")  # fmt: skip
