"""keras.distribution: cuts, edits and copies keep where the variables lie."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

import keras_graft as kg

SCRIPT = Path(__file__).parents[1] / "distributed.py"


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="Keras distributes on JAX")
@pytest.mark.parametrize("how", ["data", "model"])
def test_variables_stay_where_they_lie(how):
    """In a process of its own: JAX counts its devices once."""
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "PYTHONPATH": str(Path(kg.__file__).parent.parent),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    }
    done = subprocess.run(
        [sys.executable, SCRIPT, how], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        "as before: extract split join insert replace freeze thaw copy fresh clone alone"
        in done.stdout
    )
