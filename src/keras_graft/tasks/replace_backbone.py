"""`replace_backbone`: a task of keras_hub around another backbone."""

from __future__ import annotations

from typing import Any, Literal

import keras

from keras_graft import _keras
from keras_graft.errors import EditError, NotYetError, warn
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import is_one_of, listed
from keras_graft.graph.record import record_of
from keras_graft.model import kept_class
from keras_graft.model.attributes import dressed
from keras_graft.model.build import build
from keras_graft.model.to_keras import assemble
from keras_graft.printable import quoted, shown, words_of
from keras_graft.tasks.generates import check_generates, is_language_model
from keras_graft.tasks.head import Head, with_head_of
from keras_graft.tasks.made_again import graph_of, made_around
from keras_graft.tasks.without_cache import of_keras_hub, without_cache


def replace_backbone(
    task: Any,
    backbone: Any,
    head: Literal["keep", "new"] = "keep",
    cache: bool = True,
    check: bool = True,
) -> Any:
    """Make a task of keras_hub around another backbone, such as an edited one.

    The result has the class of `task`, its preprocessor and settings, and its head: the very layers,
    with their weights. What the task takes from its backbone, such as a token embedding that is
    used as a head, comes from the new one. If `task` is compiled, the result is compiled like it,
    with an optimizer that has not made a step yet, and with a sampler like its sampler. Saved as a
    `.keras` file it loads after `import keras_graft`.

    `generate` of a language model does not call its backbone: it runs the layers that attributes
    of the backbone hold, with a cache. So one step of it, and a second with the cache, are compared
    with the network on a few tokens. A backbone with a layer that `generate` would skip is refused,
    and one with a block that was edited inside and no longer takes a cache.

    Args:
        task: A task of keras_hub: `CausalLM`, `Seq2SeqLM`, `TextClassifier`, `ImageClassifier`,
            `MaskedLM`, an `ImageSegmenter`... It is not changed.
        backbone: A backbone of the same class, or a `Graph` of one, as verbs give them: with blocks
            removed or repeated, with LoRA, another activation, other layers.
        head: `"keep"`: all layers of the head are those of `task`. `"new"`: those whose weights do
            not fit what the backbone gives are new.
        cache: For language models. False: `generate` runs the whole network for each token: slower,
            and exact for any backbone. `call_with_cache` and `score` are refused then.
        check: Whether to compare `generate` with the network on data. False where not even a few
            tokens can be tried; what the attributes hold is looked at all the same.

    Returns:
        The new task. It shares its weights with `task` and `backbone`; `kg.clone` separates them.

    Raises:
        EditError: If `task` is no task, or was edited itself; if the backbone is of another class;
            if a layer of the head does not fit; if `generate` would not give what the network does.
        NotYetError: If the task is of a class that is not made from its configuration and a
            backbone.

    >>> import keras_hub, keras_graft as kg
    >>> lm = keras_hub.models.GPT2CausalLM(
    ...     keras_hub.models.GPT2Backbone(20, 4, 2, 8, 16, max_sequence_length=8)
    ... )
    >>> half = kg.remove(lm.backbone, ["transformer_layer_1", "transformer_layer_3"])
    >>> short = kg.replace_backbone(lm, half)
    >>> type(short).__name__, len(short.backbone.transformer_layers)
    ('GPT2CausalLM', 2)
    """
    if not is_one_of(head, "keep", "new"):
        raise EditError(f'replace_backbone: head must be "keep" or "new", got {shown(head)}.')
    _check_task(task)
    new = build(backbone) if isinstance(backbone, Graph) else backbone
    _check_backbone(task, new)
    donor = graph_of(task)
    scaffold, graph = made_around(task, new)
    graph = with_head_of(Head(task, donor), Head(scaffold, graph), head == "new")
    graph = graph.replace(trainable=donor.trainable)
    made = _built(graph, of_keras_hub(type(task)), cache or not is_language_model(task))
    check_generates(made, task, run=check)
    _compile(made, task)
    return made


def _check_task(task: Any) -> None:
    own = any(
        c.__name__ == "Task" and c.__module__.startswith("keras_hub.") for c in type(task).__mro__
    )
    old: Any = getattr(task, "backbone", None)
    if not own or not isinstance(task, keras.Model) or not isinstance(old, keras.Model):
        way = ""
        if isinstance(task, keras.Model):
            way = ' To replace a layer of any other model: kg.replace(model, "backbone", new).'
        raise EditError(
            "replace_backbone: task must be a task of keras_hub that has a backbone, such as "
            f"keras_hub.models.GPT2CausalLM, got {shown(task)}.{way}"
        )
    if isinstance(task, kept_class.KeptModel):
        raise EditError(
            f"replace_backbone: {type(task).__name__} {quoted(task.name)} was edited itself, and would be "
            "made again without that edit. Edit its backbone inside it, by the path: "
            f"kg.remove(task, {quoted(old.name + '/...')}). Or first replace the backbone of the "
            "task that it was made from, and then edit the result."
        )


def _check_backbone(task: Any, new: Any) -> None:
    old = task.backbone
    cls = kept_class.class_kept(type(old))
    if isinstance(new, cls):
        return
    was = new.name if isinstance(new, keras.Model) else None
    raise EditError(
        f"replace_backbone: the backbone of {type(task).__name__} {quoted(task.name)} is a "
        f"{cls.__name__}, and {quoted(was) if was else shown(new)} is a {type(new).__name__}: it has "
        "not the attributes that the task uses. Give what a verb makes of that backbone: new = "
        "kg.remove(task.backbone, ...). A part of a backbone, as kg.split and kg.extract give it, "
        "is no backbone."
    )


def _built(graph: Graph, cls: type, cache: bool) -> Any:
    """Return a model of a graph whose class is exactly `cls`: its constructor makes this network."""
    built = assemble(graph)
    model, lost = dressed(graph, built.model, built.tensors)
    if lost is not None or not isinstance(model, cls):
        raise NotYetError(
            f"replace_backbone: {cls.__name__} cannot be made around another head: {lost}."
        )
    gone = record_of(model).gone
    if gone:
        raise NotYetError(
            f"replace_backbone: {cls.__name__} holds its head in {listed(gone)}, which cannot be copied."
        )
    return _keras.with_body_of(model, cls if cache else without_cache(cls))


def _compile(made: Any, task: Any) -> None:
    if not task.compiled:
        return
    try:
        options = _keras.compilation(task)
        optimizer = None
        if task.optimizer is not None:
            optimizer = _keras.same_optimizer(task.optimizer)
        if hasattr(task, "sampler"):
            options["sampler"] = _again(task.sampler)
        made.compile(optimizer=optimizer, **options)
    except Exception as error:
        warn(
            f"replace_backbone: {made.name!r} is not compiled: that {type(task).__name__} "
            f"{task.name!r} is compiled with cannot be made again ({words_of(error)}). Compile it: "
            "task.compile(...)."
        )


def _again(sampler: Any) -> Any:
    """Return a sampler like another, that draws what the other would draw next."""
    made = type(sampler).from_config(sampler.get_config())
    for new, old in zip(made.variables, sampler.variables, strict=True):
        new.assign(old)
    return made
