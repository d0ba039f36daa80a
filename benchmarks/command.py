"""How long the command takes to answer, beside importing Keras, Typer and nothing.

python benchmarks/command.py            # writes docs/benchmarks-command.md
python benchmarks/command.py --quick    # one turn, to the screen
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TURNS = 9
MODEL = """
import keras, sys
keras.applications.ResNet50(weights=None, input_shape=(64, 64, 3), classes=10).save("m.keras")
keras.applications.ResNet50(weights=None, input_shape=(64, 64, 3), classes=10).save("m.h5")
"""
PROGRAM = [sys.executable, "-m", "keras_graft_cli"]
HEAD = """# The command: how long an answer takes

Written by `benchmarks/command.py`: medians of {turns} processes each, taken in turn, on two cores that other work kept busy (a load of 8 to 11). What counts
are the ratios. `--help`, `--version` and the Tab key do not import Keras. The Tab key is pressed behind
`keras-graft extract m.keras`: it reads the layer names of a ResNet50. `cuts` imports Keras, and reads the structure
of that file of 94 MB, not its weights.
"""


def tab(line: str) -> tuple[list[str], dict[str, str]]:
    """Return the process that a shell starts for the Tab key."""
    words = line.split(" ")
    asked = {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
    return PROGRAM, {"_KERAS_GRAFT_COMPLETE": "complete_bash", **asked}


CASES: dict[str, tuple[list[str], dict[str, str]]] = {
    "python": ([sys.executable, "-c", ""], {}),
    "import typer": ([sys.executable, "-c", "import typer"], {}),
    "import keras": ([sys.executable, "-c", "import keras"], {}),
    "--version": ([*PROGRAM, "--version"], {}),
    "--help": ([*PROGRAM, "--help"], {}),
    "Tab, a .keras file": tab("keras-graft extract m.keras "),
    "Tab, an .h5 file": tab("keras-graft extract m.h5 "),
    "cuts": ([*PROGRAM, "cuts", "m.keras"], {}),
}


def main() -> None:
    """Time the processes in turn, and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    backend = os.environ.setdefault("KERAS_BACKEND", "torch")
    took: dict[str, list[float]] = {name: [] for name in CASES}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-c", MODEL], cwd=folder, check=True, capture_output=True)
        for _ in range(1 if quick else TURNS):
            for name, (words, env) in CASES.items():
                start = time.perf_counter()
                subprocess.run(
                    words, cwd=folder, check=True, capture_output=True, env={**os.environ, **env}
                )
                took[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in took.items()}
    rows = [
        f"| {name} | {seconds:.2f} | {seconds / medians['import keras']:.2f} "
        f"| {seconds / medians['import typer']:.1f} |"
        for name, seconds in medians.items()
    ]
    head = f"| Keras on {backend} | seconds | of `import keras` | of `import typer` |"
    table = "\n".join([head, "| --- | --- | --- | --- |", *rows])
    text = f"{HEAD.format(turns=TURNS)}\n{table}\n"
    if quick:
        print(text)
    else:
        (Path(__file__).parent.parent / "docs" / "benchmarks-command.md").write_text(text)


if __name__ == "__main__":
    main()
