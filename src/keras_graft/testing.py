"""Assertions for tests: two models have the same outputs, or the same graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node
from keras_graft.model.calls import fill, filled
from keras_graft.model.configuration import configuration, digest, is_array
from keras_graft.model.read import read

tree = keras.tree


def random_inputs(model: Any, batch: int = 2, seed: int = 0) -> Any:
    """Return random tensors with the structure, shapes and dtypes of the model's inputs.

    Integers are 0 or 1, which is valid for every vocabulary and mask. A dimension that may vary
    is 8.

    >>> import keras
    >>> random_inputs(keras.Model(x := keras.Input((4,)), x), batch=3).shape[0]
    3
    """
    rng = np.random.default_rng(seed)

    def draw(tensor: Any) -> Any:
        shape = [batch if tensor.shape[0] is None else tensor.shape[0]]
        shape += [8 if d is None else d for d in tensor.shape[1:]]
        if tensor.dtype == "bool" or "int" in tensor.dtype:
            drawn = rng.integers(0, 2, shape).astype(tensor.dtype)
        else:
            drawn = rng.standard_normal(shape).astype("float32")
        return keras.ops.cast(keras.ops.convert_to_tensor(drawn), tensor.dtype)

    inputs = model.inputs if isinstance(model, keras.Sequential) else model.input
    return tree.map_structure(draw, inputs[0] if inputs is model.inputs else inputs)


def assert_same_outputs(
    a: Any, b: Any, inputs: Any = None, exact: bool = True, batches: tuple[int, ...] = (1, 3)
) -> None:
    """Assert that two models give the same outputs for the same inputs, in inference mode.

    Args:
        a: A Keras model, or any function if `inputs` are given.
        b: The other one; `a` and `b` may differ in everything but their inputs and outputs.
        inputs: The inputs. None: random ones, for each of `batches`.
        exact: Whether values must be equal to the bit; else within 1e-4, relative and absolute.
        batches: The batch sizes of the random inputs.

    Raises:
        AssertionError: If structures, shapes, dtypes or values differ. The message says which
            output, and by how much.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> model = keras.Model(x, keras.layers.Dense(2, name="out")(x), name="tiny")
    >>> assert_same_outputs(model, kg.clone(model))
    """
    cases = [inputs] if inputs is not None else [random_inputs(a, n, n) for n in batches]
    for case in cases:
        left, right = a(case), b(case)
        tree.assert_same_structure(left, right)
        # With paths on both sides: Keras orders a dict's leaves differently without them.
        pairs = zip(tree.flatten_with_path(left), tree.flatten_with_path(right), strict=True)
        for (path, x), (_, y) in pairs:
            where = ".".join(map(str, path)) or "the output"
            kinds = keras.backend.standardize_dtype(x.dtype), keras.backend.standardize_dtype(
                y.dtype
            )  # fmt: skip
            assert kinds[0] == kinds[1], f"{where}: dtype {kinds[0]} is not {kinds[1]}"
            x, y = (np.asarray(keras.ops.convert_to_numpy(t), "float64") for t in (x, y))
            assert x.shape == y.shape, f"{where}: shape {x.shape} is not {y.shape}"
            same = (
                np.array_equal(x, y, equal_nan=True)
                if exact
                else np.allclose(x, y, rtol=1e-4, atol=1e-4, equal_nan=True)
            )
            if not same:
                raise AssertionError(f"{where} differs by up to {np.nanmax(np.abs(x - y)):g}")


def assert_same_graph(a: Any, b: Any, same_layers: bool = False) -> None:
    """Assert that two models make the same calls on the same values.

    It compares inputs and outputs with their structure, and each node's name, class, recorded
    arguments (of an op also its attributes, such as an axis), the values it reads (masks too) and
    the specs of its outputs, also in nested models.
    The order of independent nodes does not matter. Names count: two models made by the same code
    have the same op names if `keras.utils.clear_session()` is called before each is made.

    Args:
        a: A Keras model or a `Graph`.
        b: The other one.
        same_layers: Whether each node must call the same object; if not, layers must have equal
            configurations.

    Raises:
        AssertionError: If they differ. The message lists what only one of them has.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> model = keras.Model(x, keras.layers.Dense(2, name="out")(x), name="tiny")
    >>> assert_same_graph(model, kg.build(kg.read(model)), same_layers=True)
    """
    left, right = (list(_described(read(m), same_layers)) for m in (a, b))
    only_a, only_b = set(left) - set(right), set(right) - set(left)
    if only_a or only_b or len(left) != len(right):
        lines = [f"- {line}" for line in left if line in only_a]
        lines += [f"+ {line}" for line in right if line in only_b]
        raise AssertionError(
            f"The graphs differ in {len(only_a)} and {len(only_b)} places:\n"
            + "\n".join(lines[:20])
        )


def _described(graph: Graph, same_layers: bool, scope: str = "") -> Iterator[str]:
    """Yield one line of text for each property that is compared."""
    for value, name in zip(graph.inputs, graph.input_names, strict=True):
        yield f"{scope}input {name}: {value.spec}{' optional' if value.optional else ''}"
    for node in graph.nodes:
        args = filled(node.template, [f"<{graph.label(v)}>" for v in node.inputs], _argument)
        masks = [graph.label(mask) for _, mask in node.hidden]
        specs = ", ".join(str(v.spec) for v in node.outputs)
        yield (
            f"{scope}{node.label}: {node.kind} {args} masks {masks} -> {specs} "
            f"{_operation(node, same_layers)}"
        )
        if node.nested is not None:
            yield from _described(node.nested, same_layers, f"{scope}{node.label}/")
    for what, template, values in (
        ("inputs", graph.input_template, graph.inputs),
        ("outputs", graph.output_template, graph.outputs),
    ):
        labels = [graph.label(v) for v in values]
        yield f"{scope}{what}: {fill(template, labels.__getitem__)}"


def _argument(leaf: Any) -> Any:
    if not is_array(leaf):
        return leaf
    data = np.asarray(keras.ops.convert_to_numpy(leaf))
    return f"array {data.shape} {data.dtype} {digest(data)[:12]}"


def _operation(node: Node, same_layers: bool) -> str:
    if same_layers and isinstance(node.operation, keras.Layer):
        return f"object {id(node.operation)}"
    # The nodes inside a model are compared.
    return configuration(node.operation) if node.nested is None else ""
