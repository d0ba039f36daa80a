"""A model that keeps the class of its donor although its network is different.

Keras loads a model of such a class by its constructor, which would make the donor's network.
So the file stores the network, the class and the values of the attributes.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.errors import NotYetError
from keras_graft.graph.record import record_of, remember
from keras_graft.model.stored_attributes import Reader, Unwritable, Writer
from keras_graft.printable import words_of
from keras_graft.ties.model import TiedModel


def is_plain(cls: type) -> bool:
    """Whether a class is Functional, or a class of this package that looks the same to users."""
    return cls in (_keras.Functional, _keras.Remembering, _keras.LaterOutputs, TiedModel)


@functools.cache
def plain_attributes() -> frozenset[str]:
    """Return the names of the attributes that every Functional model has."""
    tensor = keras.Input((1,), name="plain_input")
    output = keras.layers.Identity(name="plain_output")(tensor)
    return frozenset(_keras.attributes(_keras.Functional(tensor, output, name="plain")))


@keras.saving.register_keras_serializable("keras_graft")
class KeptModel(TiedModel):
    """What `kept` adds to the class of a donor: its models are saved with their own network."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Return an empty object for `of_class`; with arguments, call the donor's own class.

        `keras.models.clone_model` calls the class with tensors, and gets a Functional, as it does
        for the donor.
        """
        if not args and not kwargs:
            return super().__new__(cls)
        tensors = keras.tree.flatten((args, kwargs))
        if any(isinstance(tensor, keras.KerasTensor) for tensor in tensors):
            return TiedModel(*args, **kwargs)
        return class_kept(cls)(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """Explain why an attribute of the donor is missing."""
        above = getattr(super(), "__getattr__", None)  # PyTorch keeps layers outside __dict__
        try:
            if above is not None:
                return above(name)
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        except AttributeError as error:
            told = record_of(self).gone.get(name)
            if told is None:
                raise
            raise AttributeError(
                f"{type(self).__name__} {self.name!r} has no attribute {name!r} any more: {told}. "
                f"The donor still has it; another value can be set: model.{name} = ..."
            ) from error

    def __reduce__(self) -> Any:
        """Pickle the content of a file, as Keras does: this class is in no module by its name."""
        return KeptModel._unpickle_model, super().__reduce__()[1]

    def get_config(self) -> dict[str, Any]:
        """Return the network, the class and the attributes."""
        config = super().get_config()
        cls = class_kept(type(self))
        writer, gone = Writer(self), dict(record_of(self).gone)
        written = {}
        for name in record_of(self).attributes:
            if name in _NOT_WRITTEN or not hasattr(self, name):
                continue
            try:
                written[name] = writer(getattr(self, name))
            except Unwritable as error:
                gone[name] = (
                    f"it is not in the file that it was loaded from, which holds no {words_of(error)}"
                )
        config["keras_graft_class"] = {
            "module": cls.__module__,
            "class_name": cls.__name__,
            "registered_name": keras.saving.get_registered_name(cls),
            "attributes": written,
            "gone": gone,
        }
        return config

    def _plain_config(self) -> dict[str, Any]:
        try:
            config = _keras.functional_config(self)  # not the configuration of the donor's class
        except Exception as error:
            raise NotYetError(_cannot_be_written(self, error)) from error
        return _keras.with_steps_in_file(self, config)

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Make the network in the file, then set its class and attributes."""
        config = dict(config)
        body = config.pop("keras_graft_class")
        own = _keras.class_of_config(body, custom_objects)
        model = _keras.with_body_of(TiedModel.from_config(config, custom_objects), kept(own))
        reader, gone = Reader(model, custom_objects), dict(body["gone"])
        for name, value in body["attributes"].items():
            try:
                setattr(model, name, reader(value))
            except Exception as error:
                gone[name] = (
                    f"it could not be made from what the file says about it: {words_of(error)}"
                )
        left = tuple(name for name in body["attributes"] if name not in gone)
        remember(model, attributes=left, gone=gone)
        return model


def _cannot_be_written(model: Any, error: Exception) -> str:
    """Say which layer of an edited model cannot be written to a file, and what to do instead."""
    layer, words = "a layer", " ".join(words_of(error).split())
    for operation in model.operations:
        try:
            _keras.get_config(operation)
        except Exception:
            layer = f"{operation.name!r} ({type(operation).__name__})"
            break
    return (
        f"{type(model).__name__} {model.name!r} was edited, so its file must say how each of its "
        f"layers was made, and {layer} cannot say it: {type(error).__name__}: {words[:150]}{'...' * (len(words) > 150)} "
        'Save its weights: model.save_weights("model.weights.h5"). To load them, make the same edit '
        'again, then model.load_weights("model.weights.h5").'
    )


_NOT_WRITTEN = {"_functional_layer_ids"}
"""Attributes in which keras_hub keeps memory addresses (0.32): useless in a file."""


def _no_preset(self: Any, *args: Any, **kwargs: Any) -> None:
    """Refuse to write a preset: keras_hub could not load it."""
    raise NotYetError(
        f"save_to_preset: {self.name!r} was edited, and keras_hub rebuilds the model of a preset "
        f"with the constructor of {type(self).__name__}, which makes another network. Save it as a "
        'file: model.save("model.keras").'
    )


@functools.cache
def kept(cls: type) -> type:
    """Return a class that differs from `cls` only in how its models are saved and loaded."""
    if issubclass(cls, KeptModel):
        return cls
    names: dict[str, Any] = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
    }
    if hasattr(cls, "save_to_preset"):
        names["save_to_preset"] = _no_preset
    made = type(cls.__name__, (KeptModel, cls), names | {"graft_class_kept": cls})
    register = keras.saving.register_keras_serializable("keras_graft", "KeptModel")
    register(made)  # it is saved under this name, which must load KeptModel:
    register(KeptModel)
    return made


def class_kept(cls: type) -> type:
    """Return the donor's class for a class that `kept` made."""
    return getattr(cls, "graft_class_kept", cls)


def of_class(model: Any, cls: type, special: bool) -> Any:
    """Return a model of this class that is otherwise the same as a Functional model.

    Args:
        model: The Functional model.
        cls: The class.
        special: Whether Keras's own way of saving is not enough for this model.
    """
    return _keras.with_body_of(model, kept(cls) if special or not _writes_graph(cls) else cls)


def _writes_graph(cls: Any) -> bool:
    """Whether Keras saves the network of a model of a class, and loads the same network.

    It does if the constructor has the arguments of Functional's, even with another `get_config`, or
    if it takes `*args, **kwargs` and the class has no `get_config` or `from_config` of its own. Any
    other constructor makes its own network.
    """
    arguments = inspect.getfullargspec(cls.__init__)
    if _keras.takes_functional_arguments(arguments.args[1:]):
        return True
    free = arguments.varargs is not None and arguments.varkw is not None
    own_way = cls.from_config.__func__ is not keras.Model.from_config.__func__
    return free and _keras.uses_functional_config(cls) and not own_way
