"""Forged and damaged model files: refused with our errors, nothing changed, little memory taken."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import pytest
from forged import KINDS

HERE = Path(__file__).parents[1]
ALLOWED = 256 * 2**20


@pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="files are read alike on all backends"
)
def test_forged_files(tmp_path):
    count = 200
    done = subprocess.run(
        [sys.executable, HERE / "forged_reader.py", tmp_path, str(count), *KINDS],
        capture_output=True, text=True,
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and len(lines) == 2 * count * len(KINDS), (lines[-1:], done.stderr)
    for file, ways in zip(lines[::2], lines[1::2], strict=True):
        for way, found in ways.items():
            assert found["result"] in ("read", "refused"), (file, way, found)
            assert found["bytes"] < ALLOWED + file["size"], (file, way, found)
    refused = sum(any(w["result"] == "refused" for w in ways.values()) for ways in lines[1::2])
    assert refused > count * len(KINDS) / 2  # a flip in a byte that means nothing is read
    assert not list(tmp_path.parent.glob("forged_outside"))
