"""Run the command in this process."""

import jsonschema
from typer.testing import CliRunner

from keras_graft_cli.app import app
from keras_graft_cli.schema import schema_of


def run(*args, code=0):
    result = CliRunner().invoke(app, [str(a) for a in args])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def data(*args, code=0):
    """Return what a command prints as JSON, checked against its schema."""
    import json

    result = run(*args, "--json", code=code)
    found = json.loads(result.stdout)
    name = " ".join(args[:2]) if args[0] == "features" else args[0]
    jsonschema.validate(found, schema_of(str(name)))
    return found
