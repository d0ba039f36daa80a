"""Write what messages recommend as commands: the library hands over verbs and arguments.

A call of the command that runs repeats its line with the arguments that change, so it can be pasted.
What no command can express stays Python, and says so.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_graft import advice

_OPTIONS = {
    ("resume", False): "--force", ("strict", False): "--no-strict",
    ("most", None): "--all", ("targets", False): "a file without y",
}  # fmt: skip
"""Arguments of verbs whose options have other names."""
_VERBS = {"read": "nodes", "fit_head": "fit", "features.advise": "advise"}
"""Verbs whose commands have other names."""
_WAYS = {
    "safe mode": "If you trust it, --unsafe lets that code run, with all that you may do.",
    "own code": "If a module of yours registers it, --import MODULE imports that first.",
    "list": "keras-graft nodes {model}",
    "at": "the same with",
}


class Commands:
    """Writes advice as commands.

    Args:
        context: The command that runs, as Typer knows it: with the program and what was given.
    """

    def __init__(self, context: Any) -> None:
        from keras_graft import advice

        self._python = advice
        self._commands = context.find_root().command.commands
        self._running = context.command
        self._given = dict(context.params)

    def call(self, call: advice.Call) -> str:
        """Return a call of a verb as a command; as Python where there is none."""
        command = self._commands.get(_VERBS.get(call.verb, call.verb))
        if command is None or (call.model not in ("model", "")):
            return f"in Python, {self._python.as_python(call)}"
        parameters = {p.name: p for p in command.params}
        unknown = [name for name in call.arguments if name not in parameters]
        if unknown:
            return f"in Python, {self._python.as_python(call)}"
        # What users write themselves is shown by its name: NEW.
        as_it_stands = self._python.As
        values = {
            name: name.upper() if isinstance(value, as_it_stands) else value
            for name, value in call.arguments.items()
            if not (value == self._python.MORE and not parameters[name].required)
        }
        if command is self._running:
            values = {**self._typed(parameters), **values}
        else:
            values = {**self._model(parameters), **values}
        return " ".join([f"keras-graft {command.name}", *_written(command, values)])

    def option(self, name: str, value: Any) -> str:
        """Return an argument as an option of the command that runs."""
        if (name, value) in _OPTIONS:
            return _OPTIONS[name, value]
        found = [p for p in self._running.params if p.name == name]
        if not found:
            return self._python.as_option(name, value)
        return " ".join(_one(found[0], value))

    def way(self, name: str, words: str) -> str:
        """Return the words of the command for a way out, if it has any."""
        model = self._given.get("model") or "MODEL"
        return _WAYS.get(name, words).replace("{model}", shlex.quote(str(model)))

    def _typed(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Return what the command that runs was given, without what it has by default."""
        return {
            name: self._given[name]
            for name, p in parameters.items()
            if self._given.get(name) not in (None, False, [], ()) and self._given[name] != p.default
        }

    def _model(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Return the model that the command that runs was given, and how it is read."""
        names = ("model", "input_shape", "modules", "unsafe")
        return {n: self._given[n] for n in names if n in parameters and self._given.get(n)}


def _written(command: Any, values: dict[str, Any]) -> list[str]:
    """Return the words of a command line: the arguments, then the options."""
    words: list[str] = []
    options: list[str] = []
    for parameter in command.params:
        name = parameter.name
        if name in values:
            (options if parameter.param_type_name == "option" else words).extend(
                _one(parameter, values[name])
            )
        elif parameter.required:
            shown = "OUT.keras" if name == "out" else str(name).upper()
            if parameter.param_type_name == "option":
                options += [parameter.opts[-1], shown]
            else:
                words.append(shown)
    return words + options


def _one(parameter: Any, value: Any) -> list[str]:
    """Return one argument or option: several values of a boundary are joined by commas."""
    if parameter.param_type_name == "option" and isinstance(value, bool):
        opts = parameter.opts if value else parameter.secondary_opts
        return [opts[0]] if opts else []
    several = parameter.multiple or parameter.nargs == -1
    items = value if several and isinstance(value, list) else [value]
    result = []
    for item in items:
        text = _text(item)
        result += [parameter.opts[-1], text] if parameter.param_type_name == "option" else [text]
    return result


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return shlex.quote(",".join(map(str, value)))
    return shlex.quote(str(value))
