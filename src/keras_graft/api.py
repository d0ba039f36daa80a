"""The verbs for users: each takes a Keras model or a `Graph`, and gives back the same kind."""

from __future__ import annotations

from typing import Any

from keras_graft import _keras
from keras_graft import subgraph as _subgraph
from keras_graft.body import class_of
from keras_graft.build import like
from keras_graft.cuts import Cuts
from keras_graft.cuts import cuts as _cuts
from keras_graft.diff import Diff
from keras_graft.diff import diff as _diff
from keras_graft.errors import BuildError, JoinError
from keras_graft.graph import Graph
from keras_graft.infer import infer
from keras_graft.node import Node
from keras_graft.printable import words_of
from keras_graft.reader import read
from keras_graft.rejoin import rejoined
from keras_graft.select import Selection
from keras_graft.select import select as _select
from keras_graft.sharing import Sharing
from keras_graft.sharing import sharing as _sharing


def select(model: Any, selector: Any) -> Selection:
    """Find nodes and values of a model by name, path, glob, class, pattern, predicate or object.

    Raises:
        NothingSelectedError: If nothing matches; the nearest names are given.

    >>> import keras, keras_graft as kg
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="out")])
    >>> kg.select(model, "o*").labels
    ['out']
    """
    return _select(read(model), selector)


def extract(model: Any, taps: Any) -> Any:
    """Return a model from the same inputs to intermediate values.

    Args:
        model: A Keras model or a `Graph`.
        taps: A selector. One exact name gives one tensor; a glob, a list or a dict
            `{"name": selector}` gives a dict of tensors by name.

    Returns:
        A model that shares the layers it needs with `model`.

    This is the way to an inner value of any model made here. Its layers are the donor's, and
    `layer.output` is the donor's tensor: that of the model that called the layer first.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> h = keras.layers.Dense(3, name="h")(x)
    >>> model = keras.Model(x, keras.layers.Dense(2, name="out")(h), name="tiny")
    >>> edited = kg.replace(model, "out", keras.layers.Dense(5, name="new"))
    >>> kg.extract(edited, "h").output_shape
    (None, 3)
    """
    return like(model, _subgraph.extract(read(model), taps))


def submodel(model: Any, inputs: Any = None, outputs: Any = None) -> Any:
    """Return the model between any values; None stands for the model's own ends.

    Args:
        model: A Keras model or a `Graph`.
        inputs: A selector of one value, or a list or dict of selectors.
        outputs: The same.

    Raises:
        CutError: If the outputs need more than the inputs; every missing value is named.
    """
    return like(model, _subgraph.submodel(read(model), inputs, outputs))


def split(model: Any, at: Any, complete: bool = False) -> tuple[Any, ...]:
    """Cut a model at one boundary, or at a list of boundaries.

    Args:
        model: A Keras model or a `Graph`.
        at: A selector of one value; a tuple of them for a boundary of several values; a list
            of boundaries.
        complete: Add the values that also cross, instead of refusing: no more than necessary, and
            none that can be computed from the others.

    Returns:
        The stages, one more than boundaries. Running them in turn equals the model.

    Raises:
        CutError: If a boundary misses values that also cross it. The message names each, what
            needs it, and the call that works.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> h = keras.layers.Dense(3, name="h")(x)
    >>> model = keras.Model(x, keras.layers.Dense(2, name="out")(h), name="tiny")
    >>> trunk, head = kg.split(model, at="h")
    >>> trunk.count_params() + head.count_params() == model.count_params()
    True
    """
    return tuple(like(model, stage) for stage in _subgraph.split(read(model), at, complete))


def join(*stages: Any) -> Any:
    """Return one flat model that runs the stages in turn; the inverse of `split`.

    A tie whose ends are in several stages is a tie again, also where stages come out of files, if
    the values at both ends still agree. If not, a warning names both ends and the call that ties
    them. It also names a layer that several stages of one model hold in their files, each its own.

    Raises:
        JoinError: If the outputs of a stage do not fit the inputs of the next.
    """
    graphs = [read(stage) for stage in stages]
    try:
        graph = infer(_subgraph.join(*graphs), way_out=_between)
    except BuildError as error:
        raise JoinError(f"join: {words_of(error)}") from error
    return like(stages[0], rejoined(graph, graphs))


def _between(graph: Graph, node: Node, wanted: str) -> str:
    return (
        f"The way out: put a model between the stages that makes what {node.label!r} takes, "
        f"{wanted}, of what the one before gives: kg.join(one, between, other)."
    )


def cuts(model: Any) -> Cuts:
    """Return every single value that separates inputs from outputs, in order.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> h = keras.layers.Dense(3, name="h")(x)
    >>> print(kg.cuts(keras.Model(x, keras.layers.Dense(2, name="out")(h))))
    cut  output          bytes/sample  params below  params above
    h    (?, 3) float32            12            15             8
    """
    return _cuts(read(model))


def sharing(model: Any) -> Sharing:
    """Report which operations are called more than once, and which variables several layers use.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> layer = keras.layers.Dense(4, name="d")
    >>> print(kg.sharing(keras.Model(x, layer(layer(x)))))
    1 operation is called more than once
    first call  calls  params
    d#0             2      20
    <BLANKLINE>
    no variable is used by several layers
    """
    return _sharing(read(model))


def diff(old: Any, new: Any) -> Diff:
    """Report what is shared, new, dropped and changed between two models.

    Operations and variables count as the same if they are the same objects, so a copy shares
    nothing with its original. Of each output it is said whether the same calls on the same
    inputs give it (then it cannot differ) or whether it lies downstream of a change.

    Args:
        old: A Keras model or a `Graph`.
        new: Another.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> h = keras.layers.Dense(3, name="h")(x)
    >>> model = keras.Model(x, keras.layers.Dense(2, name="out")(h), name="tiny")
    >>> report = kg.diff(model, kg.extract(model, "h"))
    >>> report.shared_parameters, report.new_parameters, report.dropped_parameters
    (15, 0, 8)
    >>> report.same_outputs
    ('h',)
    """
    before, now = read(old), read(new)
    return _diff(before, now, _keras.leaves_flag, (class_of(before), class_of(now)))
