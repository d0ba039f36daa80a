"""Weights of a PyTorch network into a Keras model, and back."""

import tempfile
from pathlib import Path

import keras
import numpy as np
import torch
from torch import nn

import keras_graft as kg


class Classifier(nn.Module):
    """A sequence classifier as it may be published, with its own names."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(100, 16)
        self.attn = nn.MultiheadAttention(16, 2, batch_first=True)
        self.norm = nn.LayerNorm(16)
        self.rnn = nn.LSTM(16, 8, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(16, 3)

    def forward(self, ids):
        x = self.embed(ids)
        x = self.norm(x + self.attn(x, x, x, need_weights=False)[0])
        return self.fc(self.rnn(x)[0].mean(1))


def classifier():
    ids = keras.Input((10,), dtype="int32")
    x = keras.layers.Embedding(100, 16, name="words")(ids)
    y = keras.layers.MultiHeadAttention(2, 8, name="attention")(x, x)
    x = keras.layers.LayerNormalization(epsilon=1e-5, name="after")(keras.layers.Add()([x, y]))
    rnn = keras.layers.LSTM(8, return_sequences=True, name="lstm")
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.Bidirectional(rnn, name="both")(x))
    return keras.Model(ids, keras.layers.Dense(3, name="head")(x), name="classifier")


theirs, model = Classifier().eval(), classifier()
ids = np.random.default_rng(0).integers(0, 100, (4, 10)).astype("int32")


def difference():
    """Return whether both compute the same."""
    with torch.no_grad():
        expected = theirs(torch.tensor(ids)).numpy()
    return np.abs(keras.ops.convert_to_numpy(model(ids)) - expected).max() < 1e-5


with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "theirs.pth"
    torch.save(theirs.state_dict(), path)

    # What would become what: nothing is copied yet.
    print(kg.torch_names(path, model), "\n")

    # The gates of the LSTM, its two biases and the three parts of in_proj_weight are converted.
    report = kg.transplant(path, model, names="torch")
    print("the same outputs:", difference())

    # Train it with Keras, and give it back.
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(ids, np.array([0, 1, 2, 0]), epochs=3, verbose=0)
    kg.save_weights(model, path, names="torch", like=theirs)
    theirs.load_state_dict(torch.load(path))
    print("the same outputs after training with Keras:", difference())
