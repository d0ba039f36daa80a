"""Every error of keras-graft, in one hierarchy.

    GraftError
    ├── ReadError         a model that cannot be read as a graph
    ├── GraphError        a graph that is not well formed (cycle, unknown producer)
    ├── SelectionError    a selector that does not fit
    │   ├── NothingSelectedError    it matches nothing
    │   └── AmbiguousError          one was needed, several match
    ├── CutError          a boundary through which not everything passes
    ├── JoinError         stages whose ends do not fit
    ├── EditError         an edit that cannot be made
    ├── BuildError        a graph that Keras cannot make a model of
    ├── WeightsError      weights that cannot go over, or be tied
    ├── FeatureError      a trunk, data or a store from which no features can be taken
    ├── KerasVersionError a private name of Keras that this version of Keras does not have
    ├── FileError         a file that no model can be taken from, or that is not to be written over
    └── NotYetError       announced, and not there yet

Messages follow one order: the culprit, its neighbours, the way out.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any

from keras_graft.printable import printable_lines


class GraftError(ValueError):
    """The root of all errors that keras-graft raises on purpose.

    Names in a message come from files: whatever could steer a terminal is escaped here. A newline
    is not, as messages have several lines: names stand in them as `{name!r}` or `quoted(name)`.
    """

    def __init__(self, message: str = "", *args: Any) -> None:
        super().__init__(printable_lines(message), *args)


class ReadError(GraftError):
    """The model cannot be read as a graph of layer calls."""


class GraphError(GraftError):
    """The graph is not well formed."""


class SelectionError(GraftError):
    """A selector does not fit the model it was used on."""


class NothingSelectedError(SelectionError):
    """A selector matches nothing."""


class AmbiguousError(SelectionError):
    """One node or value was needed, and a selector matches several."""


class CutError(GraftError):
    """A boundary misses values that also cross it.

    Attributes:
        missing: The values that cross and that the boundary lacks, in graph order.
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
    """Weights that cannot go over to another model, or be tied or untied: nothing was changed."""


class FeatureError(GraftError):
    """A trunk, data or a store from which no features can be taken."""


class KerasVersionError(GraftError):
    """A private name of Keras that is needed, and that the installed version does not have."""


class FileError(GraftError):
    """A file or name that no model can be taken from, or that is not to be written over."""


class NotYetError(GraftError, NotImplementedError):
    """A documented feature that a later version brings."""


class GraftWarning(UserWarning):
    """What keras-graft warns of: a result that is not all that one may expect."""


def warn(message: str) -> None:
    """Warn of something, at the line outside this package that led to it."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, GraftWarning, stacklevel=level)


_PACKAGE = __name__.partition(".")[0]
