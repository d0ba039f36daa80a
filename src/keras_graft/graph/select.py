"""Selectors: find nodes and values by name, glob, class, pattern or object, for every verb."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from keras_graft import advice
from keras_graft.errors import AmbiguousError, NothingSelectedError, SelectionError
from keras_graft.graph.activations import as_activation
from keras_graft.graph.closed import what_is_closed
from keras_graft.graph.graph import Graph
from keras_graft.graph.named_block import end_of_block
from keras_graft.graph.names import listed, nearest
from keras_graft.graph.node import Node, Value
from keras_graft.graph.recording import selected
from keras_graft.graph.table import selection_tables
from keras_graft.printable import shown, words_of
from keras_graft.tables import Table, Tabular, counted

Item = Node | Value
_DEEPEST = 50
_GLOB = re.compile(r"[*?\[]")


class _Asked(str):
    """The text of a selector that was not pickled."""

    def __repr__(self) -> str:
        return str(self)


class Selection(Tabular):
    """What a selector found: nodes, or values where the selector names values.

    It can be counted, iterated, narrowed, printed, and used as a selector itself.
    """

    def __init__(self, graph: Graph, items: Iterable[Item], selector: Any) -> None:
        self.graph = graph
        self.items = tuple(dict.fromkeys(items))
        self.selector = selector

    def __reduce__(self) -> tuple[Any, ...]:
        # The selector may be a function that cannot be pickled.
        asked = self.selector if isinstance(self.selector, str) else _Asked(self.what)
        return Selection, (self.graph, self.items, asked)

    @property
    def what(self) -> str:
        """The selector as text, for messages."""
        return shown(self.selector)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes; for a value, its producer."""
        found = (i if isinstance(i, Node) else i.producer for i in self.items)
        return tuple(dict.fromkeys(n for n in found if n is not None))

    @property
    def values(self) -> tuple[Value, ...]:
        """The values; for a node, all its outputs."""
        return tuple(
            dict.fromkeys(
                v for i in self.items for v in (i.values if isinstance(i, Node) else (i,))
            )
        )

    @property
    def labels(self) -> list[str]:
        """The path of each item."""
        return [item.path for item in self.items]

    def expect(self, count: int) -> Selection:
        """Return this selection if it has `count` items.

        Raises:
            SelectionError: If it has another number of items; they are listed.
        """
        if len(self.items) != count:
            raise SelectionError(
                f"Expected {count} from {self.what}, found {len(self.items)}: {listed(self.labels)}."
            )
        return self

    def where(self, predicate: Callable[[Any], bool]) -> Selection:
        """Return the items for which `predicate(item)` holds.

        Raises:
            SelectionError: If `predicate` is not a function, or raises.
        """
        if not callable(predicate):
            raise SelectionError(f"where() takes a function of an item, got {shown(predicate)}.")
        found = [item for item in self.items if _holds(predicate, item)]
        return Selection(self.graph, found, self.selector)

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    def __getitem__(self, index: int) -> Item:
        return self.items[index]

    def __repr__(self) -> str:
        return f"<Selection of {len(self)} from {self.what}: {listed(self.labels)}>"

    def tables(self) -> list[Table]:
        """Return the selection as a table, one item per line."""
        return selection_tables(self)


def everything(graph: Graph, scope: tuple[Node, ...] = ()) -> Iterator[Node]:
    """Yield all nodes of a graph and of its nested models, outer before inner."""
    for node in graph.steps:
        here = node.within(graph, scope)
        yield here
        if node.nested is not None:
            yield from everything(node.nested, (*scope, here))


def leaves(nodes: Iterable[Node]) -> Iterator[Node]:
    """Yield nodes; instead of a nested model, the nodes inside it."""
    for node in nodes:
        if node.nested is None:
            yield node
        else:
            scope = (*node.scope, node)
            yield from leaves(inner.within(node.nested, scope) for inner in node.nested.steps)


def tied(graph: Graph, scope: tuple[Node, ...] = ()) -> Iterator[Node]:
    """Yield the calls of layers that use a weight of another layer, also in nested models.

    Other nodes are not visited: every edit of a large model calls this.
    """
    for node in graph.tied:
        here = node.within(graph, scope)
        if node.nested is None:
            yield here
        else:
            yield from tied(node.nested, (*scope, here))


def select(graph: Graph, selector: Any) -> Selection:
    """Find the nodes and values that a selector matches; `docs/select.md` lists its forms.

    Raises:
        NothingSelectedError: If nothing matches; the nearest names are given.
        SelectionError: If the selector has no known form, or belongs to another model.
    """
    items = list(_find(graph, selector))
    if not items:
        raise NothingSelectedError(_nothing(graph, selector))
    selected(graph, selector, items)
    return Selection(graph, items, selector)


