"""Take a graph apart and put the parts together: extract, submodel, split, join."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keras_graft.errors import CutError, JoinError, NothingSelectedError, SelectionError
from keras_graft.flow import after, crossing, lacking, needed, pruned
from keras_graft.graph import Graph, sort
from keras_graft.naming import Names, listed, safe
from keras_graft.nest import Opened, closed_maker
from keras_graft.node import Node, Slot, Spec, Value, copied, flat_slots
from keras_graft.printable import quoted
from keras_graft.select import Selection, is_exact, select, select_value


def extract(graph: Graph, taps: Any) -> Graph:
    """Return a graph from the same inputs to the taps, with the nodes they need."""
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


def submodel(graph: Graph, inputs: Any = None, outputs: Any = None) -> Graph:
    """Return the graph from any values to any values; None stands for the graph's own."""
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
        _refuse(opened, inner, ins, missing, "submodel", lambda value: True)
    # The name says what it is: Keras takes no two models of one name as layers of a third.
    name = graph.name
    name += "" if inputs is None else "_from_" + "_".join(safe(opened.path(v)) for v in ins[:2])
    name += "" if outputs is None else "_to_" + "_".join(safe(opened.path(v)) for v in outs[:2])
    return part(inner, ins, in_template, outs, out_template, nodes, name)


def split(graph: Graph, at: Any, complete: bool = False) -> tuple[Graph, ...]:
    """Return the stages between boundaries; running them in turn equals the graph."""
    boundaries = list(at) if isinstance(at, list | Selection) else [at]
    if not boundaries:
        raise SelectionError(f"split(at=[]) names no boundary in {graph.name!r}.")
    chosen: list[list[Value]] = []
    for boundary in boundaries:
        parts = boundary if isinstance(boundary, tuple) else (boundary,)
        if not parts:
            raise SelectionError(f"A boundary of {graph.name!r} is an empty tuple.")
        chosen.append([select_value(graph, part) for part in parts])
    opened = Opened(graph)
    flat = opened.find([v for values in chosen for v in values])
    while True:
        groups = iter(flat)
        chosen = [list(dict.fromkeys(next(groups) for _ in group)) for group in chosen]
        stages = _stages(opened, chosen, complete)
        if not isinstance(stages, Node):
            break
        # A mask that a nested model makes inside crosses: it becomes a value once that is open.
        flat = opened.open(opened.graph.calls(stages.operation), [v for g in chosen for v in g])
    names = ("trunk", "head") if len(stages) == 2 else [f"stage{i}" for i in range(len(stages))]
    return tuple(
        s.replace(name=f"{graph.name}_{name}") for s, name in zip(stages, names, strict=True)
    )


def _stages(
    opened: Opened, boundaries: Sequence[list[Value]], complete: bool
) -> list[Graph] | Node:
    """Cut at each boundary; or return the nested call that has to be opened first."""
    stages: list[Graph] = []
    rest = opened.graph
    for boundary in boundaries:
        found = _split_once(opened, rest, boundary, complete)
        if isinstance(found, Node):
            return found
        trunk, rest = found
        stages.append(trunk)
    return [*stages, rest]


def _split_once(
    opened: Opened, graph: Graph, boundary: list[Value], complete: bool
) -> tuple[Graph, Graph] | Node:
    for value in boundary:
        if value not in graph:
            raise CutError(
                f"Boundary {opened.path(value)!r} of {opened.graph.name!r} does not come after "
                "the one before it: give boundaries in the order in which data passes."
            )
    missing = _lacking(opened, graph, boundary)
    if missing and not complete:
        _refuse(
            opened, graph, boundary, missing, "split",
            lambda value: not _lacking(opened, graph, [*boundary, value]),
        )  # fmt: skip
    for value in missing:
        maker = closed_maker(graph, [value])
        if maker is not None:
            return maker
    boundary = boundary + missing
    structure: Any = Slot(0) if len(boundary) == 1 else flat_slots(len(boundary))
    trunk = part(
        graph, graph.inputs, graph.input_template, boundary, structure,
        needed(graph, boundary), graph.name,
    )  # fmt: skip
    head = needed(graph, graph.outputs, boundary)
    rest = part(graph, boundary, structure, graph.outputs, graph.output_template, head, graph.name)
    return trunk, rest


