"""`Tracer`: run the code of a layer on symbolic tensors, and note what it does.

Keras makes the calls. What the code does with layers, ops, weights, sizes, random numbers and losses
arrives here, and becomes calls of one `Frame` for each opened layer. Whatever a graph of calls cannot
say raises a `Doubt`: the layer around it then stays closed.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from keras_graft import _keras
from keras_graft.graph.sizes import Doubt, Size, deep, leaves
from keras_graft.layers.add_loss import AddLoss, WithMask
from keras_graft.layers.dynamic_op import DynamicOp
from keras_graft.layers.random import Random
from keras_graft.layers.weight import KeepWeights, Weight
from keras_graft.model.opening.frame import Frame, Place, in_world, is_open, tensors_of
from keras_graft.model.opening.reasons import Reason, reason_of


class Tracer:
    """One run of the code of a layer.

    Args:
        root: The layer whose code runs first.
        wanted: Returns None if a layer should be opened, else why not.
        closed: The places that stay closed, each with the reason.

    Attributes:
        frames: The opened calls, by their place.
        reasons: The calls that stay closed although they should be opened.
        given: For each tensor that is passed in, by its identity, the one that it was made from.
    """

    def __init__(
        self, root: Any, wanted: Callable[[Any, Place], str | None], closed: Mapping[Place, Reason]
    ) -> None:
        self.active = False
        self.frames: dict[Place, Frame] = {}
        self.reasons: dict[Place, Reason] = {}
        self.given: dict[int, Any] = {}
        self._root = root
        self._wanted = wanted
        self._closed = closed
        self._stack: list[Frame] = []
        self._pending: list[tuple[Any, Frame, Any, Any]] = []
        self._layers = {id(layer) for layer in _keras.layers_inside(root)}
        self._variables = {id(v) for v in root.variables}
        self._last: tuple[Any, str] = None, ""

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Frame:
        """Call the root on symbolic tensors, and return its frame."""
        with _keras.own_call_context(), _keras.heard(self), self._on(True):
            self._root(*args, **kwargs)
        return self.frames[((self._root.name, 0),)]

    @contextlib.contextmanager
    def _on(self, active: bool) -> Iterator[None]:
        before, self.active = self.active, active
        watched, Size.watched = Size.watched, active
        try:
            yield
        finally:
            self.active, Size.watched = before, watched

    @property
    def _frame(self) -> Frame:
        return self._stack[-1]

    # -- calls of layers --------------------------------------------------------------------

    def layer(self, layer: Any, args: Any, kwargs: Any) -> Any:
        """Open a layer, or infer what it gives."""
        around: Place = self._frame.place if self._stack else ()
        number = self._frame.number(layer.name) if self._stack else 0
        place = (*around, (layer.name, number))
        if self._stack and id(layer) not in self._layers and layer.weights:
            raise Doubt(f"it makes the layer {layer.name!r} when it is called")
        text = self._wanted(layer, place) if self._stack else None
        if text is None and place not in self._closed:
            try:
                return self._opened(layer, place, args, kwargs)
            except Exception as error:
                reason = reason_of(error, layer)
                if not self._stack:
                    raise Doubt(reason) from error
                self.reasons[place] = reason
        elif place in self._closed:
            self.reasons[place] = self._closed[place]
        self._last = layer, self.reasons.get(place, "")
        return self._inferred(layer, args, kwargs)

    def _inferred(self, layer: Any, args: Any, kwargs: Any) -> Any:
        if any(isinstance(leaf, Size) for leaf in leaves((args, kwargs))):
            raise Doubt(f"it passes a size that is not known to {layer.name!r}")
        with self._on(False):
            first = self._specs(layer, args, kwargs, 0)
            second = self._specs(layer, args, kwargs, 1) if is_open((args, kwargs)) else first
        return self._frame.born(first, second, list(tensors_of((args, kwargs))))

    @staticmethod
    def _specs(layer: Any, args: Any, kwargs: Any, world: int) -> Any:
        args, kwargs = in_world((args, kwargs), world)
        return layer.compute_output_spec(*args, **kwargs)

    def _opened(self, layer: Any, place: Place, args: Any, kwargs: Any) -> Any:
        frame = Frame(layer, place)
        inner_args, inner_kwargs = frame.enter((args, kwargs))
        self._stack.append(frame)
        try:
            with _restored(layer):
                outputs = layer.call(*inner_args, **inner_kwargs)
                self._close(frame, outputs, inner_args, inner_kwargs)
        finally:
            self._stack.pop()
        given = self._given(frame, list(tensors_of((args, kwargs))))
        self.frames[place] = frame
        self._pending.append((layer, frame, args, kwargs))
        return given

    def _close(self, frame: Frame, outputs: Any, args: Any, kwargs: Any) -> None:
        """Finish a frame: what the code gives, with its losses, masks and unused weights."""
        layer = frame.layer
        flat = [self._tensor(leaf) for leaf in keras.tree.flatten(outputs)]
        while flat and flat[-1] is None and self._stack[:-1]:
            flat.pop()
        wrong = [leaf for leaf in flat if not isinstance(leaf, keras.KerasTensor)]
        if not self._stack[:-1]:
            wrong = [leaf for leaf in wrong if leaf is not None]
        if wrong or not flat:
            raise Doubt(f"it gives {', '.join(type(leaf).__name__ for leaf in wrong) or 'nothing'}")
        for tensor in flat:
            if tensor is not None and not frame.owns(tensor):
                raise Doubt("it gives a tensor that the code of another call made")
        place = next(i for i, leaf in enumerate(flat) if leaf is not None)
        if frame.losses:
            flat[place] = self._put(AddLoss(name="add_loss"), flat[place], frame.losses)
        masked = [None if leaf is None else _keras.mask_of(leaf) for leaf in flat]
        if layer.supports_masking:
            first = next(iter((*args, *kwargs.values())), None)
            known = kwargs.get("mask")
            if known is None:
                known = keras.tree.map_structure(_keras.mask_of, first)
            masks = None if all(masked) else layer.compute_mask(first, known)
            for i, mask in enumerate([] if masks is None else keras.tree.flatten(masks)):
                if i < len(flat) and mask is not None and masked[i] is None:
                    flat[i] = self._put(WithMask(name="with_mask"), flat[i], mask=mask)
                    _keras.set_mask(flat[i], mask)
                    frame.handed_on.append(mask)
        frame.outputs = [leaf for leaf in flat if leaf is not None]
        frame.structure = outputs, flat
        left = self._unused(frame)
        if left:
            specs = [[list(v.shape), _keras.dtype_of(v), bool(v.trainable)] for v in left]
            keeper = KeepWeights(specs, variables=left, name="unused_weights")
            mask = _keras.mask_of(flat[place])
            flat[place] = self._put(keeper, flat[place])
            if mask is not None:
                _keras.set_mask(flat[place], mask)
            frame.outputs = [leaf for leaf in flat if leaf is not None]
        used = {id(step) for step in frame.needed()}
        frame.steps = [step for step in frame.steps if id(step) in used]

    def _unused(self, frame: Frame) -> list[Any]:
        covered = {id(v) for step in frame.needed() for v in getattr(step.operation, "weights", ())}
        return [v for v in frame.layer.weights if id(v) not in covered]

    def _put(self, layer: Any, tensor: Any, *args: Any, **kwargs: Any) -> Any:
        """Record a call of a layer of the package, that returns its first input."""
        made = self._frame.born(*(in_world(tensor, world) for world in (0, 1)), [tensor])
        self._frame.record(layer, (tensor, *args), kwargs, made)
        return made

    def _given(self, frame: Frame, reads: list[Any]) -> Any:
        """Return the tensors outside for what an opened call gives."""
        if not self._stack:
            return frame.outputs
        outputs, flat = frame.structure
        outside: dict[int, Any] = {}
        entered = dict(zip(map(id, frame.tensors), frame.sources, strict=True))
        made = []
        for leaf in flat:
            new = self._frame.born(in_world(leaf, 0), in_world(leaf, 1), reads)
            outside[id(leaf)] = new
            made.append(new)
            mask = _keras.mask_of(leaf)
            if mask is None:
                continue
            if id(mask) in entered:
                _keras.set_mask(new, entered[id(mask)])
            elif not any(mask is one for one in frame.handed_on):
                stand = self._frame.born(in_world(mask, 0), in_world(mask, 1), reads)
                _keras.set_mask(new, stand)
                frame.unseen.append((stand, mask))
        count = len(keras.tree.flatten(outputs))
        return keras.tree.pack_sequence_as(outputs, made + [None] * (count - len(made)))

    def called(self, layer: Any, args: Any, kwargs: Any, outputs: Any) -> None:
        """Record the call of a layer, opened or not, as Keras records it."""
        opened = None
        if self._pending and self._pending[-1][0] is layer:
            _, opened, now_args, now_kwargs = self._pending.pop()
            opened.sources = _originals(opened, (args, kwargs), (now_args, now_kwargs))
            opened.given = args, kwargs
        if not self._stack:
            return
        frame = self._frame
        if any(isinstance(leaf, Size) for leaf in leaves((args, kwargs))) and opened is None:
            raise Doubt(f"it passes a size that is not known to {layer.name!r}")
        step = frame.record(layer, deep(args, _plain), deep(kwargs, _plain), outputs)
        if opened is not None:
            frame.inner[id(step)] = opened
        elif self._last[0] is layer:
            frame.closed[id(step)] = self._last[1]
        said = id(layer) if id(layer) in self._layers else _form_of_new(layer)
        rest = {key: value for key, value in kwargs.items() if key != "training"}
        frame.log.append((said, deep((args, rest), _said)))
        if "training" in kwargs:
            frame.training[len(frame.log) - 1] = (step, kwargs["training"])

    # -- ops ----------------------------------------------------------------------------------

    def op(self, op: Any, args: Any, kwargs: Any) -> Any:
        """Infer what an op gives, and record it."""
        args, kwargs = deep((args, kwargs), self._tensor)
        attributes = _keras.op_attributes(op)
        if any(_is_code(leaf) for leaf in leaves((args, kwargs, attributes))):
            raise Doubt(f"keras.ops.{_plain_name(op)} runs a Python function")
        found = list(tensors_of((args, kwargs)))
        try:
            specs = self._op_specs(op, attributes, args, kwargs)
        except Exception:
            if any(isinstance(leaf, keras.KerasTensor) for leaf in leaves((args, kwargs))):
                raise
            # It computes with sizes alone, and takes no plain numbers: `ops.cast(length, "float32")`.
            args, kwargs = deep((args, kwargs), self._number)
            specs = self._op_specs(op, attributes, args, kwargs)
        sized = any(isinstance(leaf, Size) for leaf in leaves((args, kwargs, attributes)))
        frame = self._frame
        outputs = frame.born(specs[0], specs[-1], found)
        if not sized:
            frame.record(self._named(op), args, kwargs, outputs)
            frame.log.append((type(op).__name__, deep((attributes, args, kwargs), _said)))
            return outputs
        name = _keras.op_name(op)
        if name is None:
            raise Doubt(f"the op {type(op).__name__} of its own reads a size that is not known")
        self._dynamic(f"op:{name}", _plain_name(op), attributes, args, kwargs, outputs)
        return outputs

    def _op_specs(self, op: Any, attributes: Any, args: Any, kwargs: Any) -> list[Any]:
        """Return what an op gives, in each world."""
        structure = attributes, args, kwargs
        sized = any(isinstance(leaf, Size) for leaf in leaves(structure))
        specs = []
        with self._on(False):
            for world in (0, 1) if is_open(structure) else (0,):
                told, given_args, given_kwargs = in_world(structure, world)
                here = _keras.bare_op(type(op), {**vars(op), **told}, op.name) if sized else op
                specs.append(here.compute_output_spec(*given_args, **given_kwargs))
        return specs

    def _dynamic(
        self, target: str, name: str, attributes: Any, args: Any, kwargs: Any, outputs: Any
    ) -> None:
        frame = self._frame
        sized, reads = frame.sized(target, attributes, args, kwargs)
        frame.record(DynamicOp(sized, name=name), tuple(reads), {}, outputs)
        frame.log.append((target, sized.form()))

    def _named(self, op: Any) -> Any:
        """Name an op that was made for this call plainly: Keras's numbers depend on what ran before."""
        held = vars(self._frame.layer).values()
        if not op._inbound_nodes and not any(op is value for value in held):
            op.name = _plain_name(op)
        return op

    def made(self, name: str, function: Any, args: Any, kwargs: Any, random: bool) -> Any:
        """Record a function that makes a tensor of sizes, or draws numbers."""
        structure = deep((args, kwargs), self._tensor)
        known = [
            leaf for leaf in leaves(structure) if isinstance(leaf, keras.KerasTensor | Size)
        ]
        if not known and not random:
            return NotImplemented
        given = _keras.bound(name, random, function, *structure)
        seed = given.pop("seed", None)
        if random and not isinstance(seed, keras.random.SeedGenerator):
            raise Doubt(f"keras.random.{name} has no seed generator of the layer")
        if random and id(seed.state) not in self._variables:
            raise Doubt(f"keras.random.{name} draws from a seed generator of no layer of the model")
        target = f"{'random' if random else 'ops'}:{name}"
        frame = self._frame
        sized, reads = frame.sized(target, {}, (), given)
        with self._on(False):
            symbols = [in_world(reads, world) for world in (0, 1)]
            first, second = (
                _spec_at(sized, tensors, world) for world, tensors in enumerate(symbols)
            )
        outputs = frame.born(first, second, list(tensors_of(given)))
        tensors = tuple(reads) or (frame.anchor,)
        if random:
            frame.record(Random(sized, seed=seed, name=name), tensors, {}, outputs)
        else:
            frame.record(DynamicOp(sized, name=name), tensors, {}, outputs)
        frame.log.append((target, sized.form(), id(seed)))
        return outputs

    def _number(self, leaf: Any) -> Any:
        """Return a size as a tensor, for an op that computes with it."""
        if not isinstance(leaf, Size):
            return leaf
        frame = self._frame
        sized, reads = frame.sized("ops:convert_to_tensor", {}, (), {"x": leaf})
        outputs = keras.KerasTensor((), "int32")
        frame.record(DynamicOp(sized, name="size"), tuple(reads), {}, outputs)
        frame.log.append(("size", sized.form()))
        return outputs

    # -- weights and losses -------------------------------------------------------------------

    def symbolic(self, leaf: Any) -> bool:
        """Whether a leaf is a weight or a size that is not known."""
        return isinstance(leaf, keras.Variable | Size)

    def _tensor(self, leaf: Any) -> Any:
        return self.weight(leaf) if isinstance(leaf, keras.Variable) else leaf

    def weight(self, variable: Any) -> Any:
        """Return the tensor of a variable, made by a `Weight` in the present frame."""
        if id(variable) not in self._variables:
            raise Doubt(f"it uses the variable {variable.path!r}, which no layer of the model has")
        frame = self._frame

        def make() -> Any:
            with self._on(False):
                layer = Weight(
                    variable.shape, variable_dtype=_keras.dtype_of(variable),
                    trains=bool(variable.trainable), variable=variable,
                    name=variable.path.rpartition("/")[2] or variable.name,
                    dtype=frame.layer.dtype_policy,
                )  # fmt: skip
                outputs = layer.compute_output_spec(None)
            frame.record(layer, (frame.anchor,), {}, outputs)
            frame.log.append(("weight", id(variable)))
            return outputs

        return frame.lifted(variable, make)

    def lost(self, losses: list[Any]) -> None:
        """Keep losses that the code adds."""
        self._frame.losses += [self._tensor(loss) for loss in losses]

    def refuse(self, why: str) -> None:
        """Refuse what the code does."""
        raise Doubt(why)


