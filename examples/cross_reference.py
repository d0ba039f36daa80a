"""Cross-reference weights: the output layer of a language model is its embedding, transposed.

The article's `EmbeddingDense`, as a layer (`TiedDense`) and as an edit of a model that is there
already (`tie`). Keras itself would count the matrix twice, save it twice and clone it apart.
"""

import tempfile
from pathlib import Path

import keras
import numpy as np

import keras_graft as kg

words = keras.Input((6,), dtype="int32", name="words")
embedding = keras.layers.Embedding(100, 16, mask_zero=True, name="embedding")
x = keras.layers.LSTM(16, return_sequences=True, name="lstm")(embedding(words))

# Written anew: a layer that works with the matrix of another.
tied = keras.Model(words, kg.layers.TiedDense(embedding, activation="softmax", name="out")(x))

# There already: the output layer loses its own kernel, and nothing else changes.
model = keras.Model(words, keras.layers.Dense(100, activation="softmax", name="out")(x))
also = kg.tie(model, "out/kernel", "embedding/embeddings", transform="transpose")
print(f"{model.count_params():,} parameters; tied {also.count_params():,}, "
      f"and written so {tied.count_params():,}\n")  # fmt: skip
print(kg.sharing(also), "\n")

# One variable, trained from both places; clones, edits and files keep it one.
ids = np.random.default_rng(0).integers(1, 100, (32, 6))
also.compile("adam", "sparse_categorical_crossentropy")
also.fit(ids, ids, epochs=2, verbose=0)
edited = kg.insert(kg.clone(also), keras.layers.Dropout(0.1, name="dropout"), after="lstm")
with tempfile.TemporaryDirectory() as folder:
    edited.save(Path(folder) / "tied.keras")
    loaded = keras.models.load_model(Path(folder) / "tied.keras")
for step in (also, edited, loaded):
    matrix = keras.ops.convert_to_numpy(step.get_layer("embedding").embeddings)
    kernel = keras.ops.convert_to_numpy(step.get_layer("out").kernel)
    assert np.array_equal(kernel, matrix.T) and step.count_params() == also.count_params()
print("trained, cloned, edited, saved and loaded: one matrix still")

apart = kg.untie(loaded, "out/kernel")
print(f"untied: {apart.count_params():,} parameters")
