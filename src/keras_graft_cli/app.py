"""The command `keras-graft`: importing this registers all its commands."""

from keras_graft_cli import look, view, compare  # noqa: F401, I001 - in the order of the help
from keras_graft_cli import parts, edit, structure, smaller, steps, weights, fit, features  # noqa: F401
from keras_graft_cli import demo, schema  # noqa: F401
from keras_graft_cli.group import app as app
