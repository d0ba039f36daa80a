"""Tasks of keras_hub: a backbone with a head, a preprocessor and methods such as `generate`."""