def _lacking(opened: Opened, graph: Graph, boundary: Sequence[Value]) -> list[Value]:
    """Return the fewest values that cross at a boundary beside its own: none at a cut."""
    cut = set(boundary)
    below = set(needed(graph, boundary))
    behind = after(graph, cut)
    head = [n for n in needed(graph, graph.outputs, cut) if n in behind and n not in below]
    if not head and not any(v in cut for v in graph.outputs):
        raise CutError(
            f"No output of {opened.graph.name!r} depends on "
            f"{listed(map(opened.path, boundary))}: this boundary has nothing behind it."
        )
    return lacking(graph, crossing(graph, head, graph.outputs, cut), cut, below)


def join(*stages: Graph) -> Graph:
    """Return one flat graph that runs the stages in turn."""
    if not stages:
        raise JoinError("join() needs at least one stage.")
    result = stages[0]
    for stage in stages[1:]:
        handed = _handed(result, stage)
        for give, take, name in zip(handed, stage.inputs, stage.input_names, strict=True):
            if not _fits(give.spec, take.spec):
                raise JoinError(
                    f"Output {result.label(give)!r} of {result.name!r} is {give.spec}, input "
                    f"{name!r} of {stage.name!r} takes {take.spec}."
                )
        if any(n in result for n in stage.steps):
            stage = renewed(stage)
        mapping = dict(zip(stage.inputs, handed, strict=True))
        result = Graph(
            result.steps + tuple(n.reading(mapping) for n in stage.steps),
            result.inputs,
            tuple(mapping.get(v, v) for v in stage.outputs),
            result.input_template,
            stage.output_template,
            f"{stages[0].name}_joined",
            result.trainable or stage.trainable,
            result.dtype_policy,
        )
    return pruned(result)


def _handed(result: Graph, stage: Graph) -> list[Value]:
    """Return what each input of a stage gets, as Keras hands it on when it calls the stage.

    What a dict names goes to the keys of a dict of inputs, or to the inputs of these names; all
    else goes by its place.
    """
    given, taken = _named(result.output_template), _named(stage.input_template)
    single = len(result.outputs) == len(stage.inputs) == 1
    if given is not None and not (single and taken is None):
        if taken is None:
            taken = dict(zip(stage.input_names, range(len(stage.inputs)), strict=True))
        if given.keys() != taken.keys():
            raise JoinError(
                f"{result.name!r} gives a dict of {listed(given)}, {stage.name!r} takes "
                f"{listed(taken)}. Name the inputs of the second as the first names its outputs, or "
                "let the first give a list: kg.submodel(model, outputs=[...])."
            )
        places = {place: result.outputs[given[name]] for name, place in taken.items()}
        return [places[i] for i in range(len(stage.inputs))]
    if len(result.outputs) != len(stage.inputs):
        raise JoinError(
            f"{result.name!r} gives {len(result.outputs)} values "
            f"({listed(result.label(v) for v in result.outputs)}), {stage.name!r} takes "
            f"{len(stage.inputs)} ({listed(stage.input_names)})."
        )
    return list(result.outputs)


def _named(template: Any) -> dict[str, int] | None:
    """Return the place of each key of a dict, None for another structure."""
    if isinstance(template, Mapping) and all(isinstance(s, Slot) for s in template.values()):
        return {str(key): slot.index for key, slot in template.items()}
    return None


def renewed(graph: Graph) -> Graph:
    """Return the same graph with new identities, so that it can stand twice in another."""
    inputs = {v: Value(v.spec, v.name, v.optional, v.mask, v.origin) for v in graph.inputs}
    inputs = {old: new.masked(inputs) for old, new in inputs.items()}
    nodes, mapping = copied(graph.steps, inputs)
    return graph.replace(
        nodes=nodes,
        inputs=inputs.values(),
        outputs=[mapping[v] for v in graph.outputs],
    )


def _reached(nodes: Sequence[Node], outputs: Sequence[Value], value: Value) -> bool:
    return value in outputs or any(value in n.reads for n in nodes)


