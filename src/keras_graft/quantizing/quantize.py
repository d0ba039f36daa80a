"""The verb `quantize`: weights of chosen layers in fewer bits."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

from keras_graft import _keras
from keras_graft.adapters.state import path_of
from keras_graft.edit.inline import inline
from keras_graft.errors import EditError, GraftError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import is_one_of, listed
from keras_graft.graph.node import Node
from keras_graft.graph.record import unwrapped
from keras_graft.graph.select import everything
from keras_graft.model.attributes import copied
from keras_graft.model.build import build
from keras_graft.model.clone import Clone
from keras_graft.model.read import opened_for
from keras_graft.model.verb import verb
from keras_graft.printable import shown, words_of
from keras_graft.quantizing.calibrate import calibrate, configured, groups, samples
from keras_graft.quantizing.candidates import CALIBRATED, Candidate, candidates, chosen
from keras_graft.quantizing.outside import read_outside
from keras_graft.quantizing.written import written
from keras_graft.shared.kept import edited

Mode = Literal["int8", "int4", "float8", "gptq", "awq"]


@verb
def quantize(
    graph: Graph,
    target: Any,
    mode: Mode = "int8",
    config: Any = None,
    data: Any = None,
    blocks: Any = None,
    batch_size: int = 32,
) -> Graph:
    """Keep the weights of chosen layers in fewer bits; all other layers stay as they are.

    Each layer is quantized by Keras's own `layer.quantize`, on a copy: `model` keeps its weights and
    its dtype policies. All other layers are shared with it. What Keras quantizes are `Dense`,
    `EinsumDense` (the projections of a `MultiHeadAttention`), `Embedding` and `ReversibleEmbedding`,
    also inside nested models and layers that hold layers. A layer that is called several times is
    quantized once. `kg.list_quantized(result, model)` shows bytes and errors, and why other layers
    were left.

    The result saves to a file that Keras loads without this package, unless the model had layers of
    this package before. If a layer would forget what is quantized inside it, it is opened: its place
    is taken by the layers and ops of its code.

    `"gptq"` and `"awq"` run the model on data. The layers of one block are calibrated together, on
    what the blocks before give after their quantization; layers outside blocks one by one. Every
    layer sees its own inputs, whatever branches the model has. From "GPTQ: Accurate Post-Training
    Quantization for Generative Pre-trained Transformers" (Frantar et al., 2022) and "AWQ:
    Activation-aware Weight Quantization" (Lin et al., 2023), in Keras's classes.

    Args:
        model: A Keras model or a `Graph`.
        target: Which layers: an address or a pattern, where `**` stands for any number of names and
            a layer or model stands for all that is inside: `"**/mlp"`, `"block_*/attention/query"`.
            Or any selector of layers, or a class. A pattern skips what cannot be quantized.
        mode: `"int8"`, `"int4"`, `"float8"` (which keeps the weights in floats, for training),
            `"gptq"` or `"awq"`.
        config: A `keras.quantizers` configuration of this mode (int8, int4 and float8: Keras 3.13).
        data: For GPTQ and AWQ: what `model.predict` takes. None: the `dataset` of `config`.
        blocks: For GPTQ and AWQ: a selector of the blocks. None: those that names with numbers
            show, such as `block_0` and `block_1`.
        batch_size: How many samples of `data` run at once.

    Raises:
        NothingSelectedError: If `target` names nothing that can be quantized; with the reasons.
        EditError: If a layer that is named by its address cannot be quantized, or if an argument is
            wrong.
        KerasVersionError: If this Keras does not have the mode.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> y = keras.layers.Dense(8, name="up", activation="relu")(x)
    >>> model = keras.Model(x, keras.layers.Dense(2, name="down")(y))
    >>> small = kg.quantize(model, "up")
    >>> small.get_layer("up").kernel.dtype, model.get_layer("up").kernel.dtype
    ('int8', 'float32')
    >>> small.get_layer("down") is model.get_layer("down")
    True
    """
    if not is_one_of(mode, "int8", "int4", "float8", "gptq", "awq"):
        raise EditError(
            f'quantize: mode must be "int8", "int4", "float8", "gptq" or "awq", got {shown(mode)}.'
        )
    given, config = config, configured(mode, config)
    data = samples(graph, mode, given, data, batch_size)
    if blocks is not None and mode not in CALIBRATED:
        raise EditError(f'quantize: blocks= is for mode="gptq" and mode="awq", not for {mode!r}.')
    old = graph
    meant = chosen(old, candidates(old, mode), target, "quantize")
    refused: dict[str, str] = {}
    while True:
        work = _Work(graph, meant, mode)
        why = work.read_outside()
        lost = [] if why else work.run(config, data, groups(old, meant, blocks), batch_size)
        if not why and not lost:
            return edited(old, work.graph, "quantize")
        opened = _opened(graph, lost) if lost else graph
        if opened is not None:
            graph = opened  # there, each layer that was inside has a configuration of its own
        else:
            around = shown(path_of(lost[0].node))
            why = {one.address: _LOST.format(around) for one in lost}
        refused.update(why)
        if why:
            meant = chosen(old, candidates(old, mode, refused), target, "quantize", refused)


def _opened(graph: Graph, lost: list[Candidate]) -> Graph | None:
    """Return the graph with what is inside the layers around some layers; None if one is closed."""
    around = {id(one.node.operation) for one in lost}
    if not around & {id(node.operation) for node in everything(graph)}:
        return None
    opened = opened_for(graph, [one.address for one in lost])
    nodes = [node for node in everything(opened) if id(node.operation) in around]
    if any(node.nested is None for node in nodes):
        return None
    return inline(opened, nodes)


_LOST = (
    "{} around it makes it from its configuration without that dtype and cannot be opened, so a "
    "file of the result would not load. Let its code hand dtype=self.dtype_policy on to the "
    "layers that it makes"
)


class _Sharing(Clone):
    """Copies layers around the same variables."""

    def _variable(self, old: Any) -> Any:
        if isinstance(old, _keras.Tied | _keras.Adapted | _keras.Joined):
            return old.copied(self.copier)
        return old


class _Work:
    """Copies of the layers of a graph that change, and their quantization."""

    def __init__(self, graph: Graph, found: list[Candidate], mode: str) -> None:
        self._found, self._mode = found, mode
        wanted = {id(one.layer) for one in found}
        work = _Sharing()
        self._changed: dict[int, Node] = {}
        for node in everything(graph):
            inside = _keras.layers_inside(unwrapped(node.operation))
            if any(id(layer) in wanted for layer in inside):
                self._changed.setdefault(id(node.operation), node)
            else:
                work.copier.keep(node.operation)
        self.graph = work.graph(graph, copied)
        self._copy = work.copier

    def read_outside(self) -> dict[str, str]:
        """Return why layers cannot be quantized whose weights other code reads, by addresses."""
        nodes = list(self._changed.values())
        found = read_outside(nodes, self._copy, [one.layer for one in self._found])
        addresses = {id(one.layer): one.address for one in self._found}
        return {
            addresses[id(layer)]: (
                f"the code of {shown(path_of(node))} reads its weight without calling it, and would "
                "read numbers that mean nothing without their scales"
            )
            for layer, node in found
        }

    def run(
        self, config: Any, data: Any, blocks: list[list[Candidate]], batch_size: int
    ) -> list[Candidate]:
        """Quantize the copies; return the layers that a file of the result would lose."""
        for one in self._found:
            _keras.use_own_policy(self._copy(one.layer))
        if self._mode in CALIBRATED:
            model = build(self.graph)
            for together in blocks:
                layers = [self._copy(one.layer) for one in together]
                names = [one.address for one in together]
                with _naming(names):
                    calibrate(model, layers, names, self._mode, config, data, batch_size)
        else:
            for one in self._found:
                with _naming([one.address]):
                    _keras.quantize_layer(self._copy(one.layer), self._mode, config)
        return self._written()

    def _written(self) -> list[Candidate]:
        """Write into configurations what is quantized; return the layers that they would lose."""
        lost: set[int] = set()
        for node in self._changed.values():
            layer = self._copy(node.operation)
            for one in reversed(_keras.layers_inside(layer)):
                if one.built:
                    _keras.track_on_torch(one)
            if node.nested is None:
                lost |= {id(one) for one in written(layer)}
        return [one for one in self._found if id(self._copy(one.layer)) in lost]


@contextlib.contextmanager
def _naming(names: list[str]) -> Iterator[None]:
    """Raise an EditError that names the layers: Keras's quantizers raise any error."""
    try:
        yield
    except GraftError:
        raise
    except Exception as error:
        raise EditError(f"quantize: {listed(names, 3)}: {words_of(error)}.") from error
