"""What type checkers see of a user's script: checked by pyright and mypy, in strict mode, and run."""

# pyright: strict, reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from typing import Any, assert_type

import keras  # type: ignore[import-untyped,unused-ignore]

import keras_graft as kg


def dropout(node: kg.Node) -> keras.layers.Layer:
    """A factory."""
    return keras.layers.Dropout(0.1, name=f"{node.name}_dropout")


def on_graphs(graph: kg.Graph) -> kg.Graph:
    """A graph gives a graph."""
    assert_type(kg.select(graph, "d"), kg.Selection)
    assert_type(kg.cuts(graph).to_dict(), list[dict[str, Any]])
    assert_type(kg.extract(graph, "d"), kg.Graph)
    assert_type(kg.split(graph, at="d"), tuple[kg.Graph, ...])
    graph = kg.insert(graph, dropout, after="d")
    graph = kg.replace(graph, "out", keras.layers.Dense(3), weights=None)
    graph = kg.remove(graph, keras.layers.Dropout)
    return kg.unfreeze(kg.freeze(graph, "d"))


def on_models(model: keras.Model) -> keras.Model:
    """A model gives a model."""
    taps: keras.Model = kg.extract(model, ["d", "out"])
    assert len(taps.outputs) == 2
    trunk, head = kg.split(model, at="d")
    joined: keras.Model = kg.join(trunk, head)
    tied: keras.Model = kg.tie(joined, "out/kernel", "d/kernel", transform="transpose")
    assert_type(kg.sharing(tied), kg.Sharing)
    assert_type(kg.diff(model, tied), kg.Diff)
    assert_type(kg.transplant(model, kg.clone(model)), kg.Transplanted)
    state = {"fc.weight": keras.ops.ones((3, 4)), "fc.bias": keras.ops.ones(3)}
    found = kg.torch_names(state, model, match={"fc": "d"})
    assert_type(found, kg.TorchNames)
    assert_type(found.mapping, dict[str, str])
    copied = kg.transplant(
        state, kg.clone(model), match=found.mapping, keep="out", names="torch", strict=False
    )
    assert copied.modules[0].how == "given"
    tuned: keras.Model = kg.lora(kg.train_only(model, "out"), "d", rank=2)
    assert_type(kg.list_adapters(tuned), kg.Adapters)
    merged: keras.Model = kg.merge_adapters(kg.set_adapters(tuned, ["default"]))
    assert kg.remove_adapters(kg.unmerge_adapters(merged)).name == model.name
    whole = kg.recipes.new_head(kg.unfreeze(kg.freeze(model, "d"), batch_norm=True), 4)
    rates = {"d": 0.0, keras.layers.Dense: 1e-4}
    assert_type(kg.learning_rates(whole, "adam", rates, decay=0.9), kg.LearningRates)
    assert_type(kg.learning_rates(whole, "adam", 1e-4).rates, kg.Rates)
    return whole


def main() -> None:
    """Run it all, so that what is checked is also true."""
    x = keras.Input((4,), name="x")
    hidden = keras.layers.Dense(3, name="d")(x)
    model = keras.Model(x, keras.layers.Dense(4, name="out")(hidden), name="tiny")
    graph = on_graphs(kg.read(model))
    assert isinstance(kg.build(graph), keras.Model)
    assert on_models(model).output_shape == (None, 4)


if __name__ == "__main__":
    main()
