"""`TiedModel`: a Functional model that restores its ties when it is loaded from a file."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.errors import NotYetError, WeightsError
from keras_graft.graph.record import is_wrapper, remember, unwrapped
from keras_graft.ties.apply import carry_out, look_again
from keras_graft.ties.layer import (
    Tie,
    all_ties,
    become_tied,
    named_weights,
    owner_of,
    ties_of,
    told,
    way_out,
)

_TIED_ALREADY = ContextVar("tied_already", default=False)


@keras.saving.register_keras_serializable("keras_graft")
class TiedModel(_keras.LaterOutputs):
    """A Functional model in which layers are tied, or one layer is in several nested models.

    Keras saves a layer that is in two nested models once, but loads it twice: such a file does not
    load. This class records it in its configuration. After loading, all weights of the second layer
    are tied to the first. Uses `Functional` and the key `"shared_object_id"` (3.12 - 3.15).
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not _TIED_ALREADY.get():
            self._find_sources()
        self._address()

    @classmethod
    def of(cls, inputs: Any, outputs: Any, name: str | None = None) -> Any:
        """Make a model of layers whose ties are already complete: search for no sources.

        A layer that was loaded from a stage without its source is independent: it must not be
        tied to whatever layer is now at the path of the source.
        """
        # Not an argument: Keras requires the arguments of Functional's constructor.
        token = _TIED_ALREADY.set(True)
        try:
            return cls(inputs, outputs, name=name)
        finally:
            _TIED_ALREADY.reset(token)

    def _find_sources(self) -> None:
        """Apply the ties of layers that come from a file or from `clone_model`."""
        layers = dict(layers_of(self))
        changed = False
        for path, layer in layers.items():
            for tie in all_ties(layer):
                source = layers.get(tie.source_layer)
                found = tie.source is not None and not tie.tentative
                if found or tie.apart or tie.target != path or source is None:
                    continue
                weight = named_weights(source).get(tie.source_weight)
                if weight is None or not _fits(layer, tie, weight):
                    continue
                tie.tentative = False
                if weight is not tie.source:
                    owner = owner_of(source, weight)
                    carry_out(layer, tie, weight, owner)
                    layer.source_found(owner)
                    changed = True
        if changed:
            for _, layer in layers_of(self, wrapped=True):
                if is_wrapper(layer):
                    look_again(layer)
            for _, layer in reversed(list(layers_of(self, models=True))):
                if isinstance(layer, keras.Model):
                    _keras.track_on_torch(layer)
            _keras.track_on_torch(self)

    def _address(self) -> list[Any]:
        """Set the paths in the ties of all layers; return the layers whose source is here."""
        owners = {}
        layers = list(layers_of(self))
        for path, layer in layers:
            for name, weight in named_weights(layer, tied=False).items():
                owners.setdefault(id(weight), (path, name))
        here: dict[int, Any] = {}
        for path, layer in layers:
            if id(layer) in here:  # also in a second nested model: it is saved at the first path
                continue
            found = [tie for tie in ties_of(layer) if id(tie.source) in owners]
            for tie in found:
                tie.target, tie.apart = path, False
                tie.source_layer, tie.source_weight = owners[id(tie.source)]
            if found:
                here[id(layer)] = layer
        return list(here.values())

    def _tell(self, store: Any) -> None:
        for layer in self._address():
            for user in _keras.layers_inside(layer):
                remember(user, sources=weakref.ref(store))
        for _, layer in layers_of(self):
            for user in _keras.layers_inside(layer) if ties_of(layer) else []:
                remember(user, knows=weakref.ref(store))

    def get_config(self) -> dict[str, Any]:
        """Return the configuration, in which tied layers have the paths of their sources."""
        for _, layer in layers_of(self):
            for tie in all_ties(layer):
                tie.apart = tie.source is None or tie.tentative
        here = {id(layer) for layer in self._address()}
        config = self._plain_config()
        shared = _in_several(self)
        if shared:
            # Otherwise Keras would use one layer for both, with calls in models not yet made.
            _forget(config, {id(layer) for _, _, layer in shared})
            config["keras_graft_shared"] = [
                _as_first(layer, name, first, path, id(layer) in here).to_config()
                for first, path, layer in shared
                for name in _but_adapters(layer)
            ]
        return config

    def _plain_config(self) -> dict[str, Any]:
        return super().get_config()

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Make the model, and share the layers again that it shared."""
        config = dict(config)
        shared = [Tie(**tie) for tie in config.pop("keras_graft_shared", [])]
        model: Any = super().from_config(config, custom_objects)
        layers = dict(layers_of(model)) if shared else {}
        for tie in shared:
            layer = layers[tie.target]
            become_tied(layer)
            others = [known for known in all_ties(layer) if known.weight != tie.weight]
            remember(layer, ties=(*others, tie))
        if shared:
            model._find_sources()
        return model

    def save_own_variables(self, store: Any) -> None:
        """Start to save: tied layers then skip the weights that their sources save."""
        if hasattr(type(store), "close"):  # the whole file, not a part of it
            self._tell(store)
        super().save_own_variables(store)

    def load_own_variables(self, store: Any) -> None:
        """Start to load: tied layers then skip the weights that their sources load."""
        if hasattr(type(store), "close"):
            self._tell(store)
        super().load_own_variables(store)

    def make_train_function(self, force: bool = False) -> Any:
        """Refuse an optimizer of another model: on JAX, Keras would lose the weights.

        Not in `compile`: Keras does not compile a loaded model whose class overrides `compile`.
        """
        optimizer = self.optimizer
        if getattr(optimizer, "built", False):
            known = set(map(id, _keras.trained_by(optimizer)))
            own = {id(v) for v in self.trainable_variables}
            if not own <= known or (keras.backend.backend() == "jax" and own != known):
                raise WeightsError(
                    f"The optimizer {optimizer.name!r} was built for other variables than those of "
                    f"{self.name!r}. Compile with a new one, or copy the state of the old "
                    "one: kg.carry_optimizer(old, new)."
                )
        return super().make_train_function(force)

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Refuse, and change nothing: a tied weight has no quantized form."""
        here = self._address()
        if here:
            raise NotYetError(
                f"quantize: in {self.name!r}, {told(here[0])}, and a tied layer is not "
                f"quantized. {way_out(here[0])}"
            )
        super().quantize(*args, **kwargs)


