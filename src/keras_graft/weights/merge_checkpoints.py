"""The verb `merge_checkpoints`: one checkpoint from several of one architecture."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_graft import _keras
from keras_graft.errors import WeightsError
from keras_graft.graph.names import is_one_of, items_of, listed
from keras_graft.model.clone import clone
from keras_graft.printable import shown
from keras_graft.weights.address import groups, paired
from keras_graft.weights.merging import files
from keras_graft.weights.merging.formulas import METHODS, NEED_BASE, Read, Settings, merged
from keras_graft.weights.merging.pairs import matched
from keras_graft.weights.merging.report import Merged
from keras_graft.weights.merging.shares import VERB as _VERB
from keras_graft.weights.merging.shares import Shares, check_glob, is_number
from keras_graft.weights.merging.sources import Entry, Source, dtype_of, opened
from keras_graft.weights.rule_for import names

_BLOCK = 2**23
"""How many bytes of a weight are merged at a time."""

_DENSITY = {"ties": 0.2, "dare": 0.5}
"""The share of a delta that is kept if nothing else is said."""


def merge_checkpoints(
    sources: Sequence[Any],
    method: str = "mean",
    weights: Sequence[float] | Mapping[str, Sequence[float]] | None = None,
    base: Any = None,
    out: str | os.PathLike[str] | None = None,
    only: str | Sequence[str] | None = None,
    density: float | None = None,
    scale: float = 1.0,
    seed: int = 0,
) -> Merged:
    """Merge several checkpoints of one architecture into one, weight by weight.

    Files are read and written some rows of a weight at a time: memory does not grow with their
    size. (`"ties"` holds the delta of one weight.) Calculated is in float32, or in float64 for such
    weights. With w_i the weights, x_i the sources and b the base:

    - `"mean"`: sum w_i x_i / sum w_i. "Model soups", Wortsman et al., ICML 2022 (arXiv:2203.05482).
    - `"slerp"`: of two, the point on the arc between them at t = w_2 / (w_1 + w_2):
      (sin((1 - t) a) x_1 + sin(t a) x_2) / sin a, with a the angle between both as vectors; on a line
      where they point the same way. Shoemake, SIGGRAPH 1985.
    - `"task_arithmetic"`: b + scale * sum w_i (x_i - b). Ilharco et al., "Editing Models with Task
      Arithmetic", ICLR 2023 (arXiv:2212.04089).
    - `"ties"`: b + scale * the weighted mean of the deltas x_i - b that agree: of each delta the share
      `density` with the largest magnitudes stays; of each element the sign of sum w_i delta_i is
      elected, and only deltas of that sign count. Yadav et al., NeurIPS 2023 (arXiv:2306.01708).
    - `"dare"`: b + scale * sum w_i m_i (x_i - b) / density, with m_i 1 at a random share `density` of
      the elements and 0 elsewhere. Yu et al., "Language Models are Super Mario", ICML 2024
      (arXiv:2311.03099).

    The methods are those of mergekit (Goddard et al., arXiv:2403.13257). Statistics of a
    `BatchNormalization` are merged like all others; leave them out with `only=` where that is wrong.

    Args:
        sources: Models, or paths of `.keras`, `.weights.h5` and `.safetensors` files.
        method: `"mean"`, `"slerp"`, `"task_arithmetic"`, `"ties"` or `"dare"`.
        weights: A number for each source; or `{glob of addresses or layers: numbers}`, of which the
            first that matches counts, and 1 for each elsewhere. None: 1 for each.
        base: What the sources were trained from, for the last three methods: a model or a file.
        out: The file to write: `.safetensors`; `.weights.h5`, `.keras` where the first source is a model
            or such a file. None: nothing is written.
        only: Globs of addresses or layers: all other weights are copied from the first source.
        density: For `"ties"` (None: 0.2) and `"dare"` (None: 0.5).
        scale: What the merged delta is multiplied by, for the last three methods.
        seed: For `"dare"`: each weight draws its own numbers.

    Returns:
        A report with the merged model as `.model`, if the first source is one: a copy of it. No
        source is changed.

    Raises:
        WeightsError: If the checkpoints have different weights or shapes, an argument is wrong, or
            a file cannot be read or written. Nothing is written then.

    >>> import keras, numpy as np, keras_graft as kg
    >>> def model(value):
    ...     made = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="d")], name="m")
    ...     made.set_weights([np.full((2, 1), value), np.zeros(1)])
    ...     return made
    >>> result = kg.merge_checkpoints([model(1.0), model(4.0)], weights=[2, 1])
    >>> print(result)
    mean
                           weights
    merged                       2
    copied from the first        0
    >>> float(result.model.get_layer("d").kernel[0, 0])
    2.0
    """
    settings = _settings(method, density, scale, seed)
    given = list(sources) if isinstance(sources, list | tuple) else []
    _check_count(given, settings, sources, base)
    path = None if out is None else _path(out)
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(opened(one, _VERB)) for one in given]
        first = found[0]
        start = None if base is None else stack.enter_context(opened(base, _VERB))
        if path is None and first.model is None:
            raise WeightsError(
                f'{_VERB}: the first source is a file, so a file is made: give out="merged{_suffix(first)}".'
            )
        if path is not None:
            files.check_out(path, first)
        others = [first.entries, *(matched(first, one) for one in found[1:])]
        bases = None if start is None else matched(first, start)
        work = _Merge(settings, first, others, bases, Shares(weights, len(given), first), only)
        return work.run(path)


def _settings(method: Any, density: Any, scale: Any, seed: Any) -> Settings:
    if not is_one_of(method, *METHODS):
        raise WeightsError(f"{_VERB}: method={shown(method)} is not one of {listed(METHODS)}.")
    if density is None:
        density = _DENSITY.get(method, 1.0)
    elif method not in _DENSITY:
        raise WeightsError(f"{_VERB}: density= is for {listed(_DENSITY)}, not for {method!r}.")
    if not is_number(density) or not 0 < density <= 1:
        raise WeightsError(f"{_VERB}: density={shown(density)} is not above 0 and at most 1.")
    if not is_number(scale):
        raise WeightsError(f"{_VERB}: scale={shown(scale)} is not a number.")
    if scale != 1 and method not in NEED_BASE:
        raise WeightsError(f"{_VERB}: scale= is for {listed(NEED_BASE)}, not for {method!r}.")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise WeightsError(f"{_VERB}: seed={shown(seed)} is not a whole number from 0.")
    return Settings(method, float(density), float(scale), seed)


def _check_count(given: list[Any], settings: Settings, sources: Any, base: Any) -> None:
    if not given:
        raise WeightsError(f"{_VERB}: sources is a list of models or files, got {shown(sources)}.")
    method = settings.method
    if method == "slerp" and len(given) != 2:
        raise WeightsError(f"{_VERB}: 'slerp' takes two sources, got {len(given)}.")
    if method in NEED_BASE and base is None:
        raise WeightsError(
            f"{_VERB}: {method!r} merges what training changed: give base=, the model or file that the "
            "sources were trained from."
        )
    if method not in NEED_BASE and base is not None:
        raise WeightsError(f"{_VERB}: {method!r} takes no base=; {listed(NEED_BASE)} do.")


def _path(out: Any) -> Path:
    if not isinstance(out, str | os.PathLike):
        raise WeightsError(f"{_VERB}: out={shown(out)} is not the path of a file.")
    return Path(out)


def _suffix(source: Source) -> str:
    name = "" if source.path is None else source.path.name
    return next(s for s in (".weights.h5", ".safetensors", ".keras") if name.endswith(s))


class _Merge:
    """Merges one weight after the other."""

    def __init__(
        self,
        settings: Settings,
        first: Source,
        others: list[dict[str, Entry]],
        bases: dict[str, Entry] | None,
        weights: Shares,
        only: Any,
    ) -> None:
        self._settings = settings
        self._first = first
        self._others = others
        self._bases = bases
        self._weights = weights
        chosen = [] if only is None else items_of(only)
        addresses = [entry.address for entry in first.entries.values()]
        for glob in chosen:
            if not isinstance(glob, str):
                raise WeightsError(f"{_VERB}: only= names weights by globs, got {shown(glob)}.")
            check_glob(glob, addresses, "only")
        if only is not None and not chosen:
            raise WeightsError(f"{_VERB}: only={shown(only)} names no weight.")
        self._keys = {
            key
            for key, entry in first.entries.items()
            if entry.is_float and (only is None or any(names(g, entry.address) for g in chosen))
        }
        for key in self._keys:
            self._check(first.entries[key])
        quantized = [
            e.address for e in first.entries.values()
            if e.dtype in ("int8", "uint8", "int4", "uint4") and len(e.shape) > 1
        ]  # fmt: skip
        if quantized:
            raise WeightsError(
                f"{_VERB}: {listed(quantized, 3)} in {first.label} is quantized: its numbers cannot be "
                "averaged. Merge the checkpoints from before quantize()."
            )

    def _check(self, entry: Entry) -> None:
        numbers = self._weights.of(entry.address)
        divided = self._settings.method in ("mean", "slerp")
        if divided and not sum(numbers):
            raise WeightsError(
                f"{_VERB}: the weights {shown(numbers)} of {entry.address!r} have the sum 0, by which "
                f"{self._settings.method!r} divides."
            )

    def run(self, out: Path | None) -> Merged:
        """Merge everything: into a file, into a copy of the first model, or both."""
        model = None
        if self._first.model is not None and not (out and out.name.endswith(".safetensors")):
            model = clone(self._first.model)
            pairs = paired(self._first.group, groups(model))
            entries = {e.address: e for e in self._first.entries.values()}
            for mine, its in pairs:
                self._assign(mine.variable, entries[its.address])
        if out is not None and model is None:
            files.write(out, self._first, self.blocks)
        elif out is not None and out.name.endswith(".keras"):
            _keras.save(model, out)
        elif out is not None:
            assert model is not None
            model.save_weights(out)
        done = tuple(e.address for k, e in self._first.entries.items() if k in self._keys)
        copied = tuple(e.address for k, e in self._first.entries.items() if k not in self._keys)
        return Merged(model, None if out is None else out.name, self._settings.method, done, copied)

    def _assign(self, variable: Any, entry: Entry) -> None:
        parts = [values for _, values in self.blocks(entry)]
        variable.assign(parts[0] if not entry.shape else np.concatenate(parts))

    def blocks(self, entry: Entry) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield the merged values of a weight in its own dtype: rows, and their values."""
        key = next(k for k in (entry.key, entry.address) if k in self._first.entries)
        blocks = _rows(entry)
        dtype = dtype_of(entry.dtype)
        if key not in self._keys:
            yield from ((rows, entry.rows(rows)) for rows in blocks)
            return
        kind = "float64" if entry.dtype == "float64" else "float32"
        reads = [_read(other[key], kind) for other in self._others]
        base = None if self._bases is None else _read(self._bases[key], kind)
        numbers = self._weights.of(entry.address)
        found = merged(self._settings, reads, base, numbers, blocks, entry.address)
        for rows, values in zip(blocks, found, strict=True):
            yield rows, values.astype(dtype, copy=False).reshape(_shape(entry, rows))


def _read(entry: Entry, kind: str) -> Read:
    return lambda rows: entry.rows(rows).astype(kind, copy=False)


def _rows(entry: Entry) -> list[slice]:
    """Return the rows of a weight in blocks."""
    if not entry.shape or not math.prod(entry.shape):
        return [slice(0, 1 if not entry.shape else entry.shape[0])]
    count = max(1, _BLOCK // max(1, entry.bytes // entry.shape[0]))
    return [
        slice(start, min(start + count, entry.shape[0]))
        for start in range(0, entry.shape[0], count)
    ]


def _shape(entry: Entry, rows: slice) -> tuple[int, ...]:
    return (rows.stop - rows.start, *entry.shape[1:]) if entry.shape else ()
