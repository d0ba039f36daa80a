"""A page of docs/ that has a section for each backend; a run writes that of its own."""

from __future__ import annotations

import re
from pathlib import Path

import keras

DOCS = Path(__file__).parent.parent / "docs"


def write(name: str, head: str, body: str) -> None:
    """Put what was measured on this backend into a page, and leave the other backends' sections.

    Args:
        name: The page's file name in docs/.
        head: What the page says before the sections.
        body: This backend's section, without its heading.
    """
    path, backend = DOCS / name, keras.backend.backend()
    old = path.read_text() if path.exists() else ""
    others = [p.strip() for p in re.split(r"(?m)^(?=## )", old)[1:]]
    kept = [part for part in others if not part.startswith(f"## {backend},")]
    section = f"## {backend}, Keras {keras.__version__}\n\n{body.strip()}"
    path.write_text("\n\n".join([head.strip(), *sorted([*kept, section])]) + "\n")
