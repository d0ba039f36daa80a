"""Every error of keras-graft, in one hierarchy.

    GraftError
    ├── ReadError         a model that cannot be read as a graph
    ├── GraphError        a graph that is not valid (cycle, unknown producer)
    ├── SelectionError    a selector that does not fit the model
    │   ├── NothingSelectedError    it matches nothing
    │   └── AmbiguousError          one match was needed, there are several
    ├── CutError          a boundary that misses values which also cross it
    ├── JoinError         stages whose outputs and inputs do not fit
    ├── EditError         an edit that cannot be made
    ├── BuildError        a graph that Keras cannot make a model of
    ├── WeightsError      weights that cannot be copied, tied or untied
    ├── RunError          data that a model does not take, or a gradient that it does not have
    ├── FeatureError      a trunk, data or a store from which no features can be taken
    ├── KerasVersionError a private name of Keras that the installed version does not have
    ├── FileError         a file that no model can be read from, or that must not be overwritten
    └── NotYetError       documented, but not implemented yet

Messages follow one order: the culprit, its neighbours, how to fix it.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any

from keras_graft.printable import printable_lines


class GraftError(ValueError):
    """The root of all errors that keras-graft raises on purpose.

    Names in a message come from files: characters that could control a terminal are escaped here.
    Newlines are not, as messages have several lines: write names as `{name!r}` or `quoted(name)`.
    """

    def __init__(self, message: str = "", *args: Any) -> None:
        super().__init__(printable_lines(message), *args)


class ReadError(GraftError):
    """The model cannot be read as a graph of layer calls."""


class GraphError(GraftError):
    """The graph is not valid: it has a cycle, or a value without a producer."""


class SelectionError(GraftError):
    """A selector does not fit the model it was used on."""


class NothingSelectedError(SelectionError):
    """A selector matches nothing."""


class AmbiguousError(SelectionError):
    """One node or value was needed, and a selector matches several."""


class CutError(GraftError):
    """A boundary misses values that also cross it.

    Attributes:
        missing: The values that cross but are not in the boundary, in graph order.
        suggestion: The completed boundary, as the labels of its values.
    """

    def __init__(
        self, message: str, missing: Sequence[Any] = (), suggestion: Sequence[str] = ()
    ) -> None:
        super().__init__(message)
        self.missing = tuple(missing)
        self.suggestion = tuple(suggestion)


class JoinError(GraftError):
    """The outputs of one stage do not fit the inputs of the next."""


class EditError(GraftError):
    """An edit that cannot be made: nothing was changed."""


class BuildError(GraftError):
    """Keras cannot make a model of the graph."""


class WeightsError(GraftError):
    """Weights that cannot be copied to another model, tied or untied: nothing was changed."""


class RunError(GraftError):
    """Data that a model does not take, or a gradient that it does not have."""


class FeatureError(GraftError):
    """A trunk, data or a store from which no features can be taken."""


class KerasVersionError(GraftError):
    """A private name of Keras that is needed, and that the installed version does not have."""


class FileError(GraftError):
    """A file or name that no model can be read from, or a file that must not be overwritten."""


class NotYetError(GraftError, NotImplementedError):
    """A feature that is documented, but not implemented yet."""


class GraftWarning(UserWarning):
    """A warning of keras-graft: a result lacks something that a user may expect."""


def warn(message: str) -> None:
    """Warn, and point at the line outside this package that caused it."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, GraftWarning, stacklevel=level)


_PACKAGE = __name__.partition(".")[0]