def _fits(layer: Any, tie: Tie, weight: Any) -> bool:
    """Whether a layer can use this weight in place of the one that a tie names."""
    shape, old = tuple(weight.shape), tie.source
    if old is None:
        old = named_weights(layer).get(tie.weight)
        if tie.transform in _keras.TRANSFORMS:
            shape = tuple(_keras.TRANSFORMS[tie.transform].shape(shape))
    return old is not None and tuple(old.shape) == shape and old.dtype == weight.dtype


def _but_adapters(layer: Any) -> list[str]:
    """Return the names of a layer's weights without its adapters: a tied weight has them in it."""
    factors = _keras.factors_in(layer)
    return [name for name, weight in named_weights(layer).items() if id(weight) not in factors]


def _as_first(layer: Any, name: str, first: str, path: str, tied: bool) -> Tie:
    """Return the tie that makes a weight of the layer at `path` that of the layer at `first`."""
    for tie in ties_of(layer) if tied else []:
        if tie.weight == name:
            return Tie(name, tie.transform, path, tie.source_layer, tie.source_weight)
    return Tie(name, None, path, first, name)


def layers_of(
    model: Any, models: bool = False, wrapped: bool = False, prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yield layers with their paths, also those in nested models; these models too if `models`.

    Instead of a wrapper, such as that of `kg.freeze`, the layer inside it, unless `wrapped`.
    """
    for layer in model.layers:
        path = prefix + layer.name
        if _keras.is_model(layer):
            if models:
                yield path, layer
            yield from layers_of(layer, models, wrapped, f"{path}/")
        else:
            yield path, layer if wrapped else unwrapped(layer)


def layers_behind(tensors: Iterable[Any]) -> Iterator[Any]:
    """Yield the layers whose calls made symbolic tensors, also layers inside nested models."""
    seen: set[int] = set()
    stack = [_keras.node_of(tensor) for tensor in tensors]
    while stack:
        node = stack.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        stack += [_keras.node_of(tensor) for tensor in node.input_tensors]
        operation = node.operation
        if _keras.is_model(operation):
            yield from (layer for _, layer in layers_of(operation))
        else:
            yield unwrapped(operation)


def _in_several(model: Any) -> list[tuple[str, str, Any]]:
    """Return the layers in several nested models: first path, other path, layer."""
    first: dict[int, str] = {}
    return [
        (first[id(layer)], path, layer)
        for path, layer in layers_of(model)
        if first.setdefault(id(layer), path) != path
        and not isinstance(layer, keras.layers.InputLayer)
    ]


def _forget(config: Any, layers: set[int]) -> None:
    """Remove the ids of shared objects from the configurations of some layers."""
    stack = [config]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            if item.get("shared_object_id") in layers:
                del item["shared_object_id"]
            stack += item.values()
        elif isinstance(item, (list, tuple)):
            stack += item


def model_class(operations: Any) -> Any:
    """Return the function that makes a model of these operations; None: Keras's own class."""
    seen: set[int] = set()
    above: set[int] = set()
    for operation in {id(operation): operation for operation in operations}.values():
        inside = [operation]
        nested = _keras.is_model(operation)
        if nested:
            inside = [layer for _, layer in layers_of(operation)]
            if any(layer.weights for _, _, layer in _in_several(operation)):
                return TiedModel.of
        if any(all_ties(layer) or id(layer) in seen for layer in inside):
            return TiedModel.of
        if nested and any(id(layer) in above for layer in inside):
            # Keras cannot even load a ReLU that is called here first and then inside a model.
            return TiedModel.of
        seen |= {id(layer) for layer in inside if getattr(layer, "weights", None)}
        if not nested:
            above.add(id(operation))
    return None
