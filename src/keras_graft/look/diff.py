"""`diff`: what two models share, what is new, dropped or changed, and which outputs may differ."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from keras_graft._keras import leaves_flag
from keras_graft.errors import FileError, SelectionError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import is_one_of
from keras_graft.graph.node import Node, Slot
from keras_graft.graph.parameters import weights_of
from keras_graft.graph.record import record_of
from keras_graft.graph.select import leaves
from keras_graft.look.by_value import ByValue
from keras_graft.look.changes import Changes, changes
from keras_graft.look.diff_report import Changed, Diff, Layer, SpecChange
from keras_graft.look.numbers import Numbered, Numbers
from keras_graft.look.pairing import ByIdentity, Pairing, first_calls
from keras_graft.look.sharing import sharing
from keras_graft.look.wiring import Wiring
from keras_graft.model.attributes import class_of
from keras_graft.model.files import load
from keras_graft.model.read import read
from keras_graft.printable import shown


def diff(old: Any, new: Any, by: str | None = None) -> Diff:
    """Report what is shared, new, dropped and changed between two models, and where.

    By identity, operations and variables count as the same if they are the same objects, as after
    an edit. So a copy shares nothing with its original. By value, a model and its saved and loaded
    copy are the same: operations belong together by their names, else by their weights, else by
    their places; then their configurations and the values of their weights are compared, exactly.

    For each output, the report says whether the same calls on the same inputs compute it (then it
    cannot differ) or whether it is downstream of a change.

    Args:
        old: A Keras model, a `Graph`, or the path of a `.keras` or `.h5` file. A file is loaded in
            Keras's safe mode.
        new: The one to compare it with.
        by: "identity" or "value"; None: by value if one of them is a file, else by identity.

    Returns:
        The report: it prints as tables, and `to_dict()` gives data.

    Raises:
        SelectionError: If `by` is another word, or "identity" for a file.
        FileError: If a file cannot be loaded.
        ReadError: If a model cannot be read as a graph.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> h = keras.layers.Dense(3, name="h")(x)
    >>> model = keras.Model(x, keras.layers.Dense(2, name="out")(h), name="tiny")
    >>> report = kg.diff(model, kg.extract(model, "h"))
    >>> report.shared_parameters, report.new_parameters, report.dropped_parameters
    (15, 0, 8)
    >>> report.same_outputs
    ('h',)
    >>> kg.diff(model, kg.clone(model), by="value").same_outputs
    ('out',)
    """
    if by is not None and not is_one_of(by, "identity", "value"):
        raise SelectionError(f'diff: by= is "identity" or "value", got {shown(by)}.')
    files = [item for item in (old, new) if isinstance(item, str | os.PathLike)]
    if files and by == "identity":
        raise SelectionError(
            f"diff: {shown(str(files[0]))} is a file, and what is loaded from it is a new object, "
            'the same as no other: compare by value, kg.diff(old, new, by="value").'
        )
    wirings = Wiring(read(_loaded(old))), Wiring(read(_loaded(new)))
    value = by == "value" or bool(files)
    pairing = ByValue(*wirings) if value else ByIdentity(*(w.graph for w in wirings))
    return _report(wirings, pairing)


def _loaded(model: Any) -> Any:
    if not isinstance(model, str | os.PathLike):
        return model
    try:
        return load(str(os.fspath(model)))
    except OSError as error:  # a name that is too long, a folder that is not ours
        raise FileError(
            f"diff: {shown(str(model))} cannot be read: {error.strerror or type(error).__name__}."
        ) from error


def _report(wirings: tuple[Wiring, Wiring], pairing: Pairing) -> Diff:
    numbers = Numbers(pairing.identity, pairing.leaf)
    old, new = wirings[0].graph, wirings[1].graph
    before, now = numbers.of(old), numbers.of(new, pairing.inputs)
    found = changes(*wirings, pairing, before, now)
    mine, its = first_calls(old), first_calls(new)
    shared = [n for n in its.values() if pairing.before(n.operation) is not None]
    fresh = [n for n in its.values() if pairing.before(n.operation) is None]
    gone = [n for n in mine.values() if pairing.gone(n.operation)]
    same, other = _outputs(new, before, now)
    ties = [{id(v.variable): v.name for v in sharing(graph).variables} for graph in (old, new)]
    ties[1] = {pairing.variable(key): name for key, name in ties[1].items()}
    return Diff(
        shared=tuple(_layer(n) for n in shared),
        new=tuple(_layer(n, wirings[1]) for n in fresh),
        dropped=tuple(_layer(n, wirings[0]) for n in gone),
        shared_parameters=pairing.parameters("shared"),
        new_parameters=pairing.parameters("new"),
        dropped_parameters=pairing.parameters("dropped"),
        specs=_specs(found, *wirings),
        same_outputs=same,
        other_outputs=other,
        ties_kept=tuple(name for key, name in ties[1].items() if key in ties[0]),
        ties_gone=tuple(name for key, name in ties[0].items() if key not in ties[1]),
        ties_new=tuple(name for key, name in ties[1].items() if key not in ties[0]),
        kept=tuple(
            (n.path, record_of(n.operation).kept)
            for n in fresh
            if record_of(n.operation).kept is not None
        ),
        training=tuple(n.path for n in leaves(new.nodes) if _trains(n)),
        classes=(class_of(old), class_of(new)),
        changed=tuple(
            Changed(n.path, n.kind, found.why[n.path])
            for n in wirings[1].nodes.values()
            if n.path in found.why
        ),
        changed_parameters=pairing.parameters("changed"),
        order=_order(old, new, pairing, before, now),
        by=pairing.by,
        renamed=pairing.renamed,
        unclear=pairing.unclear,
        _changes=found,
    )


def _trains(node: Node) -> bool:
    """Whether a call leaves training mode on for later calls; the outermost flag decides."""
    flags = [call.training for call in (*node.scope, node)]
    said = next((flag for flag in flags if flag is not None), None)
    return leaves_flag(node.operation) if said is None else bool(said)


def _layer(node: Node, wiring: Wiring | None = None) -> Layer:
    where = "" if wiring is None else wiring.where(node)
    return Layer(node.path, node.kind, sum(weights_of(node.operation).values()), where)


def _specs(found: Changes, old: Wiring, new: Wiring) -> tuple[SpecChange, ...]:
    before = {node.path: node for node in old.nodes.values()}
    return tuple(
        SpecChange(value.path, was.spec, value.spec)
        for node in new.nodes.values()
        if node.path in found.pairs
        for was, value in zip(before[found.pairs[node.path]].outputs, node.values, strict=False)
        if was.spec != value.spec
    )


def _order(
    old: Graph, new: Graph, pairing: Pairing, before: Numbered, now: Numbered
) -> tuple[str, ...]:
    """Say whether a caller meets the same inputs and outputs in another order or under other keys."""
    said = []
    places = [pairing.inputs.get(name) for name in new.input_names]
    if places != list(old.input_names) and set(places) == set(old.input_names):
        said.append("the inputs are in another order")
    was, is_ = (
        [numbers.values[v] for v in graph.outputs] for graph, numbers in ((old, before), (new, now))
    )
    if sorted(was) == sorted(is_) and _filled(old.output_template, was) != _filled(
        new.output_template, is_
    ):
        said.append("the outputs are in another order, or have other keys")
    return tuple(said)


def _filled(template: Any, values: list[int]) -> Any:
    """Return a structure of outputs with a number in the place of each."""
    if isinstance(template, Slot):
        return values[template.index]
    if isinstance(template, Mapping):
        return {key: _filled(item, values) for key, item in template.items()}
    if isinstance(template, list | tuple):
        return [_filled(item, values) for item in template]
    return template


def _outputs(
    new: Graph, before: Numbered, now: Numbered
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the outputs of `new` that the old graph computes too, and those that it does not."""
    known = set(before.values.values())
    same = [new.label(v) for v in new.outputs if now.values[v] in known]
    other = [new.label(v) for v in new.outputs if now.values[v] not in known]
    return tuple(dict.fromkeys(same)), tuple(dict.fromkeys(other))
