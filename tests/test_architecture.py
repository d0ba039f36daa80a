"""What DESIGN says of the rooms, held by reading the imports."""

import ast
import itertools
import subprocess
import sys
from pathlib import Path

import pytest

import keras_graft

pytestmark = pytest.mark.once

ROOT = Path(keras_graft.__file__).parent

PURE = [
    "printable", "errors", "copyable", "parameters", "overlay", "naming", "tabular", "node", "comparable", "index", "moves", "graph", "closed", "select", "flow", "nest", "subgraph",
    "cuts", "block", "edit", "sharing", "diff", "transplanted", "carried", "hdf5", "archive", "display/text",
]  # fmt: skip
WITH_KERAS = [
    "_keras/private", "_keras/configs", "_keras/graphs", "_keras/making", "_keras/strangers", "_keras/saving", "_keras/meantime", "_keras/optimizers", "_keras/views", "_keras/flags", "_keras/inside", "_keras/copying", "_keras/adapters", "_keras/tied_variable",
    "_keras/tied_layer", "_keras/tying", "_keras/tied_model", "_keras/stored_attributes", "_keras/kept_model", "layers/frozen", "layers/renamed",
    "layers/tied_dense", "call", "symbolic", "level", "reader", "abstract", "trial", "infer", "assemble", "history", "body", "copies", "clone",
    "build", "pickling", "depth", "exchange", "weights", "ties", "rejoin", "share", "new", "factory", "edits", "blocks", "freeze", "channels", "refit", "reinput",
    "writing", "files", "addresses", "layouts", "lookups", "rule", "positions", "resize", "suggested", "meaning", "rules", "matching", "adapted", "stored", "transplant", "trained", "optimizer",
    "api", "recipes/_arguments", "recipes/swap_activation", "recipes/norm_swap", "recipes/fold_batchnorm",
    "recipes/add_adapters", "recipes/add_dropout", "recipes/new_head", "recipes/unet",
    "features/buffers", "features/half", "features/schema", "features/masked", "features/failures", "features/checksum", "features/folder", "features/remote", "features/manifest",
    "features/loading", "features/shards", "features/place", "features/store", "features/fingerprint", "features/data", "features/fixed", "features/columns",
    "features/building", "features/pipeline", "features/run", "features/ray_rows",
    "features/ray_worker", "features/ray_engine", "features/compute", "features/epoch", "features/dataset", "features/advise", "features/fit_head", "testing",
    "cli", "__main__",
]  # fmt: skip
ROOMS = PURE + WITH_KERAS
PRIVATE = (
    "_keras_history", "_inbound_nodes", "_outbound_nodes", "_keras_mask", "_functional",
    "_nodes_by_depth", "_inputs_struct", "_outputs_struct", "_call_has_mask_arg", "_tracker",
    "_run_through_graph", "_value", "_trainable_variables", "_learning_rate", "_compile_config",
    "_call_signature",
)  # fmt: skip


def room_of(path):
    return path.relative_to(ROOT).with_suffix("").as_posix()


def paths():
    return [p for p in sorted(ROOT.rglob("*.py")) if p.name != "__init__.py"]


def imports(path, deep=True):
    """Yield the modules that a file imports; without `deep`, only when it is itself imported."""
    tree = ast.parse(path.read_text())
    guarded = {
        inner
        for node in tree.body
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree) if deep else tree.body:
        if node in guarded:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_file_is_a_room():
    assert {room_of(p) for p in paths()} <= set(ROOMS)


def test_pure_rooms_do_not_import_keras():
    for room in PURE:
        found = [m for m in imports(ROOT / f"{room}.py") if m.split(".")[0] == "keras"]
        assert not found, f"{room} imports {found}"


def test_rooms_import_only_those_above():
    place = {f"keras_graft.{room.replace('/', '.')}": i for i, room in enumerate(ROOMS)}
    place["keras_graft._keras"] = place["keras_graft._keras.kept_model"]
    for path in paths():
        own = place[f"keras_graft.{room_of(path).replace('/', '.')}"]
        found = set(imports(path, deep=False))
        # `from folder import file` names both; the file is what is imported.
        folders = {m.rpartition(".")[0] for m in found if m in place}
        below = [m for m in found - folders if place.get(m, -1) >= own]
        assert not below, f"{room_of(path)} imports {below}"


def test_private_keras_is_touched_in_one_module():
    for path in paths():
        if room_of(path).startswith("_keras/"):
            continue
        assert not [m for m in imports(path) if m.startswith("keras.src")], path
        names = {
            n.attr for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Attribute)
        }
        assert not names & set(PRIVATE), path


def test_all_is_what_is_exported():
    public = {n for n, v in vars(keras_graft).items() if not n.startswith("_") and callable(v)}
    assert public == set(keras_graft.__all__) - {"recipes", "resize"}
    recipes = vars(keras_graft.recipes).items()
    public = {n for n, v in recipes if not n.startswith("_") and callable(v)}
    assert public == set(keras_graft.recipes.__all__)


