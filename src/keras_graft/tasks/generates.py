"""Whether `generate` of a language model gives what its network gives.

`generate` does not call the network: it runs the layers that attributes of the backbone hold, one
token at a time, with a cache of what they computed before. A layer that is in the network and in no
attribute would be skipped without a word.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_graft import _keras
from keras_graft.errors import EditError, NotYetError
from keras_graft.graph.names import listed
from keras_graft.graph.record import unwrapped
from keras_graft.model.kept_class import plain_attributes
from keras_graft.model.read import read
from keras_graft.printable import quoted, words_of
from keras_graft.tasks.without_cache import WithoutCache

LENGTH, PROMPT = 6, 3
_WITHOUT = (
    "To generate without a cache, which runs the whole network for each token: "
    "kg.replace_backbone(task, backbone, cache=False)."
)


def check_generates(made: Any, donor: Any, run: bool = True) -> None:
    """Refuse a language model whose `generate` would not give what its network gives.

    Args:
        made: The task that was made.
        donor: The task that it was made from.
        run: Whether to run it on a few tokens, besides looking at the layers.

    Raises:
        EditError: If `generate` skips a layer, fails, or gives something else.
        NotYetError: If it cannot be tried.
    """
    if not is_language_model(made):
        return
    if isinstance(made, WithoutCache):
        return  # it runs the network
    _check_layers(made, donor)
    if not run:
        return
    try:
        seen, wanted = _two_steps(made)
    except Exception as error:
        raise _failed(made, donor, error) from error
    if _alike(seen, wanted):
        return
    off = _off(seen, wanted)
    try:
        usual = _off(*_two_steps(donor))
    except Exception:
        usual = 0.0
    if off > 3 * usual:
        raise EditError(
            f"replace_backbone: `generate` of {type(made).__name__} does not give what the network "
            f"around {quoted(made.backbone.name)} gives: the logits of a token differ by {off:.2g}"
            f"{f', in the task that it was made from by {usual:.2g}' if usual else ''}. `generate` runs "
            f"the layers that {_a_list(made.backbone)} holds, one after the other, and an edit put "
            f"something else between them. {_way_out(made.backbone)}"
        )


def is_language_model(task: Any) -> bool:
    """Whether a task of keras_hub generates tokens: those that read a text first are among them."""
    return any(cls.__name__ == "CausalLM" for cls in type(task).__mro__)


def _check_layers(made: Any, donor: Any) -> None:
    """Refuse a backbone of which `generate` would skip a layer, or that holds a block of parts."""
    parts = _parts(made.backbone, donor.backbone)
    if parts:
        raise EditError(
            f"replace_backbone: {listed(parts, 3)} of {quoted(made.backbone.name)} "
            f"{'is a network of its parts' if len(parts) == 1 else 'are networks of their parts'} since "
            f"an edit inside, and takes no cache, with which `generate` of {type(made).__name__} "
            "runs the layers. Edits that keep the layer keep the cache: kg.lora, kg.freeze of the whole "
            f"layer, kg.recipes.swap_activation, kg.layers.Then. {_WITHOUT}"
        )
    skipped = _skipped(made.backbone, donor.backbone)
    if skipped:
        raise EditError(
            f"replace_backbone: `generate` of {type(made).__name__} would skip {listed(skipped, 3)}: "
            f"it runs the layers that attributes of {quoted(made.backbone.name)} hold, such as "
            f"{_a_list(made.backbone)}, and none of them holds "
            f"{'it' if len(skipped) == 1 else 'these'}. {_way_out(made.backbone)}"
        )


def _way_out(backbone: Any) -> str:
    lists = [layers for value in _attributes(backbone).values() if (layers := _direct(value))]
    name = lists[0][0].name if lists else "block"
    return (
        "Leave it out, and give its work to a layer that the attributes hold: block = "
        f"backbone.get_layer({quoted(name)}); kg.replace(backbone, {quoted(name)}, "
        f"kg.layers.Then(block, layer)). {_WITHOUT}"
    )


def _direct(value: Any) -> list[Any]:
    """Return the layers in a list."""
    items = value if _keras.plain_container(value) is list else ()
    return [item for item in items if isinstance(item, keras.layers.Layer)]


def _failed(made: Any, donor: Any, error: Exception) -> Exception:
    try:
        _two_steps(donor)
    except Exception as its:
        return NotYetError(
            f"replace_backbone: whether `generate` of {type(made).__name__} gives what its network gives "
            f"cannot be tried: the task that it is made from fails on {LENGTH} tokens too "
            f"({_short(its)}). To go without: kg.replace_backbone(task, backbone, check=False)."
        )
    return EditError(
        f"replace_backbone: `generate` of {type(made).__name__} fails with the backbone "
        f"{quoted(made.backbone.name)}: {_short(error)}"
    )


def _short(error: Exception) -> str:
    """Return the beginning of an error: those of Keras may show whole tensors."""
    (line, *_) = words_of(error).split("\n") or [""]
    return line if len(line) < 200 else f"{line[:200]}..."


def _a_list(backbone: Any) -> str:
    for name, value in _attributes(backbone).items():
        if _direct(value):
            return f"`{name}`"
    return "`token_embedding`"


def _attributes(backbone: Any) -> dict[str, Any]:
    plain = plain_attributes()
    return {k: v for k, v in _keras.attributes(backbone).items() if k not in plain}


def _parts(new: Any, old: Any) -> list[str]:
    """Return the names of the models that attributes hold in the place of layers."""
    before = {name: _models(value) for name, value in _attributes(old).items()}
    return [
        model.name
        for name, value in _attributes(new).items()
        if name in before and not before[name]
        for model in _models(value)
    ]


def _models(value: Any) -> list[Any]:
    items = [value] if isinstance(value, keras.layers.Layer) else _direct(value)
    return [item for item in items if _keras.is_model(item)]


def _layers(value: Any) -> Iterator[Any]:
    """Yield the layers in an attribute, with those inside them."""
    if isinstance(value, keras.layers.Layer):
        yield from map(unwrapped, _keras.layers_inside(value))
        return
    kind = _keras.plain_container(value)
    for item in () if kind is None else (value.values() if kind is dict else value):
        yield from _layers(item)


def _hidden(backbone: Any, names: set[str]) -> list[str]:
    """Return the names of the layers with weights that no attribute holds."""
    held = {
        id(layer)
        for name, value in _attributes(backbone).items()
        if name in names
        for layer in _layers(value)
    }
    graph = read(backbone)  # its nodes know their names only as long as it is there
    return [
        node.name
        for node in graph.nodes
        if getattr(node.operation, "weights", ()) and id(unwrapped(node.operation)) not in held
    ]


def _skipped(new: Any, old: Any) -> list[str]:
    """Return the names of the layers that a class cannot know: it did not put them there."""
    names = set(_attributes(old))
    usual = _hidden(old, names)
    return [name for name in dict.fromkeys(_hidden(new, names)) if name not in usual]


class _Probe:
    """Takes the place of a sampler: it asks for the logits of two tokens."""

    variables: tuple[Any, ...] = ()

    def __call__(self, next: Any, prompt: Any, cache: Any = None, index: Any = 0, **_: Any) -> Any:
        self.logits = []
        for step in range(2):
            logits, _, cache = next(prompt, cache, index + step)
            self.logits.append(_array(logits))
        self.index = int(_array(index))
        return prompt


def _two_steps(task: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits of two tokens: as `generate` computes them, and as the network does.

    A task that computes in 16 bits does so in float32 here: rounding would hide a difference.
    """
    probe = _Probe()
    with _keras.in_float32([task]):
        with _other_sampler(task, probe):
            task.generate_step(_inputs(task, PROMPT), stop_token_ids=None)
        wanted = [
            _array(task(_inputs(task, probe.index + step), training=False))[
                :, probe.index + step - 1
            ]
            for step in range(2)
        ]
    return np.stack(probe.logits), np.stack(wanted)


