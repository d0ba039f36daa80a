"""The question `matches`: where does a pattern fit?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras_graft.errors import NothingSelectedError
from keras_graft.graph.graph import Graph
from keras_graft.model.read import read
from keras_graft.model.verb import answered
from keras_graft.rewrite.find import Finder, Found
from keras_graft.rewrite.match import Matches


def matches(
    model: Any, pattern: Any, where: Callable[..., Any] | None = None, **wildcards: Any
) -> Matches:
    """Find the places where a pattern fits, at every depth; and those where it nearly fits.

    `kg.rewrite` says what a pattern is, and replaces these matches.

    Args:
        model: A Keras model or a `Graph`.
        pattern: A function of tensors and wildcards, or a list of such functions.
        where: A condition on a match, as for `kg.rewrite`.
        wildcards: What the parameters of the pattern that are layers may be.

    Returns:
        The matches. It prints as tables: of the matches, one line for each; of those left out
        because they share nodes with a match before; and of the near misses, with what fits there
        and what does not. A near miss has one call that is different.

    Raises:
        EditError: If the pattern or a wildcard is none.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> h = keras.layers.BatchNormalization(name="bn")(keras.layers.Dense(3, name="d")(x))
    >>> model = keras.Model(x, keras.layers.ReLU(name="r2")(keras.layers.Dense(3, name="d2")(h)))
    >>> kg.matches(model, lambda x, dense, bn: bn(dense(x)), dense=keras.layers.Dense,
    ...            bn=keras.layers.BatchNormalization)
    1 match
    x  dense  bn
    x  d      bn
    <BLANKLINE>
    1 near miss
    at  why not
    r2  d2 -> r2 matches all but bn: r2 is ReLU, expected BatchNormalization
    """

    def ask(graph: Graph) -> Matches:
        finder = Finder(graph, pattern, where, wildcards, "matches")
        found = finder.found()
        if not found.matches:
            raise NothingSelectedError("matches: none")
        return _report(finder, found)

    try:
        return answered(model, ((pattern, where), wildcards), ask)
    except NothingSelectedError as error:
        if str(error) != "matches: none":
            raise
    finder = Finder(read(model), pattern, where, wildcards, "matches")
    return _report(finder, finder.found())


def _report(finder: Finder, found: Found) -> Matches:
    near = finder.near(found)
    return Matches(tuple(found.matches), tuple(found.overlapping), near, finder.names)
