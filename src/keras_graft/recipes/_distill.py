"""Train a small network with a large one: its outputs, and values inside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import tree

import keras_graft as kg
from keras_graft.printable import shown
from keras_graft.recipes._distilling import Compare, Distillation


def distill(
    teacher: Any,
    student: Any,
    pairs: Any = None,
    temperature: float | None = 4.0,
    alpha: float = 0.5,
    pair_weight: float = 1.0,
) -> Any:
    """Return a model that trains a student with the outputs and inner values of a teacher.

    Compile it with the loss of the labels, and call `fit`: the student's own layers are trained.
    The loss is `(1 - alpha)` times that of the labels, `alpha` times that of the outputs, and
    `pair_weight` times that of each pair. The outputs are compared as `keras.distillation` does:
    the divergence of their softmax at a temperature, times its square (Hinton et al., "Distilling
    the Knowledge in a Neural Network", 2015, arXiv:1503.02531). Outputs of a softmax count as
    probabilities: their logarithms are taken. A pair is compared by its mean squared error; if its
    numbers of channels differ, the student's goes through a `Dense` of its own first,
    `projection_<n>` (an `EinsumDense` where channels come first; Romero et al., "FitNets: Hints for
    Thin Deep Nets", 2015, arXiv:1412.6550).

    The teacher runs once for each batch, in inference mode. Its weights are shared, not copied, and
    not trained; its flags stay as they are. The student runs once too. Without labels: compile with
    `loss=None`, and `alpha=1`.

    Args:
        teacher: A Keras model or a `Graph`.
        student: Another one with the same inputs and outputs.
        pairs: A dict from selectors of values of the student to those of the teacher.
        temperature: None compares the outputs by their mean squared error, for numbers that are no
            logits.
        alpha: The weight of the outputs, from 0 to 1.
        pair_weight: The weight of each pair.

    Returns:
        A Keras model. It gives what the student gives. `.student` is the student alone: a plain
        model with the same layers, also after the model was saved and loaded.

    Raises:
        EditError: If inputs, outputs or pairs do not fit, or a number is out of range.
        SelectionError: If a selector does not select one value.

    >>> import keras, numpy as np, keras_graft as kg
    >>> def network(width, name):
    ...     x = keras.Input((4,), name="x")
    ...     h = keras.layers.Dense(width, activation="relu", name=f"{name}_h")(x)
    ...     return keras.Model(x, keras.layers.Dense(3, name=f"{name}_out")(h), name=name)
    >>> teacher, student = network(16, "large"), network(4, "small")
    >>> model = kg.recipes.distill(teacher, student, {"small_h": "large_h"})
    >>> model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    >>> history = model.fit(np.ones((8, 4)), np.zeros(8), verbose=0)
    >>> [layer.name for layer in model.student.layers]
    ['x', 'small_h', 'small_out']
    """
    for name, number, most in (("alpha", alpha, 1), ("pair_weight", pair_weight, None)):
        if isinstance(number, bool) or not isinstance(number, int | float) or not (
            0 <= number <= (number if most is None else most)
        ):  # fmt: skip
            what = "0 or more" if most is None else f"from 0 to {most}"
            raise kg.EditError(f"distill: {name} must be a number {what}, got {shown(number)}.")
    if temperature is not None and (
        isinstance(temperature, bool)
        or not isinstance(temperature, int | float)
        or temperature <= 0
    ):
        raise kg.EditError(
            f"distill: temperature must be a number above 0, or None, got {shown(temperature)}."
        )
    if pairs is not None and not isinstance(pairs, Mapping):
        raise kg.EditError(
            "distill: pairs= is a dict from selectors of the student to selectors of the teacher, "
            f"such as {{'block2_out': 'block5_out'}}, got {shown(pairs)}."
        )
    pairs = dict(pairs or {})
    graphs = [kg.read(m) for m in (teacher, student)]
    plain = [
        m if isinstance(m, keras.Model) and hasattr(m, "output") else kg.build(g)
        for m, g in zip((teacher, student), graphs, strict=True)
    ]
    tapped = [
        kg.build(_tapped(model, list(taps), name, freeze))
        for model, taps, name, freeze in (
            (plain[0], pairs.values(), "teacher", True),
            (plain[1], pairs.keys(), "student", False),
        )
    ]
    _check_alike("inputs", *(model.inputs for model in tapped))
    _check_alike("outputs", *(tree.flatten(model.output) for model in plain))
    inputs = tree.map_structure(
        lambda t: keras.Input(batch_shape=t.shape, dtype=t.dtype, name=t.name), tapped[1].input
    )
    given = tree.pack_sequence_as(tapped[0].input, tree.flatten(inputs))
    known, found = tapped[0](given), tapped[1](inputs)
    count = len(tree.flatten(plain[1].output))
    outputs, targets = ([part[f"output_{i}"] for i in range(count)] for part in (found, known))
    taps = []
    for i, (mine, its) in enumerate(pairs.items()):
        axes = [_channels(*one) for one in zip(graphs, (its, mine), strict=True)]
        taps.append(_projected(found[f"pair_{i}"], known[f"pair_{i}"], axes, i, mine, its))
    compare = Compare(
        temperature, alpha, pair_weight, [_is_softmax(m) for m in reversed(plain)], name="compare"
    )
    result = compare(
        tree.pack_sequence_as(plain[1].output, outputs),
        teacher=targets,
        taps=taps,
        targets=[known[f"pair_{i}"] for i in range(len(pairs))],
    )
    return Distillation(inputs, result, name=f"{plain[1].name}_distilled")


def _tapped(model: Any, taps: list[Any], name: str, freeze: bool) -> kg.Graph:
    """Return the graph of a model that gives its outputs and its taps by name."""
    wanted = {f"output_{i}": t for i, t in enumerate(tree.flatten(model.output))}
    wanted |= {f"pair_{i}": tap for i, tap in enumerate(taps)}
    graph = kg.extract(kg.read(model), wanted)
    return (kg.freeze(graph) if freeze else graph).replace(name=name, past=None)


def _check_alike(what: str, teacher: Any, student: Any) -> None:
    one, other = ([tuple(t.shape) for t in part] for part in (teacher, student))
    same = len(one) == len(other) and all(
        len(a) == len(b)
        and all(None in pair or len(set(pair)) == 1 for pair in zip(a, b, strict=True))
        for a, b in zip(one, other, strict=True)
    )
    if not same:
        verb = (
            "kg.reinput(student, ...)" if what == "inputs" else "kg.recipes.new_head(student, ...)"
        )
        raise kg.EditError(
            f"distill: the {what} of the teacher are {one}, those of the student {other}. Make them "
            f"alike first, with {verb}."
        )


def _channels(graph: kg.Graph, selector: Any) -> int:
    """Return which axis of a value has its channels: what the nearest layer that says so has."""
    value = kg.select(graph, selector).values[0]
    rank = None if value.spec is None else len(value.spec.shape)
    while value.spec is not None and len(value.spec.shape) == rank:
        node = value.producer
        layout = None if node is None else getattr(node.operation, "data_format", None)
        if layout is not None or node is None or not node.inputs or node.kind in _MOVES:
            return 1 if layout == "channels_first" else -1
        value = node.inputs[0].within(node.home, node.scope)
    return -1


_MOVES = ("Permute", "Transpose", "Moveaxis", "Swapaxes", "Reshape", "Dense", "EinsumDense")
"""Classes after which channels are last, or no layer says where they are."""


def _projected(tap: Any, target: Any, axes: list[int], number: int, mine: Any, its: Any) -> Any:
    """Return a value of the student in the width of the teacher's.

    Args:
        tap: The value of the student.
        target: That of the teacher.
        axes: Which axis has the channels, of the teacher's and of the student's.
        number: Which pair it is.
        mine: The selector of the student's value.
        its: That of the teacher's.
    """
    one, other = list(tap.shape), list(target.shape)
    last = len(other) - 1
    axes = [axis % max(last + 1, 1) for axis in axes]
    axis = axes[0]
    fits = len(one) == len(other) > 1 and axes[0] == axes[1]
    widths = (one.pop(axis), other.pop(axis)) if fits else (None, None)
    fits = fits and all(a == b or None in (a, b) for a, b in zip(one, other, strict=True))
    if not fits or None in widths:
        where = "the last axis" if set(axes) == {last} else "the axis of the channels"
        raise kg.EditError(
            f"distill: {shown(mine)} of the student is {tuple(tap.shape)}, and {shown(its)} of the "
            f"teacher is {tuple(target.shape)}: only {where} may differ. kg.stages(model) lists the "
            "values of each resolution."
        )
    if widths[0] == widths[1]:
        return tap
    name = f"projection_{number}"
    if axis == last:
        return keras.layers.Dense(widths[1], dtype=tap.dtype, name=name)(tap)
    places = "defghijk"[: last - 1]
    shape = (widths[1], *other[1:])
    layer = keras.layers.EinsumDense(
        f"ab{places},bc->ac{places}", shape, bias_axes="c", dtype=tap.dtype, name=name
    )
    return layer(tap)


def _is_softmax(model: Any) -> bool:
    """Whether all outputs of a model come from a softmax, as a layer, an op or an activation."""
    nodes = [value.producer for value in kg.read(model).outputs]
    return all(
        node is not None
        and (
            node.kind == "Softmax"
            or getattr(node.operation, "activation", None) is keras.activations.softmax
        )
        for node in nodes
    )
