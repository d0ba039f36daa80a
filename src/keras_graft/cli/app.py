"""The command `keras-graft`: one function for each verb; Keras is imported when one runs."""

from keras_graft.cli import demo, features, fit, models  # noqa: F401 - they add themselves to it
from keras_graft.cli.command import app as app
