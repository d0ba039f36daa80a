"""`python -m keras_graft` and the command `keras-graft`."""

from __future__ import annotations

import importlib.util
import os
import sys


def main() -> None:
    """Run the command. If its extra is missing, say what to install."""
    if importlib.util.find_spec("typer") is None:
        sys.exit("The command needs an extra: pip install 'keras-graft[cli]'")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from keras_graft.cli.app import app

    app()


if __name__ == "__main__":
    main()
