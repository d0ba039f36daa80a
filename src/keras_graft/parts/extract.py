"""`extract` and `submodel`: models that output the values of intermediate layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras_graft.errors import CutError, NothingSelectedError, SelectionError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import listed, safe
from keras_graft.graph.node import Node, Slot, Value
from keras_graft.graph.opened import Opened
from keras_graft.graph.select import is_exact, select, select_value
from keras_graft.graph.walk import after, crossing, lacking, needed, pruned
from keras_graft.look.stages import chosen
from keras_graft.look.stages import stages as stages_of
from keras_graft.model.verb import verb
from keras_graft.parts.ends import ends, part, refuse


@verb
def extract(graph: Graph, taps: Any = None, *, stages: Any = None) -> Graph:
    """Return a model with the same inputs that outputs intermediate values.

    Args:
        model: A Keras model or a `Graph`.
        taps: A selector. One exact name gives one tensor; a glob, a list or a dict
            `{"name": selector}` gives a dict of tensors by name.
        stages: Numbers of stages in place of `taps`, as `kg.stages(model)` lists them: one number
            gives one tensor, a tuple gives a dict of tensors by name. Negative numbers count from
            the last stage.

    Returns:
        A model that shares the layers it needs with `model`.

    Use it for inner values of models made here, in place of `layer.output`. Their layers are the
    donor's, so `layer.output` is a tensor of the donor: of the model that called the layer first.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> h = keras.layers.Dense(3, name="h")(x)
    >>> model = keras.Model(x, keras.layers.Dense(2, name="out")(h), name="tiny")
    >>> edited = kg.replace(model, "out", keras.layers.Dense(5, name="new"))
    >>> kg.extract(edited, "h").output_shape
    (None, 3)
    """
    if (taps is None) == (stages is None):
        both = "both were given" if stages is not None else "neither was given"
        raise SelectionError(
            'extract takes the values to output, kg.extract(model, "name"), or numbers of stages, '
            f"kg.extract(model, stages=(-2, -1)): {both}."
        )
    if stages is not None:
        found = [stage.value for stage in chosen(stages_of(graph), stages)]
        one = not isinstance(stages, list | tuple | range)
        taps = found[0] if one else {value.path: value for value in found}
    if isinstance(taps, dict):
        if not taps:
            raise NothingSelectedError(f"An empty dict names no tap of {graph.name!r}.")
        values = [select_value(graph, selector) for selector in taps.values()]
        template: Any = {name: Slot(i) for i, name in enumerate(taps)}
    else:
        values = list(select(graph, taps).values)
        one = len(values) == 1 and is_exact(graph, taps)
        template = Slot(0) if one else {v.path: Slot(i) for i, v in enumerate(values)}
    opened = Opened(graph)
    values = opened.find(values)
    return pruned(
        opened.graph.replace(
            outputs=tuple(values), output_template=template, name=f"{graph.name}_extract", past=None
        )
    )


@verb
def submodel(graph: Graph, inputs: Any = None, outputs: Any = None) -> Graph:
    """Return the model between any values; None means the model's own inputs or outputs.

    Args:
        model: A Keras model or a `Graph`.
        inputs: A selector of one value, or a list or dict of selectors.
        outputs: The same.

    Returns:
        A model of the layers in between, shared with `model`.

    Raises:
        CutError: If the outputs need more than the inputs; every missing value is named.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> h = keras.layers.Dense(3, name="h")(x)
    >>> model = keras.Model(x, keras.layers.Dense(2, name="out")(h), name="tiny")
    >>> rest = kg.submodel(model, inputs="h")
    >>> rest.input_shape, rest.output_shape
    ((None, 3), (None, 2))
    >>> kg.submodel(model, outputs="h").get_layer("h") is model.get_layer("h")
    True
    """
    ins, in_template = ends(graph, inputs, graph.inputs, graph.input_template)
    outs, out_template = ends(graph, outputs, graph.outputs, graph.output_template)
    opened = Opened(graph)
    values = opened.find([*ins, *outs])
    inner = opened.graph
    ins, outs = values[: len(ins)], values[len(ins) :]
    given = set(ins)
    nodes = needed(inner, outs, given)
    if any(v not in given and _reached(nodes, outs, v) for v in inner.inputs):
        behind = after(inner, given)
        above = {v for n in needed(inner, ins) for v in n.reads}
        if any(v in above for v in outs) and not any(n in behind for n in nodes):
            raise CutError(
                f"{listed(map(opened.path, outs))} does not depend on "
                f"{listed(map(opened.path, ins))} in {graph.name!r}: are inputs and outputs "
                "exchanged?"
            )
        head = [n for n in nodes if n in behind]
        missing = lacking(inner, crossing(inner, head, outs, given), given)
        refuse(opened, inner, ins, missing, "submodel", lambda value: True)
    # Two parts need different names: Keras accepts no two nested models of the same name.
    name = graph.name
    name += "" if inputs is None else "_from_" + "_".join(safe(opened.path(v)) for v in ins[:2])
    name += "" if outputs is None else "_to_" + "_".join(safe(opened.path(v)) for v in outs[:2])
    return part(inner, ins, in_template, outs, out_template, nodes, name)


def _reached(nodes: Sequence[Node], outputs: Sequence[Value], value: Value) -> bool:
    return value in outputs or any(value in n.reads for n in nodes)
