"""Path patching: which attention head of a trained transformer carries the answer, and on which way?

One head was planted: only it can see the first token, which is the answer. Every head is exchanged for what
it gives in another run, one by one, with one model that was built once.
"""

import keras
import numpy as np
from keras import layers, ops

import keras_graft as kg

BLOCKS, HEADS, LENGTH, TOKENS, WIDTH = 3, 4, 8, 10, 32
PLANTED = (1, 2)  # head 2 of block 1

keras.utils.set_random_seed(1)
rng = np.random.default_rng(1)

# In all heads but one, no token sees the first one.
hidden = np.zeros((BLOCKS, HEADS, LENGTH, LENGTH), "float32")
hidden[..., 0] = -1e9
hidden[PLANTED][:, 0] = 0

tokens = keras.Input((LENGTH,), dtype="int32", name="tokens")
place = layers.Embedding(LENGTH, WIDTH, name="place")(ops.zeros_like(tokens) + np.arange(LENGTH))
x = layers.Add(name="embed")([layers.Embedding(TOKENS, WIDTH, name="token")(tokens), place])
for block in range(BLOCKS):
    normed = layers.LayerNormalization(name=f"norm_{block}")(x)
    q, k, v = (
        layers.Reshape((LENGTH, HEADS, WIDTH // HEADS))(
            layers.Dense(WIDTH, name=f"{part}_{block}")(normed)
        )
        for part in ("query", "key", "value")
    )
    scores = ops.einsum("bqhd,bkhd->bhqk", q, k) / (WIDTH // HEADS) ** 0.5 + hidden[block]
    heads = ops.einsum("bhqk,bkhd->bqhd", ops.softmax(scores), v)
    heads = layers.Identity(name=f"heads_{block}")(heads)  # (batch, length, heads, size of a head)
    flat = layers.Reshape((LENGTH, WIDTH))(heads)
    x = layers.Add(name=f"attended_{block}")([x, layers.Dense(WIDTH, name=f"mix_{block}")(flat)])
    hidden_units = layers.Dense(2 * WIDTH, activation="gelu", name=f"up_{block}")(x)
    x = layers.Add(name=f"block_{block}")(
        [x, layers.Dense(WIDTH, name=f"mlp_{block}")(hidden_units)]
    )
model = keras.Model(tokens, layers.Dense(TOKENS, name="logits")(x[:, -1]), name="transformer")

data = rng.integers(0, TOKENS, (2560, LENGTH))
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(1e-2), loss)
model.fit(data, data[:, 0], batch_size=64, epochs=4, verbose=0)

clean = rng.integers(0, TOKENS, (200, LENGTH))
other = clean.copy()  # the same but for the first token: another answer
other[:, 0] = (clean[:, 0] + rng.integers(1, TOKENS, 200)) % TOKENS
found = (model.predict(clean, verbose=0).argmax(-1) == clean[:, 0]).mean()
print(f"trained: the last token gives the first one in {found:.0%} of new sequences\n")

# One model for all questions: a number that is given replaces that of the model, NaN keeps it.
names = [f"heads_{block}" for block in range(BLOCKS)]
keep = kg.record(model, clean, names, batch_size=200)
swap = kg.record(model, other, names, batch_size=200)
patched = kg.patch(
    model,
    {
        name: kg.Given(f"{name}_given", lambda x, new: ops.where(ops.isnan(new), x, new))
        for name in names
    },
)
nothing = {name: np.full_like(keep[name], np.nan) for name in names}


def gap(logits):
    """Return by how much the answer of `clean` is above that of `other`."""
    rows = np.arange(len(clean))
    return (logits[rows, clean[:, 0]] - logits[rows, other[:, 0]]).mean()


ends = [gap(model.predict(x, batch_size=200, verbose=0)) for x in (clean, other)]


def moved(given):
    """Return which part of the way the logits go from the answer of `clean` to that of `other`."""
    values = {f"{name}_given": value for name, value in {**nothing, **given}.items()}
    logits = patched.predict({"tokens": clean, **values}, batch_size=200, verbose=0)
    return (ends[0] - gap(logits)) / (ends[0] - ends[1])


effects = np.zeros((BLOCKS, HEADS))
for block, name in enumerate(names):
    for head in range(HEADS):
        value = nothing[name].copy()
        value[:, -1, head] = swap[name][:, -1, head]  # what the last token gets from it
        effects[block, head] = moved({name: value})
print("the part of the answer that moves with what the last token gets from each head")
print("          " + "  ".join(f"head {head}" for head in range(HEADS)))
for block in range(BLOCKS):
    print(f"block {block}   " + "  ".join(f"{effect:6.2f}" for effect in effects[block]))

block, head = np.unravel_index(effects.argmax(), effects.shape)
print(f"\nfound: head {head} of block {block}; planted: head {PLANTED[1]} of block {PLANTED[0]}")

# The way from there: the heads of the last block are held at what they give in the clean run.
name = names[block]
value = nothing[name].copy()
value[:, -1, head] = swap[name][:, -1, head]  # what the last token gets from it
direct = moved({name: value, names[-1]: keep[names[-1]]})
print(
    f"with the heads of the last block held at the clean run it moves {direct:.2f}: the direct way"
)

assert (block, head) == PLANTED and effects.max() > 0.5
assert np.sort(effects.ravel())[-2] < 0.3
