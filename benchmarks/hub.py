"""What of each keras_hub backbone opens: a table of all of them, and of causal language models.

KERAS_BACKEND=torch python benchmarks/hub.py               # writes docs/benchmarks-hub.md
KERAS_BACKEND=torch python benchmarks/hub.py Bert GPT2     # these, to the screen
KERAS_BACKEND=torch python benchmarks/hub.py --rows FILE   # keeps rows in FILE: a run may be stopped
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
import traceback
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import page

import keras_graft as kg
from keras_graft.model.explain import explained
from keras_graft.model.read import read_with_reasons
from keras_graft.tables import table

sys.path.append(str(Path(__file__).parent.parent / "tests"))
import hub_backbones  # noqa: E402
import hub_language  # noqa: E402

HEAD = """# keras_hub, opened

Written by `benchmarks/hub.py`: every backbone of keras_hub with a tiny configuration, and causal
language models. Each is read with `kg.read(model, open="**")`, and all its layers that hold layers are
put in place of their calls with `kg.inline`. The model that is built from these parts is compared with
the donor at two batch sizes and lengths.

"Layers" are calls of layers that hold layers, "open" those of them whose inside is known; layers of
Keras itself, such as `MultiHeadAttention`, stay closed unless they are named, and are not counted.
"Difference" is the largest one of an output, "lost" the number of weights that the model built from
the parts does not have. "Read" are the seconds to read with all layers open, "proof" those to prove
it. "Generate" says whether a task around a backbone without its second block gives, with its cache,
the tokens that the network alone gives one by one; "-" where keras_hub itself does not generate from
such a prompt, "as keras_hub" where its own task generates other tokens than its network, and the task
around the same backbone gives these. Times are of one run on two shared cores.

