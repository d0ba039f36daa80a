"""Open a layer whose `call` is Python code: run it on symbolic tensors, and keep the calls."""
