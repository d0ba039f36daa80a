"""What users write today, once for each backend."""

import keras
import numpy as np


def gradient_by_hand(run, tensor):
    """Return the gradient of a function of a tensor, as an array."""
    backend = keras.backend.backend()
    if backend == "torch":
        tensor = tensor.detach().clone().requires_grad_()
        run(tensor).backward()
        found = np.zeros(tuple(tensor.shape)) if tensor.grad is None else tensor.grad.cpu()
    elif backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(tensor)
            total = run(tensor)
        found = tape.gradient(total, tensor, unconnected_gradients="zero")
    else:
        import jax

        found = jax.grad(run)(tensor)
    return np.asarray(found)
