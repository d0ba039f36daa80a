"""Take a graph apart and put the parts together: extract, submodel, split, join, cuts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from keras_graft.errors import CutError, JoinError, SelectionError
from keras_graft.graph import Graph, Node, Slot, Spec, Value, sort, weights_of
from keras_graft.naming import Names, safe
from keras_graft.nest import flat_slots, open_for
from keras_graft.select import Selection, is_exact, listed, select, select_value


def extract(graph: Graph, taps: Any) -> Graph:
    """Return a graph from the same inputs to the taps, with the nodes they need."""
    if isinstance(taps, dict):
        values = [select_value(graph, selector) for selector in taps.values()]
        template: Any = {name: Slot(i) for i, name in enumerate(taps)}
    else:
        values = list(select(graph, taps).values)
        one = len(values) == 1 and is_exact(taps)
        template = Slot(0) if one else {v.path: Slot(i) for i, v in enumerate(values)}
    opened, values = open_for(graph, values)
    return prune(
        opened.replace(
            outputs=tuple(values), output_template=template, name=f"{graph.name}_extract"
        )
    )


def submodel(graph: Graph, inputs: Any = None, outputs: Any = None) -> Graph:
    """Return the graph from any values to any values; None stands for the graph's own."""
    ins, in_template = _ends(graph, inputs, graph.inputs, graph.input_template)
    outs, out_template = _ends(graph, outputs, graph.outputs, graph.output_template)
    opened, values = open_for(graph, [*ins, *outs])
    ins, outs = values[: len(ins)], values[len(ins) :]
    given = set(ins)
    needed = _needed(opened, outs, given)
    free = [v for v in opened.inputs if v not in given and _reached(needed, outs, v)]
    if free:
        inside = _after(opened, given)
        if not any(n in inside for n in needed) and not all(o in given for o in outs):
            raise CutError(
                f"{listed(v.label for v in outs)} does not depend on {listed(v.label for v in ins)} "
                f"in {graph.name!r}: are inputs and outputs exchanged?"
            )
        head = [n for n in needed if n in inside]
        _refuse(opened, ins, _crossing(opened, head, outs, given), outs, "submodel")
    return _stage(opened, ins, in_template, outs, out_template, needed, f"{graph.name}_sub")


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
    opened, flat = open_for(graph, [v for values in chosen for v in values])
    values = iter(flat)
    chosen = [list(dict.fromkeys(next(values) for _ in group)) for group in chosen]
    names = ("trunk", "head") if len(chosen) == 1 else [f"stage{i}" for i in range(len(chosen) + 1)]
    stages: list[Graph] = []
    rest = opened
    for boundary, name in zip(chosen, names, strict=False):
        trunk, rest = _split_once(rest, boundary, complete, graph.name, at)
        stages.append(trunk.replace(name=f"{graph.name}_{name}"))
    return (*stages, rest.replace(name=f"{graph.name}_{names[-1]}"))


def _split_once(
    graph: Graph, boundary: list[Value], complete: bool, model: str, at: Any
) -> tuple[Graph, Graph]:
    for value in boundary:
        if value not in graph:
            raise CutError(
                f"Boundary {value.path!r} of {model!r} does not come after the one before it: "
                "give boundaries in the order in which data passes."
            )
    cut = set(boundary)
    below = set(_needed(graph, boundary, set()))
    after = _after(graph, cut)
    needed = _needed(graph, graph.outputs, cut)
    head = [n for n in needed if n in after and n not in below]
    if not head and not any(v in cut for v in graph.outputs):
        raise CutError(
            f"No output of {model!r} depends on {listed(graph.label(v) for v in boundary)}: "
            "this boundary has nothing behind it."
        )
    missing = _crossing(graph, head, graph.outputs, cut)
    if missing and not complete:
        _refuse(graph, boundary, missing, graph.outputs, "split")
    boundary = boundary + missing
    structure: Any = Slot(0) if len(boundary) == 1 else flat_slots(len(boundary))
    needed_below = _needed(graph, boundary, set())
    trunk = _stage(
        graph, graph.inputs, graph.input_template, boundary, structure, needed_below, graph.name
    )
    rest = _stage(
        graph, boundary, structure, graph.outputs, graph.output_template, head, graph.name
    )
    return trunk, rest