What stays closed does what no graph says, and is closed by contract: other code in training (Gemma3n,
DFine), an attribute that is set (SmolLM3), functions of a backend (DepthAnything, DFine), control flow
with a Python function (RWKV7, SAM), one length only (SigLIP), a layer that trains unless it is told not
to (DeepLabV3). In front of the blocks of XLNet, Moonshine, Gemma3 and T5Gemma2 with images stands a layer
that announces a shape that it does not give. BLIP2 OPT cuts a table of numbers, which is no weight, by
the length of its text. T5Gemma2 with images holds two weights that its network does not use.
"""


@dataclass
class Row:
    """What was found for one model."""

    name: str
    layers: int = 0
    opened: int = 0
    calls: tuple[int, int] = (0, 0)
    difference: float = float("nan")
    lost: int = 0
    read: float = 0.0
    proof: float = 0.0
    generates: str = ""
    error: str = ""
    closed: list[tuple[str, str]] = field(default_factory=list)


def measure(name: str, model: Any, sizes: list[Any]) -> Row:
    """Open a model, build it from its parts, and compare."""
    row = Row(name)
    try:
        model(hub_backbones.inputs_of(model, sizes[0]), training=False)
    except Exception as error:
        text = re.sub(r"\x1b\[\d*m", "", str(error))
        reason = next((line for line in text.splitlines() if "module" in line), text)
        row.error = f"keras_hub itself does not run it: {type(error).__name__}: {reason[:100]}"
        return row
    start = time.perf_counter()
    read_with_reasons(model, open="**", prove=False)
    row.read = time.perf_counter() - start
    start = time.perf_counter()
    graph = kg.read(model, open="**")
    row.proof = max(0.0, time.perf_counter() - start - row.read)
    found = [one for one in explained(graph) if "a layer of Keras" not in one.reason]
    row.layers, row.opened = len(found), sum(one.open for one in found)
    row.closed = [(f"{one.path} ({one.kind})", one.reason) for one in found if not one.open]
    nested = any(node.nested is not None for node in graph.nodes)
    flat = kg.inline(graph) if nested else graph
    row.calls = len(kg.read(model)), len(flat)
    built = kg.build(flat)
    held = {id(v) for v in built.weights}
    row.lost = sum(id(v) not in held for v in model.weights)
    row.difference = max(off(model, built, hub_backbones.inputs_of(model, size)) for size in sizes)
    return row


def off(one: Any, other: Any, data: Any) -> float:
    """Return the largest difference between the outputs of two models."""
    pairs = zip(
        keras.tree.flatten(one(data, training=False)),
        keras.tree.flatten(other(data, training=False)),
        strict=True,
    )
    return max(float(np.abs(_array(a) - _array(b)).max(initial=0)) for a, b in pairs)


def _array(tensor: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(tensor), "float64")


def generates(task: Any) -> str:
    """Say whether a task around a shorter backbone generates what its network gives."""
    try:
        own = hub_language.generated(task)
    except Exception:
        return "-"
    if not np.array_equal(own, hub_language.one_by_one(task)):
        made = kg.replace_backbone(task, task.backbone)
        return "as keras_hub" if np.array_equal(own, hub_language.generated(made)) else "DIFFERS"
    for name in ("transformer_layers", "decoder_transformer_layers", "decoder_layers"):
        blocks = getattr(task.backbone, name, None)
        if blocks:
            half = kg.remove(task.backbone, blocks[1].name, keep=0)
            made = kg.replace_backbone(task, half)
            same = np.array_equal(hub_language.generated(made), hub_language.one_by_one(made))
            return "equal" if same else "DIFFERS"
    made = kg.replace_backbone(task, task.backbone)
    same = np.array_equal(hub_language.generated(made), hub_language.one_by_one(made))
    return "equal (whole)" if same else "DIFFERS"


def tried(name: str, language: bool) -> Row:
    """Return the row of a model; an error is part of it."""
    try:
        if language:
            task = hub_language.make(name)
            row = measure(name, task, hub_backbones.sizes_of(name))
            if row.error:
                return row
            row.generates = generates(task)
            return row
        return measure(name, hub_backbones.make(name), hub_backbones.sizes_of(name))
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if "keras_graft" in f.filename] or frames
        place = f"{Path(own[-1].filename).name}:{own[-1].lineno}"
        text = " ".join(str(error).split())
        return Row(name, error=f"{type(error).__name__} at {place}: {text[:300]}")


class Kept:
    """Rows that were measured, in a file: each is written when it is known."""

    def __init__(self, path: str | None) -> None:
        self._path = None if path is None else Path(path)
        stored = self._path is not None and self._path.exists()
        self._rows = json.loads(self._path.read_text()) if self._path and stored else {}

    def row(self, name: str, language: bool, again: bool) -> Row:
        """Return the row of a model; it is measured if it is not known."""
        key = f"{'language' if language else 'backbone'} {name}"
        if again or key not in self._rows:
            row = tried(name, language)
            self._rows[key] = asdict(row)
            if self._path is not None:
                self._path.write_text(json.dumps(self._rows, indent=1))
            _say(row)
        return Row(**self._rows[key])


def _say(row: Row) -> None:
    state = row.error or f"{row.opened}/{row.layers}, {row.difference:g}"
    print(f"{row.name}: {state} {row.generates}", flush=True)
    for path, why in row.closed:
        print(f"    {path}: {_short(why)}", flush=True)


def report(rows: list[Row], title: str, language: bool) -> str:
    """Return the table of rows, with the reasons for what stays closed."""
    good = [row for row in rows if not row.error]
    full = [row for row in good if row.opened == row.layers]
    exact = [row for row in good if row.difference == 0 and not row.lost]
    lines = [
        f"### {title}",
        "",
        f"{len(rows)} models: {len(full)} open fully, {len(good) - len(full)} in part, "
        f"{len(rows) - len(good)} fail; {len(exact)} with difference 0 and no weight lost.",
        "",
        "```",
    ]
    head = [
        "model",
        "layers",
        "open",
        "calls",
        "inlined",
        "difference",
        "lost",
        "read s",
        "proof s",
    ]
    body = [
        [
            row.name, row.layers, row.opened, *row.calls, f"{row.difference:.2g}", row.lost,
            f"{row.read:.1f}", f"{row.proof:.1f}", *([row.generates] if language else []),
        ]
        for row in good
    ]  # fmt: skip
    lines += [table(head + ["generate"] * language, body), "```", ""]
    if any(row.closed for row in good):
        lines += ["What stays closed:", ""]
        for row in good:
            reasons: dict[str, list[str]] = {}
            for path, why in row.closed:
                reasons.setdefault(why, []).append(path)
            for why, paths in reasons.items():
                more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
                lines.append(f"- {row.name}: `{paths[0]}`{more}: {_short(why)}")
        lines.append("")
    failed = [f"- {row.name}: `{_short(row.error)}`" for row in rows if row.error]
    return "\n".join(lines + (["What fails:", "", *failed, ""] if failed else []))


def _short(text: str) -> str:
    """Return a reason without the folders of this machine."""
    return re.sub(r"(/[^\s:'\"]*)?/([^/\s:'\"]+\.py)", r"\2", " ".join(text.split()))


def main() -> None:
    """Measure and write the page, or print some rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--language", action="store_true", help="language models, not backbones")
    parser.add_argument("--rows", help="a file of rows that were measured, which gets the rest")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    kept = Kept(options.rows)
    parts: list[str] = []
    for language, title, known in (
        (False, "Backbones", hub_backbones.BACKBONES),
        (True, "Causal language models", hub_language.TASKS),
    ):
        chosen = [name for name in known if name in options.names or not options.names]
        if options.names and language != options.language:
            continue
        rows: list[Row] = []
        parts.append("")
        for name in chosen:
            rows.append(kept.row(name, language, again=bool(options.names)))
            parts[-1] = report(rows, title, language)
            if not options.names:  # after each, so that a run that is stopped leaves its rows
                page.write("benchmarks-hub.md", HEAD, "\n\n".join(parts))
    if options.names:
        print("\n\n".join(parts))


if __name__ == "__main__":
    main()
