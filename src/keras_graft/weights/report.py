"""The report of `transplant`: what was copied, how, and what was not."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keras_graft import advice
from keras_graft.graph.names import listed
from keras_graft.tables import Table, Tabular


@dataclass(frozen=True)
class Moved:
    """One weight that was copied.

    Attributes:
        target: Its address in the target.
        source: Its address in the source; None if a rule made it without a source.
        shape: Its shape in the target.
        source_shape: Its shape in the source.
        rule: The rule that resized it, as it was written; None if it was copied unchanged.
        cast: `"float32 -> bfloat16"`, None if the dtypes are the same.
        parameters: The number of its elements in the target.
    """

    target: str
    source: str | None
    shape: tuple[int, ...]
    source_shape: tuple[int, ...] | None
    rule: str | None
    cast: str | None
    parameters: int


@dataclass(frozen=True)
class Mismatch:
    """A weight of the target, and its partner in the source that cannot be copied to it.

    Attributes:
        target: The address in the target.
        source: The address in the source.
        shape: The shape in the target.
        source_shape: The shape in the source.
        reason: Why not.
        fits: Rules for `resize=` that may fit.
    """

    target: str
    source: str
    shape: tuple[int, ...]
    source_shape: tuple[int, ...]
    reason: str
    fits: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModulePair:
    """A module of PyTorch and the layer that got its weights.

    Attributes:
        module: The name of the module, or of the parameter.
        layer: The address of the layer, or of the weight.
        how: How they were matched: `"given"` in `match=`; by `"name"`; by a `"shape"` that no other has,
            `"part"` if other modules or layers are left over; or by `"order"` among several of one
            shape. The last two may be wrong: check them. `torch_names` also has `"guess"`.
    """

    module: str
    layer: str
    how: str


@dataclass(frozen=True, repr=False)
class Transplanted(Tabular):
    """The report of `transplant`; prints as tables.

    Attributes:
        source: The model or file that the weights came from.
        target: The name of the model that got them.
        moved: The weights that were copied, in the order of the target.
        shared: Weights that are the same variable in both.
        missing: Weights of the target that have no source; they stay as they were.
        unused: Weights of the source that were not copied.
        mismatched: Pairs that do not fit; the target's weights stay as they were.
        kept: Weights of the target that `keep=` names.
        dropped: Weights of the source that a rule drops.
        idle: LoRA adapters of the target that have no source and add nothing; they stay.
        modules: With `names="torch"`, the modules and their layers, in the order of the target.
        ignored: With `names="torch"`, the counters and tables of the source, which are no weights.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> model = keras.Model(x, keras.layers.Dense(3, name="d")(x), name="tiny")
    >>> report = kg.transplant(model, kg.clone(model, weights="fresh"))
    >>> [moved.target for moved in report.moved], report.missing
    (['d/kernel', 'd/bias'], ())
    """

    source: str
    target: str
    moved: tuple[Moved, ...]
    shared: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    mismatched: tuple[Mismatch, ...] = ()
    kept: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()
    modules: tuple[ModulePair, ...] = ()
    ignored: tuple[str, ...] = ()

    @property
    def mapping(self) -> dict[str, str]:
        """Which module became which layer; with `names="torch"` it can be given as `match=`."""
        return {pair.module: pair.layer for pair in self.modules}

    def tables(self) -> list[Table]:
        """Return the summary, what was changed or does not fit, and what stayed."""
        summary = [("copied", len(self.moved))]
        parts = {
            "the same variable": self.shared, "kept by keep=": self.kept,
            "adapters that add nothing": self.idle, "no source": self.missing, "does not fit": self.mismatched,
            "source dropped": self.dropped, "source unused": self.unused,
        }  # fmt: skip
        summary += [(name, len(part)) for name, part in parts.items() if part]
        summary += module_counts(self.modules)
        parameters = sum(m.parameters for m in self.moved)
        title = f"{self.target!r} from {self.source}: {parameters:,} parameters"
        tables: list[Table] = [(title, ("", "weights"), summary)]
        changed = [
            (m.target, m.source or "", m.source_shape or "", m.shape, m.rule or "", m.cast or "")
            for m in self.moved
            if m.rule or m.cast
        ]
        if changed:
            head = ("changed", "from", "shape", "now", "rule", "cast")
            tables.append(("", head, changed))
        check = [(p.module, p.layer, _HOW[p.how]) for p in self.modules if p.how in _UNSURE]
        if check:
            tables.append(("", ("please check", "layer", "matched"), check))
        if self.mismatched:
            rows = [
                (m.target, m.source, m.source_shape, m.shape, m.reason) for m in self.mismatched
            ]
            tables.append(("", ("does not fit", "source", "shape", "target's", "why"), rows))
        stays = [(x, "target: no source") for x in self.missing]
        stays += [(x, "target: kept by keep=") for x in self.kept]
        stays += [(x, "source: dropped by a rule") for x in self.dropped]
        stays += [(x, "source: unused") for x in self.unused]
        if stays:
            tables.append(("", ("stays", ""), stays))
        return tables

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, ready for JSON."""

        def plain(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: plain(x) for key, x in value.items()}
            return [plain(x) for x in value] if isinstance(value, tuple | list) else value

        return plain(dataclasses.asdict(self))