def test_recipes_are_written_with_the_public_verbs_alone():
    """So that a reader can write another one: the verbs under `kg`, and the tables of reports."""
    standard = {
        "__future__",
        "collections",
        "dataclasses",
        "inspect",
        "itertools",
        "math",
        "typing",
    }
    shared = {
        "keras_graft", "keras_graft.recipes", "keras_graft.recipes._arguments",
    }  # fmt: skip
    found = sorted((ROOT / "recipes").glob("[!_]*.py"))
    assert {p.stem for p in found} == set(keras_graft.recipes.__all__) - {"Folded"}
    for path in [*found, ROOT / "recipes/_arguments.py"]:
        assert len(path.read_text().splitlines()) < 180, path
        for module in imports(path):
            if module.startswith("keras_graft"):
                printing = module.startswith(("keras_graft.tabular", "keras_graft.printable"))
                assert module in shared or printing, module
            else:
                assert module.split(".")[0] in standard | {"keras", "numpy"}, (path, module)
        tree = ast.walk(ast.parse(path.read_text()))
        used = {
            n.attr for n in tree if isinstance(n, ast.Attribute) and ast.unparse(n.value) == "kg"
        }
        assert used <= set(keras_graft.__all__), (path, used)


def test_names_stand_in_messages_with_what_cannot_be_seen_escaped():
    """As `{name!r}`, or in the calls that a message recommends as `{quoted(name)}`."""
    for path in paths():
        for text in ast.walk(ast.parse(path.read_text())):
            parts = text.values if isinstance(text, ast.JoinedStr) else []
            for before, part in itertools.pairwise(parts):
                raw = isinstance(part, ast.FormattedValue) and "checksum" not in ast.unparse(part)
                if raw and isinstance(before, ast.Constant):
                    assert not before.value.endswith(('"', "'")), (path, ast.unparse(part))
                # What another library says stands as `{words_of(error)}`.
                assert not raw or ast.unparse(part.value) != "error", (path, ast.unparse(text))


def test_files_are_read_in_one_sitting():
    long = {room_of(p): n for p in paths() if (n := len(p.read_text().splitlines())) > 400}
    assert not long, long


@pytest.mark.parametrize("backend", ["jax", "tensorflow", "torch"])
def test_importing_brings_in_no_backend_but_the_chosen_one(backend):
    others = {"jax", "tensorflow", "torch"} - {backend, "jax"}  # TensorFlow itself may import jax
    code = (
        f"import os, sys; os.environ['KERAS_BACKEND'] = {backend!r}; import keras;"
        "before = set(sys.modules); import keras_graft;"
        f"new = {{m.partition('.')[0] for m in set(sys.modules) - before}};"
        f"bad = new & {others | {'typer', 'ray', 'safetensors', 'xxhash', 'pandas'}!r}; assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_nothing_that_runs_brings_in_tensorflow_that_was_not_chosen(backend, tmp_path):
    code = f"""
import os, pathlib, sys
os.environ["KERAS_BACKEND"] = {backend!r}
import keras, numpy as np, keras_graft as kg
from keras_graft import channels, files, testing
from keras_graft.features import ray_engine
x = keras.Input((6,), name="x")
hidden = keras.layers.Dense(4, activation="relu", name="hidden")(x)
model = keras.Model(x, keras.layers.Dense(2, name="out")(hidden))
model.compile("adam", "mse", metrics=["mae"])
again = kg.clone(model, compile=True)
testing.assert_same_graph(model, again)
data = np.ones((64, 6), "float32"), np.ones((64, 2), "float32")
rate = keras.optimizers.schedules.CosineDecay(0.1, 10)
metric = keras.metrics.MeanMetricWrapper(keras.losses.mean_squared_error)
again.compile(keras.optimizers.Adam(rate), "mse", metrics=[metric])
again.fit(*data, verbose=0)
kg.carry_optimizer(again, kg.insert(again, keras.layers.ReLU(), after="hidden"))
channels.with_channels(keras.layers.Rescaling([1.0, 2.0, 3.0]), (None, 4, 4, 4), "mean", "reinput")
twins = keras.Model(x, [keras.layers.Dense(4, name=n, kernel_constraint="non_neg")(x) for n in "ab"])
kg.share(twins, ["a", "b"])
kg.clone(kg.tie(twins, "b.kernel", "a.kernel"))
ray_engine._shipped(kg.freeze(model))
folder = {str(tmp_path)!r}
kg.features.fit_head(model, "hidden", data, store=folder + "/store", verbose=0)
files.save({{"m": model}}, {{"m": pathlib.Path(folder, "m.keras")}})
keras.saving.load_model(folder + "/m.keras")
assert "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_read_is_one_thing():
    """`keras_graft.read` is the function, and no module of that name lies behind it."""
    assert not (ROOT / "read.py").exists() and callable(keras_graft.read)