def _spec_at(sized: Any, tensors: list[Any], world: int) -> Any:
    return sized._inferred(tensors, world)


def _originals(frame: Frame, before: Any, after: Any) -> list[Any]:
    """Return the tensors outside as they were before Keras converted them."""
    args, kwargs = before
    now_args, now_kwargs = after
    pairs = list(zip(leaves(args), leaves(now_args), strict=False))
    for key, value in kwargs.items():
        if key in now_kwargs:
            pairs += zip(leaves(value), leaves(now_kwargs[key]), strict=False)
    found = {id(new): old for old, new in pairs if isinstance(old, keras.KerasTensor)}
    return [found.get(id(source), source) for source in frame.sources]


def _plain(leaf: Any) -> Any:
    return int(leaf) if isinstance(leaf, Size) else leaf


def _plain_name(op: Any) -> str:
    return re.sub(r"_\d+$", "", str(op.name))


def _is_code(leaf: Any) -> bool:
    known = isinstance(leaf, type | keras.KerasTensor | keras.Operation)
    return callable(leaf) and not known


def _form_of_new(layer: Any) -> Any:
    """Return what two layers made by the same line of code have in common."""
    config = {k: v for k, v in layer.get_config().items() if k != "name"}
    return type(layer).__name__, repr(sorted(config.items(), key=str))


