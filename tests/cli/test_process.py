"""The program as a process: quick without Keras, quiet with it, and what its exit codes say."""

import os
import subprocess
import sys

import keras
import pytest
from keras import layers
from models import residual

from keras_graft_cli.backend import choose
from keras_graft_cli.errors import UsageError

pytestmark = pytest.mark.once


def process(*args, code=0, module="keras_graft_cli", **env):
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, args)],
        capture_output=True, text=True, env={**os.environ, **env},
    )  # fmt: skip
    assert done.returncode == code, (done.stdout, done.stderr)
    return done


def test_help_and_version_import_neither_keras_nor_the_library():
    for args in (["--help"], ["--version"], ["split", "--help"], ["schema", "cuts"]):
        code = (
            "import sys; from keras_graft_cli import main\n"
            f"sys.argv[1:] = {args!r}\n"
            "try: main.main()\n"
            "except SystemExit as ended: assert not ended.code\n"
            "heavy = {'keras', 'keras_graft', 'numpy', 'h5py', 'torch'} & set(sys.modules)\n"
            "assert not heavy, heavy"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout, done.stderr
    assert f"Keras {keras.__version__}" in process("--version").stdout


def test_a_missing_extra_says_what_to_install(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'typer' else find(name, *a)\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    said = process("--help", code=1, PYTHONPATH=path).stderr
    assert said.strip() == "The command needs an extra: pip install 'keras-graft[cli]'"


def test_the_demo_runs_as_a_module_of_the_library():
    done = process("demo", module="keras_graft")
    assert "largest difference of head(trunk(x)) from the whole  0.0" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("backend", ["jax", "tensorflow", "torch"])
def test_nothing_but_the_answer_is_printed(backend, tmp_path):
    """No log line of a backend, on either stream; and --backend is what Keras runs on."""
    residual().save(tmp_path / "m.keras")
    args = ["verify", tmp_path / "m.keras", tmp_path / "m.keras", "--backend", backend]
    # The tests themselves set these for their own process.
    done = process(*args, KERAS_BACKEND="torch", TF_CPP_MIN_LOG_LEVEL="0")
    assert done.stderr == "" and done.stdout.startswith("The same outputs: ")
    assert done.stdout.count("\n") == 3


def test_exit_codes(tmp_path):
    residual().save(tmp_path / "m.keras")
    done = process("cuts", tmp_path / "none.keras", code=2)
    assert done.stdout == "" and done.stderr.startswith("error: There is no file")
    done = process("split", tmp_path / "m.keras", "--at", "conv0", "-o", tmp_path / "p", code=1)
    assert done.stdout == "" and "keras-graft split" in done.stderr


def test_a_layer_that_prints_does_not_spoil_the_output(tmp_path, monkeypatch):
    (tmp_path / "loud_layer.py").write_text(
        "import os, sys, keras\n"
        "print('loud import')\n"
        "@keras.saving.register_keras_serializable('loud')\n"
        "class Loud(keras.layers.Layer):\n"
        "    def call(self, x):\n"
        "        print('loud call'); os.write(1, b'loud code')\n        return x\n"
    )
    monkeypatch.chdir(tmp_path)
    keras.Sequential([keras.Input((2,)), layers.Dense(2, name="d")]).save("m.keras")
    done = process(
        "replace", "m.keras", "d", "Loud", "--import", "loud_layer", "-o", "n.keras", "--json"
    )
    assert done.stdout.startswith("{") and "loud" not in done.stdout.replace("loud_layer", "")
    assert "loud import" in done.stderr and "loud code" not in done.stderr


def test_the_backend_that_is_chosen(tmp_path, monkeypatch):
    assert choose(None, {"KERAS_BACKEND": "torch"}) == "torch"
    with pytest.raises(UsageError, match="--backend jax: Keras already runs on torch here"):
        choose("jax", {})
    monkeypatch.delitem(sys.modules, "keras")
    env = {"KERAS_HOME": str(tmp_path)}
    assert choose(None, dict(env)) == "jax"  # the first that is installed
    (tmp_path / "keras.json").write_text('{"backend": "tensorflow"}')
    assert choose(None, dict(env)) == "tensorflow"
    (tmp_path / "keras.json").write_text('{"backend": "no_such_backend"}')
    assert choose(None, dict(env)) == "jax"
    chosen = dict(env, KERAS_BACKEND="jax")
    assert choose("torch", chosen) == "torch" and chosen["KERAS_BACKEND"] == "torch"
    monkeypatch.setattr("keras_graft_cli.backend._is_installed", lambda name: False)
    with pytest.raises(UsageError, match="pip install jax"):
        choose("jax", dict(env))
    with pytest.raises(UsageError, match="none is installed"):
        choose(None, dict(env))