def select_value(graph: Graph, selector: Any) -> Value:
    """Find exactly one value.

    Raises:
        AmbiguousError: If the selector matches several values; they are listed.
    """
    found = select(graph, selector).values
    if len(found) > 1:
        raise AmbiguousError(
            f"One value is needed here, and {shown(selector)} selects {len(found)}: "
            f"{listed(v.path for v in found)}. Name one of them."
        )
    return next(iter(found))


def is_exact(graph: Graph, selector: Any) -> bool:
    """Whether a selector is the name of one thing, rather than a pattern."""
    if isinstance(selector, str):
        return not _GLOB.search(selector) or bool(_exact(graph, selector, ()))
    return isinstance(selector, Node | Value) or hasattr(selector, "value")


def _find(graph: Graph, selector: Any, depth: int = 0) -> Iterator[Item]:
    if isinstance(selector, Selection):
        selector = list(selector.items)
    if isinstance(selector, list | tuple):
        if not selector:
            raise NothingSelectedError(
                f"An empty list selects nothing in {graph.name!r}: name at least one node or value."
            )
        if depth > _DEEPEST:
            raise SelectionError(f"A selector of lists nested more than {_DEEPEST} deep.")
        for part in selector:
            found = list(_find(graph, part, depth + 1))
            if not found:
                raise NothingSelectedError(_nothing(graph, part))
            selected(graph, part, found)
            yield from found
    elif isinstance(selector, str):
        found = list(by_text(graph, selector, ()))
        yield from found or by_text(graph, selector, (), blocks=True)
    elif isinstance(selector, Node | Value):
        yield _own(graph, selector)
    elif isinstance(selector, re.Pattern):
        yield from (n for n in everything(graph) if _holds(lambda n: selector.search(n.path), n))
    elif isinstance(selector, type):
        yield from (n for n in everything(graph) if isinstance(n.operation, selector))
    elif isinstance(getattr(selector, "value", None), Value):
        yield _own(graph, selector.value)
    elif type(selector).__name__ == "KerasTensor":
        yield _by_tensor(graph, selector)
    elif hasattr(selector, "get_config") and hasattr(selector, "name"):
        yield from (n for n in everything(graph) if n.operation is selector)
    elif callable(selector):
        yield from (n for n in everything(graph) if _holds(selector, n))
    else:
        raise SelectionError(
            f"{shown(selector)} is not a selector: give a name, a glob, a class, a pattern, a "
            "predicate, a node, a value, a layer, a KerasTensor, or a list of these."
        )


def _holds(predicate: Callable[[Any], Any], item: Item) -> bool:
    try:
        return bool(predicate(item))
    except Exception as error:  # a user's function
        raise SelectionError(
            f"{shown(predicate)}, asked about {item.path!r}, raised {type(error).__name__}: "
            f"{words_of(error)}"
        ) from error


def _own(graph: Graph, item: Item) -> Item:
    """Return the handle in this graph of a node or value, perhaps from another `read`."""
    home = item.scope[-1].nested if item.scope else graph
    if home is not None and item.within(None) in home and _stands(graph, item.scope):
        return item.within(home, item.scope)
    # A model read twice gives different keys, but has the same KerasTensors.
    value = item.outputs[0] if isinstance(item, Node) else item
    found = None
    if value.origin is not None:
        found = _in_same_calls(graph, value) or find_tensor(graph, value.origin)
    if found is None:
        raise SelectionError(
            f"{shown(item)} belongs to another model, not to {graph.name!r}: select it there by "
            "its name."
        )
    if isinstance(item, Value):
        return found
    producer = found.producer
    assert producer is not None
    return producer


def _in_same_calls(graph: Graph, value: Value) -> Value | None:
    """Return a value of another `read`, in the same calls of nested models as there."""
    level, scope = graph, ()
    for node in value.scope:
        tensor = node.outputs[0].origin
        given = None if tensor is None else level.read_from(tensor)
        call = None if given is None else level.producer(given)
        if call is None or call.nested is None:
            return None
        scope = (*scope, call.within(level, scope))
        level = call.nested
    found = level.read_from(value.origin)
    return None if found is None else found.within(level, scope)


def _stands(graph: Graph, scope: tuple[Node, ...]) -> bool:
    """Whether `graph` still has the nested models of this scope."""
    level = graph
    for node in scope:
        if node.within(None) not in level or level.node(node).nested is None:
            return False
        level = node.nested
        assert level is not None
    return True


