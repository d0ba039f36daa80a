"""How the docstrings of the sources become the API reference, without importing Keras.

`@verb` and `@question` let a function of a graph take a model too, so users see its first parameter
as `model`. And a doctest outside an `Examples:` section is code, not a quotation of a quotation.
"""

from __future__ import annotations

import griffe

DECORATORS = {"verb", "question"}


class Docstrings(griffe.Extension):
    """Rename the first parameter of verbs, and fence the doctests of docstrings."""

    def on_function(self, *, func: griffe.Function, **kwargs: object) -> None:
        names = {decorator.callable_path.rpartition(".")[2] for decorator in func.decorators}
        if not names & DECORATORS or not func.parameters:
            return
        first, *rest = func.parameters
        first.name, first.annotation = "model", "keras.Model | Graph"
        func.parameters = griffe.Parameters(first, *rest)
        if "verb" in names:
            several = "tuple" in str(func.returns)
            func.returns = "tuple[keras.Model | Graph, ...]" if several else "keras.Model | Graph"

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """Put each doctest of a docstring, up to its next empty line, into a block of code."""
    lines: list[str] = []
    inside = False
    for line in [*text.splitlines(), ""]:
        if line.startswith(">>> ") and not inside:
            lines.append("```pycon")
            inside = True
        elif inside and not line.strip():
            lines.append("```")
            inside = False
        lines.append(line)
    return "\n".join(lines).rstrip()
