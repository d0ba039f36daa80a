"""A small BERT on real text, its output tied to its embedding: trained, saved, loaded, cut, cloned.

The text is that of Python's own `help()`. One word in seven is hidden, and the model guesses it.
"""

import collections
import re
import tempfile
from pathlib import Path
from pydoc_data.topics import topics

import keras
import keras_hub
import numpy as np

import keras_graft as kg

LENGTH, WORDS, SIZE = 24, 1000, 64
keras.utils.set_random_seed(3)
words = re.findall(r"[a-z]+", " ".join(topics.values()).lower())
common = [w for w, _ in collections.Counter(words).most_common(WORDS - 3)]
number = {w: i for i, w in enumerate(["[pad]", "[mask]", "[other]", *common])}
ids = np.array([number.get(w, 2) for w in words])
lines = ids[: len(ids) // LENGTH * LENGTH].reshape(-1, LENGTH)
hidden = (np.random.default_rng(0).random(lines.shape) < 1 / 7) & (lines > 2)
seen = np.where(hidden, 1, lines)
held = np.arange(len(lines)) % 10 == 0


tokens = keras.Input((LENGTH,), dtype="int32", name="tokens")
embedding = keras.layers.Embedding(WORDS, SIZE, name="embedding")
x = embedding(tokens)
x = keras.layers.Add(name="embedded")([x, keras_hub.layers.PositionEmbedding(LENGTH)(x)])
for i in range(2):
    x = keras_hub.layers.TransformerEncoder(2 * SIZE, 4, name=f"encoder{i}")(x)
head = kg.layers.TiedDense(embedding, name="word")
model = keras.Model(tokens, head(x), name="masked_language_model")


def right(model):
    """Return the share of hidden words that the model guesses, in lines it was not trained on."""
    guessed = np.concatenate(
        [keras.ops.convert_to_numpy(model(part)).argmax(-1) for part in np.split(seen[held], 4)]
    )
    return float((guessed == lines[held])[hidden[held]].mean())


def train(model, epochs):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss)
    model.fit(seen[~held], lines[~held], sample_weight=hidden[~held].astype("float32"),
              batch_size=64, epochs=epochs, verbose=0)  # fmt: skip


held = np.flatnonzero(held)[: int(held.sum()) // 4 * 4]
held = np.isin(np.arange(len(lines)), held)
train(model, 6)
one = collections.Counter(lines[~held][hidden[~held]].tolist()).most_common(1)[0][0]
always = float((lines[held][hidden[held]] == one).mean())
print(f"{len(lines):,} lines of {LENGTH} words; {model.count_params():,} parameters, "
      f"of them {embedding.count_params():,} in the one matrix")  # fmt: skip
print(f"hidden words guessed right: {right(model):.3f}; always {common[one - 3]!r}: {always:.3f}")

with tempfile.TemporaryDirectory() as folder:
    model.save(Path(folder) / "model.keras")
    loaded = keras.models.load_model(Path(folder) / "model.keras")
trunk, rest = kg.split(loaded, at="encoder0")
joined = kg.join(trunk, rest)
others = {"loaded": loaded, "cut and joined": joined, "cloned": kg.clone(joined)}
for name, other in others.items():
    equal = np.array_equal(*(keras.ops.convert_to_numpy(m(seen[:64])) for m in (model, other)))
    others[name] = other, equal
for name, (other, equal) in others.items():
    train(other, 1)
    matrix, kernel = other.get_layer("embedding").embeddings, other.get_layer("word").kernel
    tied = np.array_equal(*map(keras.ops.convert_to_numpy, (kernel, keras.ops.transpose(matrix))))
    print(f"{name:14}  {other.count_params():,} parameters, equal to the bit: {equal}; "
          f"one epoch on, still tied: {tied}")  # fmt: skip
assert right(model) > 2 * always