def find_tensor(graph: Graph, tensor: Any, scope: tuple[Node, ...] = ()) -> Value | None:
    """Return the value that was read from a KerasTensor, also in nested models."""
    value = graph.read_from(tensor)
    if value is not None:
        return value.within(graph, scope)
    for node in graph.steps:
        if node.nested is not None:
            found = find_tensor(node.nested, tensor, (*scope, node.within(graph, scope)))
            if found is not None:
                return found
    return None


def _by_tensor(graph: Graph, tensor: Any) -> Value:
    found = find_tensor(graph, tensor)
    if found is None:
        raise SelectionError(
            f"{shown(tensor)} is a tensor of another model, not of {graph.name!r}. layer.output is "
            "the tensor of the layer's very first call, in any model: select by name instead."
        )
    return found


def by_text(
    graph: Graph, text: str, scope: tuple[Node, ...], blocks: bool = False
) -> Iterator[Item]:
    """Yield what a path selects; with `blocks`, the ends of blocks whose names begin so."""
    head, slash, rest = text.partition("/")
    if slash and head == "**":
        while rest.startswith("**/"):
            rest = rest[3:]
        text = f"**/{rest}"
        yield from by_text(graph, rest, scope, blocks)
        for node in graph.steps:
            if node.nested is not None:
                yield from by_text(node.nested, text, (*scope, node.within(graph, scope)), blocks)
        return
    if text == "**" and not _exact(graph, text, scope):
        yield from everything(graph, scope)
        return
    if slash:
        for item in _level(graph, head, scope):
            if isinstance(item, Node) and item.nested is not None:
                yield from by_text(item.nested, rest, (*scope, item), blocks)
        return
    end = end_of_block(graph, text, scope) if blocks else None
    yield from _level(graph, text, scope) if end is None else (end,)


def _level(graph: Graph, text: str, scope: tuple[Node, ...]) -> Iterator[Item]:
    """Match one segment of a path: the exact name first, then call and output, then glob."""
    exact = _exact(graph, text, scope)
    if exact:
        yield from exact
        return
    match = re.fullmatch(r"(.*?)(?:#([0-9]{1,9}))?(?::([0-9]{1,9}))?", text, re.DOTALL)
    assert match is not None
    name, call, output = match.groups()
    glob = _GLOB.search(name)
    for node in graph.steps:
        own = graph.name_of(node)
        if own != name and not (glob and fnmatch.fnmatchcase(own, name)):
            continue
        if call is not None and graph.call_of(node) != int(call):
            continue
        here = node.within(graph, scope)
        if output is None:
            yield here
        elif int(output) < len(node.outputs):
            yield here.values[int(output)]
    if glob and call is None and output is None:
        for value, own in zip(graph.inputs, graph.input_names, strict=True):
            if fnmatch.fnmatchcase(own, name):
                yield value.within(graph, scope)


def _exact(graph: Graph, text: str, scope: tuple[Node, ...]) -> list[Item]:
    inputs = zip(graph.inputs, graph.input_names, strict=True)
    return [
        *(n.within(graph, scope) for n in graph.named(text)),
        *(v.within(graph, scope) for v, name in inputs if name == text),
    ]


def _closed(graph: Graph, text: str, scope: tuple[Node, ...]) -> Node | None:
    """Return the node that a path leads into although it is not a model that can be opened."""
    head, slash, rest = text.partition("/")
    if not slash or head == "**":
        return None
    for item in _level(graph, head, scope):
        if isinstance(item, Node):
            found = item if item.nested is None else _closed(item.nested, rest, (*scope, item))
            if found is not None:
                return found
    return None


def _nothing(graph: Graph, selector: Any) -> str:
    if not isinstance(selector, str):
        listing = advice.way("list", "print(kg.read(model))")
        return (
            f"Nothing in {graph.name!r} matches {shown(selector)}; {listing} lists its nodes."
            f"{as_activation(selector, leaves(graph))}"
        )
    closed = _closed(graph, selector, ())
    if closed is not None:
        return f"Nothing in {graph.name!r} matches {shown(selector)}: {what_is_closed(closed)}"
    names = [*graph.input_names, *(n.path for n in everything(graph))]
    deeper = [n for n in names if n.endswith("/" + selector)]
    near = deeper or nearest(selector, names)
    hint = f" Nearest: {listed(near)}." if near else ""
    return (
        f"Nothing in {graph.name!r} matches {shown(selector)}.{hint} "
        f"{advice.way('list', 'print(kg.read(model))')} lists its {counted(len(graph), 'node')}."
    )
