"""Open forged files in every public way and say what came of each: run by test_forged.py.

A process of its own: what a file makes it take in memory is then seen, and a crash is a result.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import warnings
from pathlib import Path

import keras
import numpy as np
from forged import SECRET, beside, forged, model

import keras_graft as kg
from keras_graft.model.files import load


def high_water() -> int:
    """Return the most memory this process had since it was last asked, in bytes."""
    status = Path("/proc/self/status").read_text()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def now() -> int:
    return 1024 * int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0])


def opened(path: Path, target: keras.Model) -> dict:
    """Return what each way to open a file did with it: "read", or the error."""
    ways = {}
    if not path.name.endswith(".h5") or path.name.endswith(".weights.h5"):
        ways["transplant"] = lambda: kg.transplant(path, target)
        ways["without strict"] = lambda: kg.transplant(path, target, strict=False)
    if not path.name.endswith((".weights.h5", ".safetensors")):
        ways["load"] = lambda: load(str(path))
    found = {}
    for way, run in ways.items():
        before = [np.array(keras.ops.convert_to_numpy(v)) for v in target.variables]
        start = now()
        high_water()
        try:
            made = run()
            holder = made if isinstance(made, keras.Model) else target
            values = [keras.ops.convert_to_numpy(v) for v in holder.variables]
            result = "read the secret" if any((v == SECRET).any() for v in values) else "read"
        except kg.GraftError as error:
            values = [keras.ops.convert_to_numpy(v) for v in target.variables]
            same = all(a.tobytes() == b.tobytes() for a, b in zip(before, values, strict=True))
            result = "refused" if same else "refused, and the target changed"
            if len(str(error)) > 20_000:
                result += f", in {len(str(error))} letters"
        except BaseException as error:
            result = f"raised {type(error).__name__}: {str(error)[:200]}"
        for variable, value in zip(target.variables, before, strict=True):
            variable.assign(value)
        found[way] = {"result": result, "bytes": high_water() - start}
    return found


def main(folder: Path, kinds: list[str], count: int) -> None:
    warnings.simplefilter("ignore")
    beside(folder)
    target = model()
    for kind in kinds:
        for name, path in forged(kind, folder, count):
            print(json.dumps({"name": name, "size": path.stat().st_size}), flush=True)
            with contextlib.redirect_stdout(io.StringIO()):
                found = opened(path, target)
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[3:], int(sys.argv[2]))
