"""A small BERT on real text, its output tied to its embedding: trained, saved, loaded, cut, cloned.

The text is that of Python's own `help()`. One letter in seven is hidden, and the model guesses it.
"""

import tempfile
from pathlib import Path
from pydoc_data.topics import topics

import keras
import keras_hub
import numpy as np

import keras_graft as kg

LENGTH, SIZE = 16, 64
keras.utils.set_random_seed(3)
text = " ".join(topics.values()).lower()
letters = ["[mask]", *sorted(set(text))]
ids = np.array([letters.index(letter) for letter in text])
lines = ids[: len(ids) // LENGTH * LENGTH].reshape(-1, LENGTH)
held, fit = lines[::10], np.concatenate([lines[i::10] for i in range(1, 10)] * 2)


def hide(lines, seed):
    hidden = np.random.default_rng(seed).random(lines.shape) < 1 / 7
    return np.where(hidden, 0, lines), hidden


tokens = keras.Input((LENGTH,), dtype="int32", name="tokens")
embedding = keras.layers.Embedding(len(letters), SIZE, name="embedding")
x = embedding(tokens)
x = keras.layers.Add(name="embedded")([x, keras_hub.layers.PositionEmbedding(LENGTH)(x)])
for i in range(2):
    x = keras_hub.layers.TransformerEncoder(2 * SIZE, 4, normalize_first=True, name=f"encoder{i}")(
        x
    )
head = kg.layers.TiedDense(embedding, name="letter")
model = keras.Model(tokens, head(x), name="masked_language_model")
held_seen, held_hidden = hide(held, 0)


def right(model):
    """Return the share of hidden letters that the model guesses, in lines it was not trained on."""
    guessed = model.predict(held_seen, batch_size=512, verbose=0).argmax(-1)
    return float((guessed == held)[held_hidden].mean())


def train(model, lines, rate):
    seen, hidden = hide(lines, 1)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss)
    model.fit(seen, lines, sample_weight=hidden.astype("float32"), batch_size=64, verbose=0)


train(model, fit, 4e-3)
always = float((held[held_hidden] == np.bincount(ids).argmax()).mean())
print(f"{len(lines):,} lines of {LENGTH} letters; {model.count_params():,} parameters, "
      f"of them {embedding.count_params():,} in the one matrix")  # fmt: skip
print(f"hidden letters guessed right: {right(model):.3f}; always a space: {always:.3f}\n")

with tempfile.TemporaryDirectory() as folder:
    model.save(Path(folder) / "model.keras")
    loaded = keras.models.load_model(Path(folder) / "model.keras")
trunk, rest = kg.split(loaded, at="encoder0")
joined = kg.join(trunk, rest)
print(f"cut: {trunk.count_params():,} and {rest.count_params():,} parameters; joined "
      f"{joined.count_params():,}")  # fmt: skip
steps = {"loaded": loaded, "joined": joined, "cloned": kg.clone(joined)}
wanted = keras.ops.convert_to_numpy(model(held_seen[:64]))
for name, other in steps.items():
    equal = np.array_equal(wanted, keras.ops.convert_to_numpy(other(held_seen[:64])))
    print(f"{name}: {other.count_params():,} parameters, equal to the bit: {equal}")
    assert equal and other.count_params() == model.count_params()

for name, other in steps.items():
    train(other, fit[:640], 1e-3)
    matrix, kernel = other.get_layer("embedding").embeddings, other.get_layer("letter").kernel
    tied = np.array_equal(*map(keras.ops.convert_to_numpy, (kernel, keras.ops.transpose(matrix))))
    print(f"{name}, and trained on: still one matrix: {tied}")
    assert tied
assert right(model) > 1.3 * always
