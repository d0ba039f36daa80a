"""What shells hand over when they ask for completions, in the form that Typer reads.

bash breaks words at colons and equal signs: `app:Res` arrives as three words, and only what follows
the last colon is replaced by a completion. Here such words are joined again, and what bash already
has is taken off the answers.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, MutableMapping


def completed(app: Callable[[], None], environ: MutableMapping[str, str]) -> None:
    """Run the program on the words that bash gives, and print what bash can use."""
    before = joined(environ)
    answers = io.StringIO()
    try:
        with contextlib.redirect_stdout(answers):
            app()
    finally:
        print("\n".join(a.removeprefix(before) for a in answers.getvalue().splitlines()))


def joined(environ: MutableMapping[str, str]) -> str:
    """Join words that bash broke; return the start of the last word, which bash does not replace.

    >>> words = {"COMP_WORDS": "keras-graft\\nshow\\napp\\n:\\nRes", "COMP_CWORD": "4"}
    >>> joined(words), words["COMP_WORDS"].split(), words["COMP_CWORD"]
    ('app:', ['keras-graft', 'show', 'app:Res'], '2')
    """
    words = environ["COMP_WORDS"].split("\n")
    at = int(environ["COMP_CWORD"])
    words += [""] * (at + 1 - len(words))
    result = words[:1]
    for before, word in zip(words[: at + 1], words[1 : at + 1], strict=False):
        if len(result) > 1 and (word == ":" or (before == ":" and word)):
            result[-1] += word
        elif word == "=" and result[-1].startswith("-"):
            continue  # --at=name: an option and its value
        else:
            result.append(word)
    if words[at] == "=":
        result.append("")
    environ["COMP_WORDS"] = "\n".join(result)
    environ["COMP_CWORD"] = str(len(result) - 1)
    start, colon, _ = result[-1].rpartition(":")
    return start + colon
