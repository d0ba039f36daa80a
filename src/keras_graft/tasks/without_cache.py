"""Language models whose `generate` runs the whole network for each token.

A cache holds what each block computed for earlier tokens, and it needs blocks that know it. The
network around any edited backbone can be run without one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.errors import NotYetError

ops: Any = keras.ops  # type checkers take what most of its functions give for None

_BY_LAYERS = ("call_with_cache", "call_decoder_with_cache", "score")
"""Methods of keras_hub (0.32) that run layers one by one, and know nothing of an edit."""


@keras.saving.register_keras_serializable("keras_graft")
class WithoutCache:
    """What `without_cache` adds to the class of a language model."""

    def generate_step(self: Any, inputs: dict[str, Any], stop_token_ids: Any = None) -> Any:
        """Generate for one batch, as that of keras_hub: it takes and returns the same."""
        tokens = min(name for name in inputs if name.endswith("token_ids"))
        masks = tokens.replace("token_ids", "padding_mask")
        prompt, padding = inputs[tokens], inputs[masks]
        index = ops.min(ops.sum(ops.cast(padding, "int32"), axis=-1))
        # A sampler makes copies of a cache for its beams: so it does of the other inputs.
        others = {name: inputs[name] for name in self.input if name not in (tokens, masks)}

        def next(prompt: Any, cache: Any, index: Any) -> tuple[Any, Any, Any]:
            given = ops.cast(ops.arange(ops.shape(prompt)[1]) < index, padding.dtype)
            data = {tokens: prompt, masks: ops.ones_like(prompt, padding.dtype) * given}
            logits = self({**(cache or {}), **data}, training=False)
            return ops.take(logits, index - 1, axis=1), None, cache

        prompt = self.sampler(
            next=next, prompt=prompt, cache=others or (), index=index, mask=padding,
            stop_token_ids=stop_token_ids, hidden_states=None, model=self,
        )  # fmt: skip
        made = ops.ones_like(prompt, "bool")
        if stop_token_ids is not None:
            stops = [ops.equal(prompt, stop) for stop in stop_token_ids]
            ends = ops.any(ops.stack(stops), axis=0)
            ends = ops.cast(ends & ops.logical_not(ops.cast(padding, "bool")), "int32")
            # What follows the first one is not part of the text.
            made = ops.equal(ops.cumsum(ends, axis=-1) - ends, 0)
        return {tokens: prompt, masks: made}

    def get_config(self) -> dict[str, Any]:
        """Return the configuration, with the class of the language model."""
        cls = of_keras_hub(type(self))
        return {
            **super().get_config(),  # type: ignore[misc]
            "keras_graft_class": {
                "module": cls.__module__,
                "class_name": cls.__name__,
                "registered_name": keras.saving.get_registered_name(cls),
            },
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Make the language model, and let it generate without a cache."""
        config = dict(config)
        own: Any = _keras.class_of_config(config.pop("keras_graft_class"), custom_objects)
        return _keras.with_body_of(own.from_config(config), without_cache(own))


def of_keras_hub(cls: type) -> type:
    """Return the class of keras_hub for a class that `without_cache` made."""
    return getattr(cls, "graft_with_cache", cls)


@functools.cache
def without_cache(cls: type) -> type:
    """Return a class that differs from a class of language models only in how it generates."""
    names: dict[str, Any] = {
        "__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__,
        "graft_with_cache": cls,
    }  # fmt: skip
    names |= {name: _refused(name) for name in _BY_LAYERS if hasattr(cls, name)}
    made = type(cls.__name__, (WithoutCache, cls), names)
    register = keras.saving.register_keras_serializable("keras_graft", "WithoutCache")
    register(made)  # it is saved under this name, which must load WithoutCache:
    register(WithoutCache)
    return made


def _refused(name: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise NotYetError(
            f"{name}: {self.name!r} was made with cache=False, around a backbone that may run more than "
            f"the layers that {name} of {type(self).__name__} runs. Call the model: its logits are those "
            "of the whole network."
        )

    method.__name__ = name
    return method
