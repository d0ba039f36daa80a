"""Write docs/pictures/: each shows a network that a page makes, drawn by `kg.show`.

Run: KERAS_BACKEND=torch python docs/make/pictures.py [name ...]
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import tempfile
from pathlib import Path

import keras

import keras_graft as kg

DOCS = Path(__file__).resolve().parents[1]
PICTURES = {
    "network": ("tasks/show-a-network.md", "model"),
    "edit": ("tasks/what-did-my-edit-do.md", "kg.diff(model, edited)"),
    "tied": ("tasks/tie-and-untie.md", "tied"),
}
"""For each picture the page whose code makes the network, and what of it is shown."""


def drawn(name: str) -> str:
    """Run the code of a page up to where the network is made, and draw the network."""
    page, what = PICTURES[name]
    needed = set(re.findall(r"\b(?!kg\b|diff\b)[a-z]\w*", what))
    names: dict = {"__name__": "page", "kg": kg}
    keras.utils.clear_session()
    for code in re.findall(r"^```python\n(.*?)^```$", (DOCS / page).read_text(), re.S | re.M):
        if needed <= names.keys():
            break
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(code, page, "exec"), names)
    return str(kg.show(eval(what, names), as_="svg", depth=0))


if __name__ == "__main__":
    folder = DOCS / "pictures"
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as elsewhere:  # pages write files
        os.chdir(elsewhere)
        for picture in sys.argv[1:] or PICTURES:
            (folder / f"{picture}.svg").write_text(drawn(picture), encoding="utf-8")
            print(folder / f"{picture}.svg")
