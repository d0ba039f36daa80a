"""What `prune` costs: beside `kg.clone`, and beside Torch-Pruning; write docs/benchmarks-prune.md.

    python benchmarks/prune.py [--peers DIR] [--rounds 9]

ResNet50 with 1,000 classes and images of 224 pixels, half of the channels of each convolution. One
process for each backend. On PyTorch, Torch-Pruning prunes torchvision's ResNet50 in turns with ours;
DIR is where both are installed: `pip install --no-deps --target DIR torch-pruning torchvision`.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import os
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

BACKENDS = ("jax", "tensorflow", "torch")
HEAD = """# What pruning costs

Written by `benchmarks/prune.py` on two shared cores: medians over {rounds} rounds in turns, in seconds
of the processor, with one thread. Machines are noisy, so read ratios. ResNet50 (`weights=None`, images of 224 pixels), half of the channels
of each convolution, by magnitude: 175 calls change.

`kg.clone` copies the whole model, and `kg.prune` gives a new model too. `prune` takes longer than
`clone` as it also finds the groups, compares the weights, and runs each kind of call that it
changed once on abstract tensors: a rule that is wrong for a layer must not give a model that fails later.
Convolutions of one configuration are one kind, whatever their channels.

"""
PEERS = """
## Beside Torch-Pruning

Torch-Pruning {tp} on torchvision {tv}'s ResNet50, in the same process and in turns with ours on the
PyTorch backend. "One group" is what must shrink with one convolution in the third stage, from a model on
which nothing is known: `kg.group`, and `build_dependency` with `get_pruning_group`. "Prune" is
`kg.prune`, and `MagnitudePruner` with `pruning_ratio=0.5`, made and run. Torch-Pruning changes the model
that it is given; the copy that keeps the donor is in a line of its own.

"""


def timed(candidates: dict[str, Callable[[Any], Any]], rounds: int, before: dict[str, Any]) -> Any:
    """Return the times of each candidate, which run in turns."""
    found: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(rounds + 1):
        for name, run in candidates.items():
            given = before[name]() if name in before else None
            gc.collect()
            start = time.process_time()  # other programs use the cores too
            run(given)
            if turn:  # the first one warms up
                found[name].append(time.process_time() - start)
    return {name: statistics.median(times) for name, times in found.items()}


def ours() -> dict[str, Callable[[Any], Any]]:
    """Return what is timed of this package."""
    import keras

    import keras_graft as kg

    model = keras.applications.ResNet50(weights=None)
    return {
        "clone": lambda _: kg.clone(model),
        "prune": lambda _: kg.prune(model, {keras.layers.Conv2D: 0.5}),
        "group": lambda _: kg.group(model, "conv4_block1_2_conv"),
    }


def theirs(found: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what is timed of Torch-Pruning, and what makes the model for each; note the versions."""
    import torch

    # The registry's wheel has its compiled ops for CUDA alone; ResNet50 needs none of them.
    sys.modules["torchvision._meta_registrations"] = types.ModuleType("_meta_registrations")
    import torch_pruning as tp
    import torchvision

    found["tp"], found["tv"] = tp.__version__, torchvision.__version__.partition("+")[0]
    model, x = torchvision.models.resnet50(), torch.zeros(1, 3, 224, 224)

    def group(own: Any) -> Any:
        graph = tp.DependencyGraph().build_dependency(own, example_inputs=x)
        layer = own.layer3[0].conv2
        return graph.get_pruning_group(layer, tp.prune_conv_out_channels, idxs=list(range(128)))

    def prune(own: Any) -> Any:
        pruner = tp.pruner.MagnitudePruner(
            own, x, importance=tp.importance.MagnitudeImportance(p=1), pruning_ratio=0.5,
            ignored_layers=[own.fc],
        )  # fmt: skip
        pruner.step()
        return pruner

    own = lambda: copy.deepcopy(model)  # noqa: E731
    runs = {
        "their copy": lambda _: copy.deepcopy(model), "their group": group, "their prune": prune,
    }  # fmt: skip
    return runs, {"their group": own, "their prune": own}


def measured(rounds: int, peers: str | None) -> dict[str, Any]:
    """Return the times on the present backend."""
    import keras

    found: dict[str, Any] = {"backend": keras.backend.backend()}
    runs, before = ours(), {}
    if peers:
        sys.path.append(peers)
        more, before = theirs(found)
        runs |= more
    return found | timed(runs, rounds, before)


def main() -> None:
    """Measure each backend in a process of its own, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", help="Where torch-pruning and torchvision are installed.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--one", action="store_true", help="This backend alone, as JSON.")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measured(given.rounds, given.peers)))
        return
    from keras_graft.tables import table

    all_found = []
    for backend in BACKENDS:
        words = [sys.executable, __file__, "--one", "--rounds", str(given.rounds)]
        words += ["--peers", given.peers] if given.peers and backend == "torch" else []
        said = subprocess.run(
            words, env={**os.environ, "KERAS_BACKEND": backend, "OMP_NUM_THREADS": "1"}, check=True,
            capture_output=True, text=True,
        )  # fmt: skip
        all_found.append(json.loads(said.stdout.splitlines()[-1]))
        print(all_found[-1], flush=True)
    rows = [
        (f["backend"], *(f"{f[k]:.3f}" for k in ("clone", "prune")), f"{f['prune'] / f['clone']:.1f}",
         f"{f['group']:.3f}")
        for f in all_found
    ]  # fmt: skip
    text = f"```\n{table(('backend', 'clone', 'prune', 'prune / clone', 'one group'), rows)}\n```"
    f = all_found[-1]
    if "tp" in f:
        lines = [
            ("one group", f["group"], f["their group"]), ("prune", f["prune"], f["their prune"]),
            ("a copy of the model", f["clone"], f["their copy"]),
        ]  # fmt: skip
        rows = [(n, f"{a:.3f}", f"{b:.3f}", f"{b / a:.1f}") for n, a, b in lines]
        head = ("", "keras-graft", "Torch-Pruning", "Torch-Pruning / keras-graft")
        text += f"\n{PEERS.format_map(f)}```\n{table(head, rows)}\n```"
    page = Path(__file__).parents[1] / "docs" / "benchmarks-prune.md"
    page.write_text(HEAD.format(rounds=given.rounds) + text + "\n")


if __name__ == "__main__":
    main()
