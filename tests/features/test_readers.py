"""Several processes train one head from one store: the losses are those of one process."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import reader_worker

import keras_graft as kg

HOW = {"torch": "ddp", "jax": "jax", "tensorflow": "mirrored"}[keras.backend.backend()]


@pytest.fixture
def store(tmp_path):
    rng = np.random.default_rng(0)
    inputs = keras.Input((6,))
    data = rng.normal(size=(48, 6)).astype("float32"), rng.normal(size=48).astype("float32")
    trunk = keras.Model(inputs, inputs * 1.0)
    return kg.features.compute(trunk, data, tmp_path / "store", progress=False)


def losses(text):
    return [float(line.split()[1]) for line in text.splitlines() if line.startswith("loss")]


@pytest.mark.filterwarnings("ignore")
def test_two_readers_learn_as_one(store, tmp_path, capfd):
    processes = 1 if HOW == "mirrored" else 2
    place = tmp_path / "meeting"
    if HOW == "jax":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            place.write_text(f"127.0.0.1:{free.getsockname()[1]}")
    source = str(Path(kg.__file__).parent.parent)
    started = [
        subprocess.Popen(
            [sys.executable, reader_worker.__file__, HOW, store.path, str(rank), "2", str(place)],
            env={**os.environ, "PYTHONPATH": source}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]  # fmt: skip
    try:
        getattr(reader_worker, HOW)(store.path, 0, 1, "")  # meanwhile, in this process
        one = losses(capfd.readouterr().out)
        ends = [process.communicate(timeout=300) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert [process.returncode for process in started] == [0] * processes, ends
    two = losses(ends[0][0])
    assert len(one) == len(two) >= reader_worker.STEPS and len(set(one)) > 1
    np.testing.assert_allclose(two, one, rtol=1e-5)
