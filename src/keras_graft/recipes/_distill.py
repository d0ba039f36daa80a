"""Train a small network with a large one: its outputs, and values inside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import tree

import keras_graft as kg
from keras_graft.printable import shown
from keras_graft.recipes._distilling import Compare, Distillation, channels_of, projected


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
        axes = [channels_of(*one) for one in zip(graphs, (its, mine), strict=True)]
        taps.append(projected(found[f"pair_{i}"], known[f"pair_{i}"], axes, i, mine, its))
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
