"""The Tab key: files, architectures, and the layers of the model on the line, without Keras."""

import os
import subprocess
import sys

import keras
import pytest
from keras import layers
from models import residual

from keras_graft_cli.names import layer_names
from keras_graft_cli.shells import joined

pytestmark = pytest.mark.once

PROGRAM = "import sys; from keras_graft_cli.main import main; main();"
CHECK = (
    "import atexit; atexit.register(lambda: 'keras' in sys.modules and print('KERAS IS IMPORTED'));"
)


def offered(folder, line, shell="bash"):
    """Return what is offered at the end of a line."""
    env = dict(os.environ, _KERAS_GRAFT_COMPLETE=f"complete_{shell}")
    if shell == "bash":
        words = line.replace(":", "\n:\n").replace("\n\n", "\n").split(" ")
        words = [part for word in words for part in (word.split("\n") if "\n" in word else [word])]
        if words[-1] == "" and words[-2:-1] == [":"]:
            words.pop()
        env |= {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
    else:
        env["_TYPER_COMPLETE_ARGS"] = line
    done = subprocess.run(
        [sys.executable, "-c", CHECK.replace("import atexit", "import sys, atexit") + PROGRAM],
        capture_output=True, text=True, env=env, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert "KERAS IS IMPORTED" not in done.stdout
    return done.stdout.split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("completion")
    x = keras.Input((4,), name="x")
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="deep")], name="inner")
    model = keras.Model(x, layers.Dense(2, name="out")(inner(layers.ReLU(name="act")(x))))
    model.save(folder / "m.keras")
    model.save(folder / "old.h5")
    (folder / "notes.txt").touch()
    (folder / "parts").mkdir()
    (folder / "steps.yaml").touch()
    return folder


def test_files_and_architectures(folder):
    assert offered(folder, "keras-graft show ") == ["m.keras", "old.h5", "parts/", "app:"]
    assert offered(folder, "keras-graft show m") == ["m.keras"]
    # bash replaces only what follows the colon.
    assert offered(folder, "keras-graft cuts app:ResNet10") == [
        "ResNet101", "ResNet101V2",
    ]  # fmt: skip
    assert "MobileNetV2" in offered(folder, "keras-graft cuts app:")
    assert offered(folder, "keras-graft replay ") == ["parts/", "steps.yaml"]


def test_the_layers_of_the_model_on_the_line(folder):
    for name in ("m.keras", "old.h5"):
        every = ["x", "act", "inner", "inner/deep", "out"]
        assert offered(folder, f"keras-graft extract {name} ") == every
        assert offered(folder, f"keras-graft extract {name} in") == ["inner", "inner/deep"]
        assert offered(folder, f"keras-graft split {name} --at act,o") == ["act,out"]
    assert offered(folder, "keras-graft replace m.keras a") == ["act"]
    assert offered(folder, "keras-graft extract app:VGG16 ") == []
    assert offered(folder, "keras-graft extract none.keras ") == []


def test_commands_options_and_words(folder):
    assert offered(folder, "keras-graft ex") == ["explain", "extract"]
    assert "--select" in offered(folder, "keras-graft nodes m.keras --se")
    assert offered(folder, "keras-graft nodes m.keras --backend to") == ["torch"]
    assert offered(folder, "keras-graft clone m.keras --weights ") == ["copy", "fresh"]
    assert "cuts" in offered(folder, "keras-graft schema cu")
    assert offered(folder, "keras-graft features in") == ["info"]


def test_zsh(folder):
    text = " ".join(offered(folder, "keras-graft extract m.keras in", "zsh"))
    assert '"inner"' in text and '"inner/deep"' in text
    text = " ".join(offered(folder, "keras-graft show app:ResNet10", "zsh"))
    assert r'"app\\:ResNet101"' in text


def test_names_of_every_kind_of_file(tmp_path):
    residual().save(tmp_path / "m.keras")
    assert layer_names(tmp_path / "m.keras") == [layer.name for layer in residual().layers]
    (tmp_path / "bad.keras").write_bytes(b"no zip")
    (tmp_path / "bad.h5").write_bytes(b"no hdf5")
    for name in ("bad.keras", "bad.h5", "none.keras"):
        assert layer_names(tmp_path / name) == []


def test_words_that_bash_breaks():
    def words(*given, at):
        env = {"COMP_WORDS": "\n".join(given), "COMP_CWORD": str(at)}
        return joined(env), env["COMP_WORDS"].split("\n"), env["COMP_CWORD"]

    assert words("kg", "show", "app", ":", at=3) == ("app:", ["kg", "show", "app:"], "2")
    assert words("kg", "show", "", at=2) == ("", ["kg", "show", ""], "2")
    assert words("kg", "split", "--at", "=", "a", at=4) == ("", ["kg", "split", "--at", "a"], "3")
    assert words("kg", "split", "--at", "=", at=3) == ("", ["kg", "split", "--at", ""], "3")
