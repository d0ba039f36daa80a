"""What DESIGN says of the rooms, held by reading the imports."""

import ast
from pathlib import Path

import keras_graft

ROOT = Path(keras_graft.__file__).parent
PURE = [
    "errors", "naming", "node", "index", "graph", "flow", "select", "nest", "subgraph", "cuts",
    "display/text",
]  # fmt: skip


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_pure_rooms_do_not_import_keras():
    for room in PURE:
        found = [m for m in imports(ROOT / f"{room}.py") if m.split(".")[0] == "keras"]
        assert not found, f"{room} imports {found}"


def test_private_keras_is_touched_in_one_file():
    for path in ROOT.rglob("*.py"):
        if path.name != "_keras.py":
            assert not [m for m in imports(path) if m.startswith("keras.src")], path


def test_all_is_what_is_exported():
    public = {n for n, v in vars(keras_graft).items() if not n.startswith("_") and callable(v)}
    assert public == set(keras_graft.__all__)
