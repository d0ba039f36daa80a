"""Prune a trained network step by step to a share of its cost, and train it after each step."""

from __future__ import annotations

from typing import Any

import keras

import keras_graft as kg
from keras_graft.printable import shown
from keras_graft.recipes import _arguments
from keras_graft.recipes._tuned import PrunedAndTuned, Tuned, compiled_copy, until

_KINDS = tuple(getattr(keras.layers, name) for name in (
    "Dense", "EinsumDense", "Conv1D", "Conv2D", "Conv3D", "Conv1DTranspose", "Conv2DTranspose",
    "Conv3DTranspose", "SeparableConv1D", "SeparableConv2D", "MultiHeadAttention", "LSTM", "GRU",
    "SimpleRNN", "Bidirectional",
))  # fmt: skip


def prune_and_tune(
    model: Any, data: Any, target: float = 0.5, steps: int = 4, importance: Any = "taylor",
    epochs: int = 1, optimizer: Any = None, loss: Any = None, metrics: Any = None,
    layers: Any = None, keep: Any = None, round_to: int | None = None, input_shape: Any = None,
    batch_size: int = 32, batches: int = 8, validation_data: Any = None, verbose: Any = 0,
) -> PrunedAndTuned:  # fmt: skip
    """Prune a network to a share of its multiply-adds, with training in between.

    Each step removes the units that matter least, of all layers together, until the multiply-adds
    are at or below the next of `steps` equal ratios, and then trains for `epochs`. The state of the
    optimizer goes along, sliced (`kg.carry_optimizer`). The donor is not changed.

    Args:
        model: A Keras model.
        data: A tuple `(x, y)` of arrays, or batches `(x, y)` that can be read again, as `fit` takes.
        target: The share of the multiply-adds that stays, between 0 and 1.
        steps: How many.
        importance: `"taylor"`: `kg.importance`, computed again in each step from `batches` batches of
            the data. Otherwise what `by=` of `kg.prune` takes, such as `"magnitude"`.
        epochs: How long each step trains.
        optimizer: None: the donor's own, with its state, if it is compiled; else Adam.
        loss: None: the donor's own.
        metrics: Likewise.
        layers: A selector of layers. None: all of Keras that can be pruned.
        keep: A selector of layers whose channels all stay.
        round_to: As for `kg.prune`.
        input_shape: As for `kg.costs`: for models that leave lengths open.
        batch_size: For arrays.
        batches: For the importance.
        validation_data: What losses and metrics are measured on. None: `data`.
        verbose: For `fit`.

    Returns:
        The smaller model, compiled, as `.model`, and the report: costs, losses and metrics of the
        donor and of each step, before and after training.

    Raises:
        EditError: If an argument is wrong, the costs are not known, or nothing can be pruned so far.

    >>> import keras, numpy as np, keras_graft as kg
    >>> x = keras.Input((8,), name="x")
    >>> h = keras.layers.Dense(32, activation="relu", name="a")(x)
    >>> model = keras.Model(x, keras.layers.Dense(1, name="b")(h))
    >>> data = np.random.normal(size=(64, 8)), np.zeros((64, 1))
    >>> report = kg.recipes.prune_and_tune(model, data, 0.5, steps=2, loss="mse")
    >>> [step.multiply_adds for step in report.steps], report.model.get_layer("a").units
    ([288, 198, 144], 16)
    """
    for name, number in (("steps", steps), ("batch_size", batch_size), ("batches", batches)):
        _arguments.whole("prune_and_tune", name, number)
    if isinstance(target, bool) or not isinstance(target, float) or not 0 < target < 1:
        raise kg.EditError(
            f"prune_and_tune: target must be a number between 0 and 1, got {shown(target)}."
        )
    if not isinstance(model, keras.Model) or not (model.compiled or loss):
        raise kg.EditError(
            "prune_and_tune: takes a Keras model that is compiled, or with loss=, got "
            f"{shown(model)}."
        )
    chosen = (lambda node: isinstance(node.operation, _KINDS)) if layers is None else layers
    arrays = {"batch_size": batch_size} if isinstance(data, tuple) else {}
    held = data if validation_data is None else validation_data

    def cost(item: Any) -> int:
        found = kg.costs(item, input_shape=input_shape).total
        if not isinstance(found.multiply_adds, int):
            raise kg.EditError(
                f"prune_and_tune: the multiply-adds are {found.multiply_adds or 'not known'}: give "
                "input_shape=, and see kg.costs(model)."
            )
        return found.multiply_adds

    def measured(item: Any) -> dict[str, float]:
        own = {"batch_size": batch_size} if isinstance(held, tuple) else {}
        given = held if isinstance(held, tuple) else (held,)
        return item.evaluate(*given, return_dict=True, verbose=0, **own)

    now, fresh = compiled_copy(model, optimizer, loss, metrics), ""
    before = cost(now)
    first = measured(now)
    rows = [Tuned(before, now.count_params(), first, first)]
    for number in range(1, steps + 1):
        by = importance
        if importance == "taylor":
            by = kg.importance(now, data, batches=batches, batch_size=batch_size)
        wanted = before * target ** (number / steps)
        graph = kg.read(now)
        pruned_by = lambda fraction, graph=graph, by=by: kg.prune(  # noqa: E731
            graph, {chosen: fraction}, by, "global", keep, round_to
        )
        small = kg.build(until(graph, pruned_by, cost, wanted))
        try:
            kg.carry_optimizer(now, small)
        except kg.WeightsError as error:  # no step was made yet, or slots have shapes of their own
            fresh = fresh or (str(error) if now.optimizer.built else "")
            small.compile_from_config(now.get_compile_config())
        pruned = measured(small)
        small.fit(*(data if arrays else (data,)), epochs=epochs, verbose=verbose, **arrays)
        rows.append(Tuned(cost(small), small.count_params(), pruned, measured(small)))
        now = small
    return PrunedAndTuned(now, tuple(rows), fresh)