def join(*stages: Graph) -> Graph:
    """Return one flat graph that runs the stages in turn."""
    if not stages:
        raise JoinError("join() needs at least one stage.")
    result = stages[0]
    for stage in stages[1:]:
        if len(result.outputs) != len(stage.inputs):
            raise JoinError(
                f"{result.name!r} gives {len(result.outputs)} values "
                f"({listed(result.label(v) for v in result.outputs)}), {stage.name!r} takes "
                f"{len(stage.inputs)} ({listed(stage.input_names)})."
            )
        for give, take, name in zip(result.outputs, stage.inputs, stage.input_names, strict=True):
            if not _fits(give.spec, take.spec):
                raise JoinError(
                    f"Output {result.label(give)!r} of {result.name!r} is {give.spec}, input "
                    f"{name!r} of {stage.name!r} takes {take.spec}."
                )
        if any(n.key is m.key for n, m in zip(result.nodes, stage.nodes, strict=False)) or any(
            n in result for n in stage.nodes
        ):
            stage = renewed(stage)
        mapping = dict(zip(stage.inputs, result.outputs, strict=True))
        result = Graph(
            result.nodes + tuple(n.reading(mapping) for n in stage.nodes),
            result.inputs,
            tuple(mapping.get(v, v) for v in stage.outputs),
            result.input_template,
            stage.output_template,
            f"{stages[0].name}_joined",
            result.trainable or stage.trainable,
            result.dtype_policy,
        )
    return prune(result)


def renewed(graph: Graph) -> Graph:
    """Return the same graph with new identities, so that it can stand twice in another."""
    mapping = {v: Value(v.spec, v.name, v.optional, v.mask, v.origin) for v in graph.inputs}
    nodes = []
    for node in graph.nodes:
        read = node.reading(mapping)
        outputs = tuple(Value(v.spec, v.name, mask=v.mask, origin=v.origin) for v in node.outputs)
        mapping.update(zip(node.outputs, outputs, strict=True))
        nodes.append(
            Node(
                read.operation,
                read.template,
                read.inputs,
                outputs,
                read.hidden,
                read.nested,
                read.entries,
                read.training,
                read.trains,
            )  # fmt: skip
        )
    return graph.replace(
        nodes=tuple(nodes),
        inputs=tuple(mapping[v] for v in graph.inputs),
        outputs=tuple(mapping[v] for v in graph.outputs),
    )


@dataclass(frozen=True)
class Cut:
    """One value through which everything between inputs and outputs passes.

    Attributes:
        value: The value; a cut is itself a selector.
        bytes_per_sample: What one sample takes there, None where a dimension varies.
        parameters_below: Parameters on the input side.
        parameters_above: Parameters on the output side; a shared layer counts on both.
    """

    value: Value = field(repr=False)
    bytes_per_sample: int | None
    parameters_below: int
    parameters_above: int

    @property
    def name(self) -> str:
        """The name that selects this cut."""
        return self.value.label

    def __repr__(self) -> str:
        return f"<Cut {self.name!r}: {self.value.spec}>"


class Cuts(list[Cut]):
    """The cuts of a model, in order; prints as a table."""

    def __str__(self) -> str:
        from keras_graft.display.text import table

        head = ("cut", "output", "bytes/sample", "params below", "params above")
        return table(head, [
            (c.name, c.value.spec, c.bytes_per_sample, c.parameters_below, c.parameters_above)
            for c in self
        ])  # fmt: skip


def cuts(graph: Graph) -> Cuts:
    """Return every single value that separates the inputs from the outputs.

    Where every node lies on a way from an input to an output, a value is on all ways exactly if
    in one running order no edge passes over it: from before it to behind it. That is one pass.
    """
    needed = _needed(graph, graph.outputs, set())
    used = {v for n in needed for v in n.reads} | set(graph.outputs)
    place: dict[Value, int] = {}
    for value in graph.inputs:
        if value in used:
            place[value] = len(place) + 1
    for node in needed:
        for value in node.outputs:
            if value in used and value not in place:
                place[value] = len(place) + 1
    end = len(place) + 1
    over = [0] * (end + 2)

    def edge(start: int, stop: int) -> None:
        if stop - start > 1:
            over[start + 1] += 1
            over[stop] -= 1

    for value in graph.inputs:
        if value in place:
            edge(0, place[value])
    for node in needed:
        stops = [place[v] for v in node.outputs if v in place]
        for value in node.reads:
            for stop in stops:
                edge(place[value], stop)
    for value in graph.outputs:
        edge(place[value], end)

    sizes: dict[int, int] = {}
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    weights: dict[int, dict[int, int]] = {}
    for node in needed:
        at = min(place[v] for v in node.outputs if v in place)
        own = weights.get(id(node.operation))
        if own is None:
            own = weights[id(node.operation)] = weights_of(node.operation)
        sizes.update(own)
        for key in own:
            first.setdefault(key, at)
            last[key] = at
    below = [0] * (end + 2)
    above = [0] * (end + 2)
    for key, size in sizes.items():
        below[first[key]] += size
        above[last[key]] += size
    total = sum(sizes.values())
    result = Cuts()
    ends = set(graph.inputs) | set(graph.outputs)
    crossing = so_far = gone = 0
    for value, position in place.items():
        crossing += over[position]
        so_far += below[position]
        gone += above[position]
        if crossing == 0 and value not in ends:
            bound = graph.value(value)
            size = bound.spec.bytes_per_sample if bound.spec else None
            result.append(Cut(bound, size, so_far, total - gone))
    return result