def _refuse(
    opened: Opened, graph: Graph, boundary: Sequence[Value], missing: Sequence[Value], verb: str,
    works: Callable[[Value], bool],
) -> None:  # fmt: skip
    """Raise the error: what is missing, what needs it, and the ways out."""
    labels = [opened.path(v) for v in boundary]
    lines = []
    for value in missing:
        users = [_user(opened, n) for n in opened.graph.consumers(value)]
        need = f"needed by {listed(users, 3)}" if users else "given out as an output"
        lines.append(f"  {opened.path(value)!r}, {need}")
    suggestion = tuple(labels + [opened.path(v) for v in missing])
    ways = f"This works: {_call(verb, suggestion)}"
    ways += ", or at=... with complete=True." if verb == "split" else "."
    source = _only_source(graph, missing)
    if source is not None and source not in boundary and works(source):
        name = opened.path(source)
        ways += (
            f"\nWhat crosses comes from {name!r} alone, so this works too: "
            f"{_call(verb, [*labels, name])}."
        )
    raise CutError(
        f"{listed(labels)} is no cut of {opened.graph.name!r}: {len(missing)} other "
        f"value{'s cross' if len(missing) > 1 else ' crosses'} there:\n"
        + "\n".join(lines)
        + f"\n{ways}",
        missing,
        suggestion,
    )


def _call(verb: str, names: Sequence[str]) -> str:
    given = ", ".join(map(quoted, names))
    if verb == "split":
        return f"kg.split(model, at=({given}))"
    return f"kg.submodel(model, inputs=[{given}], ...)"


def _only_source(graph: Graph, values: Sequence[Value]) -> Value | None:
    """Return the input that values are computed from, if it is one alone and none of them."""
    reads = {v for node in needed(graph, values) for v in node.reads} | set(values)
    sources = [v for v in graph.inputs if v in reads]
    return sources[0] if len(sources) == 1 and sources[0] not in values else None


def _user(opened: Opened, node: Node) -> str:
    path = opened.path(opened.graph.value(node.outputs[0]))
    return path if len(node.outputs) == 1 else path.rpartition(":")[0]


def ends(
    graph: Graph, chosen: Any, default: Sequence[Value], template: Any
) -> tuple[list[Value], Any]:
    """Return the values that a selector, or a list or dict of selectors, names as ends of a part."""
    if chosen is None:
        return list(default), template
    if isinstance(chosen, dict):
        if not chosen:
            raise NothingSelectedError(f"An empty dict names no value of {graph.name!r}.")
        values = [select_value(graph, s) for s in chosen.values()]
        return values, {name: Slot(i) for i, name in enumerate(chosen)}
    if isinstance(chosen, list | tuple) and chosen:
        values = [select_value(graph, s) for s in chosen]
        return values, flat_slots(len(values))
    values = list(select(graph, chosen).values)
    if len(values) == 1 and is_exact(graph, chosen):
        return values, Slot(0)
    return values, {v.path: Slot(i) for i, v in enumerate(values)}


def part(
    graph: Graph, inputs: Sequence[Value], input_template: Any, outputs: Sequence[Value],
    output_template: Any, nodes: Sequence[Node], name: str,
) -> Graph:  # fmt: skip
    """Return a part of a graph whose inputs may be values that a node gives elsewhere."""
    names = Names()
    entries = []
    for value in inputs:
        producer = graph.producer(value)
        label = value.name if producer is None else safe(graph.label(value))
        entries.append(
            Value(
                value.spec, names.take(label), producer is None and value.optional, value.mask,
                value.origin, value.key,
            )
        )  # fmt: skip
    return graph.replace(
        nodes=sort(nodes, inputs), inputs=tuple(entries), input_template=input_template,
        outputs=tuple(outputs), output_template=output_template, name=name, origin=None, past=None,
    )  # fmt: skip


def _fits(give: Spec | None, take: Spec | None) -> bool:
    if give is None or take is None:
        return True
    if give.dtype != take.dtype or len(give.shape) != len(take.shape):
        return False
    return all(
        a is None or b is None or a == b for a, b in zip(give.shape, take.shape, strict=True)
    )