_HOW = {
    "given": "given in match=",
    "name": "by name",
    "shape": "by shape",
    "part": "by shape, others left over",
    "order": "by order",
    "guess": "guessed",
}
_UNSURE = ("part", "order")


def module_counts(modules: Sequence[ModulePair]) -> list[tuple[str, int]]:
    """Return how many modules were matched in which way."""
    counts = Counter(pair.how for pair in modules)
    return [(f"modules {words}", counts[how]) for how, words in _HOW.items() if counts[how]]


def refusal(
    report: Transplanted,
    fits: Mapping[str, list[str]],
    theirs: Mapping[str, str],
    mine: Mapping[str, str],
) -> str:
    """Return why not everything is copied, and what to do.

    Args:
        report: What would be copied, and what would not.
        fits: For each missing address, the rules of `kg.resize` that would make it.
        theirs: The tied weights of the source, and what each is tied to.
        mine: The tied weights of the target, and what each is tied to.
    """
    nothing = not (report.moved or report.shared)
    what = "nothing is copied" if nothing else "not everything is copied"
    lines = [f"transplant: {what} from {report.source} to {report.target!r}."]
    if report.missing:
        rules = sorted({rule for address in report.missing for rule in fits[address]})
        hint = f" For a bias resize={', '.join(f'kg.resize.{r}' for r in rules)}." if rules else ""
        lines.append(
            f"Without a source, {len(report.missing)} of the target: {listed(report.missing)}.{hint}"
        )
    if report.unused:
        lines.append(f"Unused, {len(report.unused)} of the source: {listed(report.unused)}.")
    for what, addresses, ties in (
        ("source", report.missing, theirs), ("target", report.unused, mine)
    ):  # fmt: skip
        for address in [a for a in addresses if a in ties][:10]:
            lines.append(
                f"In the {what} {address!r} is tied to {ties[address]!r}: kg.untie gives it a "
                "weight of its own."
            )
    for m in report.mismatched[:10]:
        hint = "; ".join(f"resize=kg.resize.{rule}" for rule in m.fits)
        shapes = f"{m.source_shape} in the source, {m.shape} in the target"
        why = "" if m.reason == "other shape" else f": {m.reason}"
        lines.append(f"  {m.target!r}: {shapes}{why}" + (f": {hint} may fit." if hint else "."))
    if len(report.mismatched) > 10:
        lines.append(f"  and {len(report.mismatched) - 10} more that do not fit.")
    rest = "" if nothing else (
        f", or {advice.option('strict', False)}, which leaves all these as they are and lists them in the report"
    )  # fmt: skip
    in_torch = any(address.endswith((".weight", ".running_mean")) for address in report.unused)
    if in_torch and not report.modules:
        lines.append("The source has the names of PyTorch: names='torch' reads them.")
    lines.append(
        "The way out: resize= for different shapes, match= for different names (match='order' if Keras "
        f"gave the layers new names), keep= for what must stay{rest}."
    )
    return "\n".join(lines)
