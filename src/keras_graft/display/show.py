"""`show`: a network or a report as a page, an image or an outline."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_graft.display.dot import dot
from keras_graft.display.model_explorer import model_explorer
from keras_graft.display.picture import Picture, format_of, framed
from keras_graft.display.scene import scene
from keras_graft.display.svg import svg
from keras_graft.display.text import text
from keras_graft.errors import GraftError
from keras_graft.graph.graph import Graph
from keras_graft.look.diff import Diff
from keras_graft.model.read import read
from keras_graft.printable import quoted, shown
from keras_graft.tables import Tabular

FORMATS = ("html", "svg", "dot", "text", "model_explorer")


def show(
    x: Any, as_: str | None = None, path: str | Path | None = None, depth: int | None = None
) -> Picture:
    """Show a network, or a report, as a page, an image or an outline.

    Networks are folded: nested models, runs of equal blocks, and blocks of one name are groups.

    Args:
        x: A Keras model, a `Graph`, the report of `kg.diff` (both networks in one picture), or any
            other report (its tables).
        as_: `"html"`: one page that works without a network connection, in which groups open on a
            click. `"svg"`: an image. `"text"`: an outline within 100 columns. `"dot"`: for
            Graphviz. `"model_explorer"`: JSON for Google's Model Explorer. None: what the name of the
            file says (`.svg`, `.dot`, `.txt`, `.json`), or else `"html"`.
        path: A file to write the picture to.
        depth: How many levels of groups are open in an image, an outline or DOT, from 0. None: as
            many as leave it small.

    Returns:
        The picture: `str(picture)` is its text, `picture.save(path)` writes it, and a notebook
        shows it.

    Raises:
        GraftError: If `as_` or `depth` is something else, or if a report is asked for as an image.
        ReadError: If `x` is not a network or a report.
        FileError: If the file cannot be written.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> model = keras.Model(x, keras.layers.Dense(2, name="out")(x), name="tiny")
    >>> print(kg.show(model, as_="text"))
    tiny: 1 node, 10 parameters
    node  kind    output          params
    x     Input   (?, 4) float32
    out   Dense   (?, 2) float32      10
    out   Output  (?, 2) float32
    """
    if as_ is None:
        as_ = "html" if path is None else format_of(path) or "html"
    if not isinstance(as_, str) or as_ not in FORMATS:
        choices = ", ".join(map(quoted, FORMATS))
        raise GraftError(f"as_={shown(as_)} is no kind of picture: use one of {choices}.")
    if depth is not None and (not isinstance(depth, int) or isinstance(depth, bool) or depth < 0):
        raise GraftError(
            f"depth={shown(depth)} is not a number of levels: use 0 for all groups closed, or more."
        )
    network = isinstance(x, Graph | Diff) or not isinstance(x, Tabular)
    picture = Picture(_drawn(x, as_, depth) if network else _tables(x, as_), as_)
    if path is not None:
        picture.save(path)
    return picture


def _drawn(x: Any, as_: str, depth: int | None) -> str:
    drawn = scene(x if isinstance(x, Diff) else read(x))
    static: dict[str, Callable[[Any, int | None], str]] = {"svg": svg, "dot": dot, "text": text}
    if as_ in static:
        return static[as_](drawn, depth)
    return model_explorer(drawn) if as_ == "model_explorer" else _page(drawn)


def _tables(report: Tabular, as_: str) -> str:
    if as_ == "text":
        return str(report)
    if as_ == "html":
        page: str = _module().page_of_tables(type(report).__name__, report.tables())
        return page
    raise GraftError(
        f'A {type(report).__name__} has no picture, it has tables: use as_="html" or as_="text".'
    )


def _page(drawn: dict[str, Any]) -> str:
    page: str = _module().page(drawn)
    return page


def _module() -> Any:
    # Imported when it is used: it reads the files of the page.
    return importlib.import_module("keras_graft.display.page")


def _in_notebook(graph: Graph) -> str:
    return framed(_page(scene(graph)))


Graph.notebook = _in_notebook
