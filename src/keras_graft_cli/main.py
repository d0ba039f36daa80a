"""Where the command starts."""

from __future__ import annotations

import functools
import importlib.util
import os
import sys

PROGRAM = "keras-graft"
COMPLETE = "_KERAS_GRAFT_COMPLETE"
"""Set by the shell when it asks for completions (Typer's name, from that of the program)."""


def main() -> None:
    """Run the command. If its extra is missing, say what to install."""
    if importlib.util.find_spec("typer") is None or importlib.util.find_spec("rich") is None:
        sys.exit("The command needs an extra: pip install 'keras-graft[cli]'")
    from keras_graft_cli.app import app
    from keras_graft_cli.output import own_process

    own_process()
    run = functools.partial(app, prog_name=PROGRAM)
    if os.environ.get(COMPLETE) == "complete_bash":
        from keras_graft_cli.shells import completed

        completed(run, os.environ)
    else:
        run()


if __name__ == "__main__":
    main()