class _other_sampler:
    """Gives a task another sampler for a while."""

    def __init__(self, task: Any, sampler: Any) -> None:
        self._task, self._sampler = task, sampler

    def __enter__(self) -> None:
        self._before = {k: v for k, v in vars(self._task).items() if k == "sampler"}
        self._task.__dict__["sampler"] = self._sampler

    def __exit__(self, *_: Any) -> None:
        self._task.__dict__.pop("sampler", None)
        self._task.__dict__.update(self._before)


def _inputs(task: Any, prompt: int) -> dict[str, Any]:
    """Return a few tokens, of which a prompt is given; the rest is there, and masked."""
    rng = np.random.default_rng(0)
    found = {}
    for name, tensor in sorted(task.input.items()):
        shape = [1, *(LENGTH if size is None else size for size in tensor.shape[1:])]
        drawn: Any = np.zeros(shape)
        if "mask" in name:
            drawn = np.ones(shape)
            if "encoder" not in name:
                drawn[:, prompt:] = 0
        elif name.endswith("token_ids"):
            drawn = rng.integers(1, _vocabulary(task), shape)
        elif "float" in tensor.dtype:
            drawn = rng.standard_normal(shape)
        found[name] = keras.ops.convert_to_tensor(drawn, dtype=tensor.dtype)
    return found


def _vocabulary(task: Any) -> int:
    size = getattr(task.backbone, "vocabulary_size", None)
    return size if isinstance(size, int) and size > 1 else 3


def _array(tensor: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32")))


def _off(seen: np.ndarray, wanted: np.ndarray) -> float:
    """Return the largest difference, as a part of the largest logit."""
    difference = np.abs(seen - wanted).max()
    return float(difference / max(np.abs(wanted).max(), 1e-30))


def _alike(seen: np.ndarray, wanted: np.ndarray) -> bool:
    return seen.shape == wanted.shape and _off(seen, wanted) <= 1e-3