def _said(leaf: Any) -> Any:
    """Return what two runs of the same code have in common about an argument."""
    if isinstance(leaf, keras.KerasTensor):
        return f"<{len(leaf.shape)} {leaf.dtype}>"
    if isinstance(leaf, Size) or leaf is None or isinstance(leaf, bool | int | float | str):
        return "size" if isinstance(leaf, Size) else leaf
    if isinstance(leaf, keras.Variable):
        return id(leaf)
    if keras.ops.is_tensor(leaf) or isinstance(leaf, np.ndarray | np.generic):
        array = np.asarray(keras.ops.convert_to_numpy(leaf))
        return str(array.dtype), array.shape, array.tobytes()
    return type(leaf).__name__


@contextlib.contextmanager
def _restored(layer: Any) -> Iterator[None]:
    """Restore the attributes of a layer: its code may keep a tensor in one."""
    before = dict(vars(layer))
    try:
        yield
    finally:
        now = vars(layer)
        changed = {k for k, v in now.items() if k not in before or before[k] is not v}
        written = [k for k in changed if not _only_tensors(now[k]) and k not in _KERAS_OWN]
        for key in changed:
            if key in before:
                now[key] = before[key]
            else:
                del now[key]
        if written:
            raise Doubt(f"its code sets the attribute {sorted(written)[0]!r}")


_KERAS_OWN = {"_called", "_losses", "built", "_loss_ids"}
"""Attributes that Keras itself may set during a call."""


def _only_tensors(value: Any) -> bool:
    return all(leaf is None or isinstance(leaf, keras.KerasTensor) for leaf in leaves(value))
