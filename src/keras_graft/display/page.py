"""`page`: a scene, or the tables of a report, as one HTML file that needs nothing else.

The file contains its styles, its scripts and the scene. A content security policy allows exactly
these scripts and styles, by their hashes, and a worker that the page makes from its own text;
nothing is fetched. Names come from files: the scene is JSON in which no tag can begin, and the
scripts put every text into the page as text.

The boxes are laid out by dagre, https://github.com/dagrejs/dagre (MIT; `page_files/dagre.LICENSE`).
"""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import json
import re
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any

from keras_graft.printable import printable
from keras_graft.tables import Table, html_table

CODE = (
    "dom", "theme", "kinds", "describe", "network", "selector", "camera", "layouts", "draw", "search",
    "cuts", "table", "legend", "picture", "keys", "main",
)  # fmt: skip
"""The scripts of the page, in their order. `layout` is besides: the worker gets its text too."""


def page(scene: Mapping[str, Any]) -> str:
    r"""Return a scene as an HTML page: a picture that folds, finds, cuts and explains.

    Args:
        scene: What `scene` returns.

    >>> text = page({"format": 1, "name": "</script>", "kind": "graph", "totals": {}, "items": {},
    ...              "edges": [], "cuts": []})
    >>> '"name":"\\u003c/script\\u003e"' in text
    True
    """
    return _filled(
        "page.html",
        scripts={
            "layout-library": _library(),
            "layout-code": _read("layout.js"),
            "code": _code(*CODE),
        },
        title=_title(scene["name"]),
        scene=_json(scene),
    )


def page_of_tables(title: str, tables: Iterable[Table]) -> str:
    """Return the tables of a report as an HTML page.

    Args:
        title: The title of the page.
        tables: What `tables()` of a report returns.

    >>> text = page_of_tables("<Cuts>", [("", ["cut"], [["<b>"]])])
    >>> "<h1 dir=\\"ltr\\">&lt;Cuts&gt;</h1>" in text, "<td>&lt;b&gt;</td>" in text
    (True, True)
    """
    sections = []
    for heading, head, rows in tables:
        lines = [heading] if isinstance(heading, str) else heading
        shown = "<br>".join(html.escape(printable(line)) for line in lines if line)
        text = f"<p>{shown}</p>" if shown else ""
        sections.append(
            f"<section>{text}{_aligned(html_table(head, rows)) if rows else ''}</section>"
        )
    return _filled(
        "tables.html",
        scripts={"code": _code("theme")},
        title=_title(title),
        tables="".join(sections),
    )


def _filled(name: str, scripts: Mapping[str, str], **texts: str) -> str:
    """Return an HTML file with its styles, scripts and texts, and the policy that allows them."""
    style = _read("page.css")
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src {' '.join(_hash(text) for text in scripts.values())}",
            f"style-src {_hash(style)}",
            "worker-src blob:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    values = {"policy": policy, "style": style, **scripts, **texts}
    # In one pass: what is put in is not read again.
    return re.sub(r"\{\{([a-z-]+)\}\}", lambda found: values[found[1]], _read(name))


def _aligned(table: str) -> str:
    """Give the cells that are numbers or sizes the class of numbers."""
    return re.sub(
        r"<td>([0-9][0-9,.]*(?: (?:[kMGT]?B|%))?|\?)</td>", r'<td class="number">\1</td>', table
    )


def _title(text: object) -> str:
    return html.escape(printable(text))


def _json(value: Any) -> str:
    """Return JSON of ASCII characters, in which no tag, comment or entity can begin."""
    text = json.dumps(_shown(value), separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _shown(value: Any) -> Any:
    """Return data with invisible characters escaped in all its texts."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {str(key): _shown(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(item) for item in value]
    return value


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _code(*names: str) -> str:
    return "\n".join(_read(f"{name}.js") for name in names)


def _library() -> str:
    """Return dagre without the address of a map that browsers would look for, and with its licence."""
    text = _read("dagre.min.js")
    notice = f"/*! @dagrejs/dagre 3.1.3, MIT\n{_read('dagre.LICENSE').strip()}\n*/\n"
    return notice + re.sub(r"//# sourceMappingURL=\S*\s*$", "", text)


@functools.cache
def _read(name: str) -> str:
    return (files("keras_graft.display") / "page_files" / name).read_text(encoding="utf-8")
