"""The order of the folders, and what each may import: held by reading the imports."""

import ast
import itertools
import subprocess
import sys
from pathlib import Path

import pytest

import keras_graft

pytestmark = pytest.mark.once

ROOT = Path(keras_graft.__file__).parent

ORDER = [
    "printable",
    "advice",
    "errors",
    "tables",
    "graph",
    "_keras",
    "ties",
    "layers",
    "model",
    "costs",
    "look",
    "weights",
    "shared",
    "parts",
    "edit",
    "rewrite",
    "pruning",
    "inside",
    "training",
    "tasks",
    "adapters",
    "quantizing",
    "features",
    "recipes",
    "display",
    "replaying",
    "testing",
    "__main__",
]
"""The folders, and the files beside them: each imports only those before it."""
PURE = ("printable", "advice", "errors", "tables", "graph", "look", "parts")
"""What only describes a network: it does not import Keras."""
COMMAND = ROOT.parent / "keras_graft_cli"
"""The command: a package beside it, as importing anything of this one imports Keras."""
PRIVATE = (
    "_keras_history", "_inbound_nodes", "_outbound_nodes", "_keras_mask", "_functional",
    "_nodes_by_depth", "_inputs_struct", "_outputs_struct", "_call_has_mask_arg", "_tracker",
    "_run_through_graph", "_value", "_trainable_variables", "_learning_rate", "_compile_config",
    "_call_signature",
)  # fmt: skip


def module_of(path):
    return ".".join(["keras_graft", *path.relative_to(ROOT).with_suffix("").parts])


def folder_of(module):
    return module.split(".")[1]


def paths():
    return [p for p in sorted(ROOT.rglob("*.py")) if p != ROOT / "__init__.py"]


def imports(path):
    """Yield the modules and names that a file imports, inside functions too."""
    tree = ast.parse(path.read_text())
    typing = {
        inner
        for node in tree.body
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in typing:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(path):
    """Yield the modules of the package that a file imports."""
    modules = {module_of(p).removesuffix(".__init__") for p in paths()}
    for name in imports(path):
        while name.startswith("keras_graft.") and name not in modules:
            name = name.rpartition(".")[0]
        if name in modules:
            yield name


def test_a_folder_imports_only_those_before_it():
    assert {folder_of(module_of(p)) for p in paths()} == set(ORDER)
    place = {name: number for number, name in enumerate(ORDER)}
    for path in paths():
        own = folder_of(module_of(path))
        later = [m for m in own_imports(path) if place[folder_of(m)] > place[own]]
        assert not later, f"{module_of(path)} imports {later}"


def test_nothing_imports_in_a_circle():
    imported = {module_of(p).removesuffix(".__init__"): set(own_imports(p)) for p in paths()}
    while leaves := [m for m, found in imported.items() if not found & imported.keys()]:
        for module in leaves:
            del imported[module]
    assert not imported, f"a circle among {sorted(imported)}"


def test_what_only_describes_a_network_does_not_import_keras():
    for path in paths():
        if folder_of(module_of(path)) in PURE:
            found = [m for m in imports(path) if m.split(".")[0] == "keras"]
            assert not found, f"{module_of(path)} imports {found}"


def test_private_keras_is_touched_in_one_module():
    for path in paths():
        if folder_of(module_of(path)) == "_keras":
            continue
        assert not [m for m in imports(path) if m.startswith("keras.src")], path
        names = {
            n.attr for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Attribute)
        }
        assert not names & set(PRIVATE), path


def test_the_command_imports_keras_only_when_a_command_runs():
    """So help and completion are quick; and it uses no private names of the library."""
    for path in sorted(COMMAND.rglob("*.py")):
        tree = ast.parse(path.read_text())
        at_once = {n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            names = [a.name for a in node.names]
            module = getattr(node, "module", None) or names[0]
            first = module.split(".")[0]
            if node in at_once:
                assert first in {*sys.stdlib_module_names, "typer", "keras_graft_cli"}, (
                    path,
                    module,
                )
            if first == "keras_graft":
                private = [n for n in (*module.split("."), *names) if n.startswith("_")]
                assert not private, (path, module, names)
            assert not module.startswith("keras.src"), (path, module)
        assert len(path.read_text().splitlines()) <= 300, path


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
        "numbers",
        "typing",
    }
    helpers = {"_arguments", "_distilling", "_factored", "_tuned"}
    shared = tuple(f"keras_graft.recipes.{name}" for name in helpers)
    shared += ("keras_graft.tables.", "keras_graft.printable.")
    found = sorted((ROOT / "recipes").glob("_[!_]*.py"))
    # An underscore before the name: in the folder's `__init__` it is the function's.
    names = keras_graft.recipes.__all__
    public = {f"_{n}" for n in names if not isinstance(getattr(keras_graft.recipes, n), type)}
    assert {p.stem for p in found} == public | helpers
    for path in found:
        assert len(path.read_text().splitlines()) < (300 if path.stem in helpers else 180), path
        for module in imports(path):
            if module.startswith("keras_graft"):
                assert module == "keras_graft" or module.startswith(shared), module
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
    long = {module_of(p): n for p in paths() if (n := len(p.read_text().splitlines())) > 400}
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
from keras_graft import testing
from keras_graft.features.engines import ray as ray_engine
from keras_graft.model import files
from keras_graft.weights import channels
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
kg.clone(kg.tie(twins, "b/kernel", "a/kernel"))
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