# -- parts ------------------------------------------------------------------------------------


def prune(graph: Graph) -> Graph:
    """Return the graph without the nodes that no output needs."""
    return graph.replace(nodes=tuple(_needed(graph, graph.outputs, set())))


def _needed(graph: Graph, outputs: Sequence[Value], stop: set[Value]) -> list[Node]:
    """Return the nodes that `outputs` need when everything in `stop` is given, in order."""
    found: set[Node] = set()
    seen: set[Value] = set()
    stack = list(outputs)
    while stack:
        value = stack.pop()
        if value in seen or value in stop:
            continue
        seen.add(value)
        node = graph.producer(value)
        if node is not None and node not in found:
            found.add(node)
            stack.extend(node.reads)
    return sorted(found, key=graph.position)


def _after(graph: Graph, values: set[Value]) -> set[Node]:
    """Return the nodes that depend on any of `values`."""
    reached = set(values)
    found: set[Node] = set()
    for node in graph.nodes:
        if any(v in reached for v in node.reads):
            found.add(node)
            reached.update(node.outputs)
    return found


def _crossing(
    graph: Graph, head: Sequence[Node], outputs: Sequence[Value], given: set[Value]
) -> list[Value]:
    """Return what the head uses and neither makes nor is given, in graph order."""
    made = {v for n in head for v in n.outputs}
    wanted = [v for n in head for v in n.reads] + list(outputs)
    missing = {v for v in wanted if v not in made and v not in given}
    rank = {v: i for i, v in enumerate(graph.inputs)}
    offset = len(rank)

    def order(value: Value) -> tuple[int, int]:
        node = graph.producer(value)
        if node is None:
            return rank[value], 0
        return offset + graph.position(node), node.outputs.index(value)

    return [graph.value(v) for v in sorted(missing, key=order)]


def _reached(needed: Sequence[Node], outputs: Sequence[Value], value: Value) -> bool:
    return value in outputs or any(value in n.reads for n in needed)


def _refuse(
    graph: Graph, boundary: Sequence[Value], missing: Sequence[Value],
    outputs: Sequence[Value], verb: str,
) -> None:  # fmt: skip
    labels = [graph.label(v) for v in boundary]
    lines = []
    for value in missing:
        users = [n.label for n in graph.consumers(value)]
        need = f"needed by {listed(users, 3)}" if users else "given out as an output"
        lines.append(f"  {graph.label(value)!r}, {need}")
    suggestion = tuple(labels + [graph.label(v) for v in missing])
    quoted = ", ".join(f'"{label}"' for label in suggestion)
    call = (
        f"kg.split(model, at=({quoted})), or at=... with complete=True"
        if verb == "split"
        else f"kg.submodel(model, inputs=[{quoted}], ...)"
    )
    raise CutError(
        f"{listed(labels)} is no cut of {graph.name!r}: {len(missing)} other "
        f"value{'s cross' if len(missing) > 1 else ' crosses'} there:\n"
        + "\n".join(lines)
        + f"\nThis works: {call}.",
        missing,
        suggestion,
    )


def _ends(
    graph: Graph, chosen: Any, default: Sequence[Value], template: Any
) -> tuple[list[Value], Any]:
    if chosen is None:
        return list(default), template
    if isinstance(chosen, dict):
        values = [select_value(graph, s) for s in chosen.values()]
        return values, {name: Slot(i) for i, name in enumerate(chosen)}
    if isinstance(chosen, list | tuple) and chosen:
        values = [select_value(graph, s) for s in chosen]
        return values, flat_slots(len(values))
    values = list(select(graph, chosen).values)
    if len(values) == 1 and is_exact(chosen):
        return values, Slot(0)
    return values, {v.path: Slot(i) for i, v in enumerate(values)}


def _stage(
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
        outputs=tuple(outputs), output_template=output_template, name=name, origin=None,
    )  # fmt: skip


def _fits(give: Spec | None, take: Spec | None) -> bool:
    if give is None or take is None:
        return True
    if give.dtype != take.dtype or len(give.shape) != len(take.shape):
        return False
    return all(
        a is None or b is None or a == b for a, b in zip(give.shape, take.shape, strict=True)
    )
