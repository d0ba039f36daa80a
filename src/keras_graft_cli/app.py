"""The command `keras-graft`: importing this registers all its commands."""

from keras_graft_cli import (  # noqa: F401 - they add themselves, in the order of the help
    compare,
    demo,
    edit,
    features,
    fit,
    look,
    parts,
    schema,
    steps,
    structure,
    view,
    weights,
)  # isort: skip
from keras_graft_cli.group import app as app
