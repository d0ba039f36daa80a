"""What `fit_head` gives: the model, and a report as text, as HTML with curves, and as data."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

from keras_graft import advice
from keras_graft.features.head.classes import are_uneven
from keras_graft.features.head.curves import curves
from keras_graft.features.store.store import FeatureStore
from keras_graft.printable import printable
from keras_graft.tables import Table, Tabular, counted, in_bytes

_LINES = 12
"""The most epochs that are printed. Of more, some are left out."""
_CLASSES = 20
"""The most classes that are printed."""


@dataclass(frozen=True)
class Part:
    """The samples that a head is trained on, or validated on.

    Attributes:
        samples: How many there are.
        classes: How many samples each class has; None if the targets are not classes.
        final: The loss and the metrics of the trained head on them, without augmentation; empty
            for a head with its own `train_step` or `test_step`.
    """

    samples: int
    classes: dict[int, int] | None
    final: dict[str, float]


@dataclass(frozen=True)
class Times:
    """Where the time went, in seconds.

    Attributes:
        trunk_compile: The first call of the trunk, less the time of a second one.
        compute: To compute the stores, or to check that they were there.
        head_compile: How much longer the first epoch took than the others.
        epoch: An epoch from the store, the median without the first.
        whole_epoch: The trunk's forward pass over the training samples. An epoch through the whole
            model takes longer.
    """

    trunk_compile: float
    compute: float
    head_compile: float
    epoch: float
    whole_epoch: float


@dataclass(frozen=True, repr=False)
class Fitted(Tabular):
    """A head trained from a store, joined to its trunk; prints as a table.

    Attributes:
        model: The joined model: the frozen trunk, which shares the donor's weights, and the head.
        head: The head alone.
        history: What `head.fit` returned.
        store: The store.
        validation_store: The store of `validation_data`; None without it.
        training: The samples that the head was trained on.
        validation: The samples that it was validated on, or None.
        class_names: The names of the classes, if the data has them.
        times: Where the time went.
        views: How many augmented views of each sample were stored.
        augmented: The layers of the trunk that augment, also where they are off.
        frozen: Other layers of the trunk that act differently in training, and are frozen.
        class_weight: How much a sample of each class counts in training; None: all the same.
        difference: The largest difference between the outputs of the joined model and those of
            the head on the stored features, on `checked` samples.
        checked: How many samples were compared.
    """

    model: Any
    head: Any
    history: Any
    store: FeatureStore
    validation_store: FeatureStore | None
    training: Part
    validation: Part | None
    class_names: tuple[str, ...] | None
    times: Times
    views: int
    augmented: tuple[str, ...]
    frozen: tuple[str, ...]
    class_weight: dict[int, float] | None
    difference: float
    checked: int

    @property
    def epoch_seconds(self) -> float:
        """The time of an epoch from the store, without compiling."""
        return self.times.epoch

    @property
    def speed_up(self) -> float:
        """How many times faster an epoch is than through the whole model, at least."""
        return self.times.whole_epoch / max(self.epoch_seconds, 1e-9)

    @property
    def _dtype(self) -> str:
        columns = self.store.manifest.columns
        return ", ".join(sorted({c.dtype for n, c in columns.items() if n.startswith("features/")}))

    @property
    def bytes(self) -> int:
        """The size of the stores."""
        return sum(store.bytes for store in (self.store, self.validation_store) if store)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as data: numbers, texts, lists and dicts."""
        parts = {"training": self.training, "validation": self.validation}
        return {
            "epochs": {k: [float(v) for v in values] for k, values in self.history.history.items()},
            **{
                name: {"samples": part.samples, "classes": part.classes, "final": part.final}
                for name, part in parts.items() if part is not None
            },
            "class_names": None if self.class_names is None else list(self.class_names),
            "seconds": dict(vars(self.times)),
            "bytes": self.bytes, "speed_up": self.speed_up, "views": self.views,
            "augmented": list(self.augmented), "frozen": list(self.frozen),
            "class_weight": self.class_weight,
            "difference": self.difference, "checked": self.checked,
        }  # fmt: skip

    def tables(self) -> list[Table]:
        """Return the report as tables: epochs, the end, classes, times."""
        times = self.times
        rows = [
            ("samples", f"{self.training.samples:,}"
             + (f", and {self.validation.samples:,} for validation" if self.validation else "")),
            ("stored", in_bytes(self.bytes)),
            ("seconds to compile the trunk", f"{times.trunk_compile:.2f}"),
            ("seconds to compute the features", f"{times.compute:.2f}"),
            ("seconds to compile the head", f"{times.head_compile:.2f}"),
            ("seconds an epoch from the store", f"{self.epoch_seconds:.3f}"),
            ("seconds an epoch through the whole model, at least", f"{times.whole_epoch:.2f}"),
            *([("times faster, at least", f"{self.speed_up:.1f}")] if self.speed_up >= 1 else []),
            (f"largest difference of the joined model on {counted(self.checked, 'sample')}, with features as {self._dtype}",
             f"{self.difference:.3g}"),
        ]  # fmt: skip
        if self.views:
            rows.insert(1, ("augmented views of each sample", f"{self.views}"))
        found = [self._epoch_table(), self._end_table(), self._class_table()]
        return [
            *filter(None, found),
            (self._notes(), ("the head, trained from the store", ""), rows),
        ]

    def _epoch_table(self) -> Table | None:
        history = self.history.history
        if not history:
            return None
        count = len(next(iter(history.values())))
        shown = sorted(
            {*range(count)} if count <= _LINES
            else {round(i * (count - 1) / (_LINES - 1)) for i in range(_LINES)}
        )  # fmt: skip
        rows = [
            (str(i + 1), *(f"{values[i]:.4g}" if i < len(values) else "" for values in history.values()))
            for i in shown
        ]  # fmt: skip
        title = f"{counted(count, 'epoch')}, {_LINES} of them shown" if count > _LINES else ""
        return title, ("epoch", *history), rows

    def _end_table(self) -> Table | None:
        parts = [("training", self.training), ("validation", self.validation)]
        measured = [(name, part.final) for name, part in parts if part is not None and part.final]
        if not measured:
            return None
        keys = list(measured[0][1])
        rows = [(name, *(f"{final[key]:.4g}" for key in keys)) for name, final in measured]
        title = "without augmentation and class weights" if self.views or self.class_weight else ""
        return title, ("at the end", *keys), rows

    def _class_table(self) -> Table | None:
        if not self.training.classes:
            return None
        parts = [self.training, *([self.validation] if self.validation else [])]
        every = sorted({one for part in parts for one in part.classes or {}})
        names = self.class_names or ()
        rows = [
            (names[one] if one < len(names) else f"class {one}",
             *((part.classes or {}).get(one, 0) for part in parts))
            for one in every[:_CLASSES]
        ]  # fmt: skip
        if len(every) > _CLASSES:
            rows.append((counted(len(every) - _CLASSES, "more class", "more classes"), *(
                sum((part.classes or {}).get(one, 0) for one in every[_CLASSES:]) for part in parts
            )))  # fmt: skip
        return "", ("class", "training", "validation")[: len(parts) + 1], rows

    def _notes(self) -> tuple[str, ...]:
        notes = []
        if self.views:
            notes.append(
                f"augmented by {', '.join(self.augmented)}; in the model they are off, until kg.unfreeze "
                "names them"
            )
        elif self.augmented:
            notes.append(f"augmentation is off: {', '.join(self.augmented)}")
        if self.frozen:
            notes.append(f"frozen, in inference mode: {_some(self.frozen)}")
        if self.speed_up < 1:
            notes.append("the trunk takes less time than the head: a store saves nothing here")
        classes = self.training.classes
        if classes and self.class_weight is None and are_uneven(classes):
            notes.append(
                f"classes are uneven, {min(classes.values()):,} to {max(classes.values()):,} samples: "
                f"{advice.option('class_weight', 'balanced')} counts them equally"
            )
        return tuple(notes)

    def to_html(self) -> str:
        """Return the report as a page of its own, with curves; it needs no other file."""
        name = html.escape(printable(f"The head of {self.model.name}, trained from a store"))
        style = (
            "body{font:14px sans-serif;margin:2em;color:#222;background:#fff}"
            "td,th{padding:2px 12px 2px 0;text-align:left}td:not(:first-child){text-align:right}"
            "h1{font-size:1.4em}table{border-collapse:collapse;margin:1em 0}"
            "@media(prefers-color-scheme:dark){body{color:#ddd;background:#1c1c1c}}"
        )
        return (
            '<!doctype html><html lang="en"><meta charset="utf-8"><title>keras-graft: a head trained '
            f"from a store</title><style>{style}</style><body><h1>{name}</h1>{self._repr_html_()}"
            "</body></html>"
        )

    def _repr_html_(self) -> str:
        return "".join(
            curves(name, {k: history[k] for k in (name, f"val_{name}") if k in history})
            for history in [self.history.history]
            for name in history
            if not name.startswith("val_")
        ) + super()._repr_html_()  # fmt: skip


def _some(names: tuple[str, ...]) -> str:
    more = len(names) - 6
    return ", ".join(names[:6]) + (f" and {more} more" if more > 0 else "")
