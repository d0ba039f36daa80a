"""Forged and damaged model files: refused with our errors, nothing changed, little memory taken."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import pytest
from forged import KINDS

HERE = Path(__file__).parent
ALLOWED = 256 * 2**20


@pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="files are read alike on all backends"
)
@pytest.mark.parametrize("kind", KINDS)
def test_forged_files(kind, tmp_path):
    done = subprocess.run(
        [sys.executable, HERE / "forged_reader.py", tmp_path, kind, "200"],
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and len(lines) == 400, (lines[-1:], done.stderr[-3000:])
    for file, ways in zip(lines[::2], lines[1::2], strict=True):
        for way, found in ways.items():
            assert found["result"] in ("read", "refused"), (file, way, found)
            assert found["bytes"] < ALLOWED + file["size"], (file, way, found)
    refused = sum(ways[way]["result"] == "refused" for ways in lines[1::2] for way in ways)
    assert refused > 200  # a flip in a byte that means nothing is read
    assert not list(Path(tmp_path).parent.glob("forged_outside"))
