"""Turn functions into commands: common options, errors in one line, exit codes, JSON."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import typer

from keras_graft_cli import options, output
from keras_graft_cli.backend import Backend, choose
from keras_graft_cli.errors import UsageError
from keras_graft_cli.group import app
from keras_graft_cli.progress import Progress
from keras_graft_cli.quiet import quiet, set_levels

_CONTEXT = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)

COMMANDS: dict[str, bool] = {}
"""The commands by name, as `features info`, and whether they print JSON."""


@dataclass
class Told:
    """What a command says.

    Attributes:
        data: For `--json`.
        shown: For people: text, or a report with tables.
        code: The exit code.
    """

    data: Any
    shown: Any = None
    code: int = 0


@dataclass
class Run:
    """One run of a command: its common options, and what is being done.

    Attributes:
        as_json: Print JSON.
        force: Overwrite files.
        input_shape: For `app:NAME`.
        modules: Modules to import first.
        unsafe: Let code in files run.
        progress: Says what is being done.
    """

    as_json: bool = False
    debug: bool = False
    backend: Backend | None = None
    force: bool = False
    input_shape: str | None = None
    modules: list[str] | None = None
    unsafe: bool = False
    progress: Progress = field(default_factory=Progress)

    def warn(self, text: str) -> None:
        """Tell of something on stderr."""
        print(f"warning: {text}", file=sys.stderr)


def command(
    *, group: typer.Typer = app, panel: str | None = None, name: str | None = None,
    loads: bool = False, writes: bool = False, keras: bool = True, json: bool = True,
) -> Callable[[Callable[..., Told]], Callable[..., Told]]:  # fmt: skip
    """Make a function a command: it gets a `Run` first, and returns what to print.

    Args:
        group: The group of commands.
        panel: The head under which the help lists it.
        name: Its name, by default that of the function.
        loads: Whether it reads models: adds the options for that.
        writes: Whether it writes files: adds `--force`.
        keras: Whether it needs Keras, which is imported before it runs.
        json: Whether it has `--json`.
    """

    def decorate(function: Callable[..., Told]) -> Callable[..., Told]:
        called = name or function.__name__.rstrip("_").replace("_", "-")
        _, *own = inspect.signature(function, eval_str=True).parameters.values()
        common = [*options.LOADING] if loads else []
        common += [options.FORCE] if writes else []
        common += [p for p in options.ALWAYS if keras or p is not options.BACKEND]
        common = [p for p in common if json or p is not options.JSON]
        names = {p.name for p in common}

        def run(context: typer.Context, **values: Any) -> None:
            settings = {key: values.pop(key) for key in names}
            _perform(Run(**settings), function, values, keras, context)

        run.__name__, run.__doc__ = function.__name__, function.__doc__
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *common)]
        parameters.insert(0, _CONTEXT)
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        group.command(called, rich_help_panel=panel)(run)
        COMMANDS[called if group is app else f"{group.info.name or 'features'} {called}"] = json
        return function

    return decorate


def _perform(
    run: Run, function: Callable[..., Told], values: dict[str, Any], keras: bool, context: Any
) -> None:
    """Run a command, print what it says, and exit with its code."""
    try:
        if keras:
            set_levels()
            choose(run.backend)
        with quiet(whole=not run.debug and output.is_a_process()), Progress() as run.progress:
            if keras:
                run.progress.say("Importing Keras")
                _import(run.modules)
                told = _with_advice(function, run, values, context)
            else:
                told = function(run, **values)
    except Exception as error:
        if run.debug:
            raise
        code, text = _explained(error)
        typer.echo(f"error: {text}", err=True)
        raise typer.Exit(code) from None
    if run.as_json:
        output.write_json(told.data)
    else:
        output.write(told.data if told.shown is None else told.shown)
    if told.code:
        raise typer.Exit(told.code)


def _import(modules: list[str] | None) -> None:
    import importlib
    import os

    import keras_graft  # noqa: F401 - registers its layers

    if modules and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    for module in modules or ():
        try:
            importlib.import_module(module)
        except Exception as error:
            raise UsageError(
                f"--import {module}: {type(error).__name__}: {error}. It takes the name of a module "
                "that Python finds here, such as my_layers for my_layers.py."
            ) from error


def _with_advice(
    function: Callable[..., Told], run: Run, values: dict[str, Any], context: Any
) -> Told:
    """Run a function of the library; its advice is written as commands."""
    from keras_graft import advice
    from keras_graft_cli.words import Commands

    with advice.written_by(Commands(context)):
        return function(run, **values)


def _explained(error: Exception) -> tuple[int, str]:
    """Return the exit code for an error, and what to print."""
    if isinstance(error, UsageError):
        return 2, _printable(error)
    found = sys.modules.get("keras_graft.errors")
    if found is not None and isinstance(error, found.GraftError):
        return (2 if isinstance(error, found.FileError) else 1), str(error)
    if isinstance(error, OSError):  # a full disk, a folder that is not ours
        return 2, _printable(error)
    lines = [line for line in str(error).splitlines() if line.strip()] or [""]
    return 1, _printable(f"{type(error).__name__}: {lines[0]} (--debug shows where)")


def _printable(text: object) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
