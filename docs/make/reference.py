"""The pages of the API reference: every public name of the package, in the groups of `__all__`.

The sources are read, not imported: no page needs Keras.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "src" / "keras_graft"
GROUPS = {
    "look": ("Look", "What a network is made of, where it can be cut, and what an edit did."),
    "take apart, join": ("Take apart and join", "Parts of a network as models, and back."),
    "edit": ("Edit", "Each gives a new model. The donor stays as it was."),
    "weights": ("Weights", "Copies, shared layers, ties, and weights from elsewhere."),
    "for training": ("Train", "What trains, and at which learning rate."),
    "pictures": ("Pictures", "A network, an edit or a report, to look at."),
    "what was done": ("Steps", "What a model was made by: to read, keep and replay."),
    "adapters": ("Adapters", "LoRA on any kernel."),
    "results": ("Results", "What the verbs return, besides models."),
    "errors and warnings": ("Errors", "All errors are `GraftError`s."),
}
"""The comments in `__all__`, with a title and a sentence; another comment is its own title."""
MODULES = {
    "features": ("Features", "`kg.features`: a frozen trunk that runs once."),
    "recipes": ("Recipes", "`kg.recipes`: whole jobs, written with the public verbs alone."),
    "resize": ("Resize rules", "`kg.resize`: rules for `kg.transplant(..., resize=...)`."),
    "layers": ("Layers", "`kg.layers`: layers that the package adds."),
    "testing": ("Testing", "`keras_graft.testing`: assertions for tests of your own."),
}


def pages() -> dict[str, tuple[str, str]]:
    """Return the title and the Markdown of each page, by its path on the site."""
    found: dict[str, tuple[str, str]] = {}
    overview = [
        "# Reference\n\nEvery public name, and what it does. Every function has an example.\n"
    ]
    for title, sentence, module, names in sections():
        if not names:
            continue
        path = f"reference/{re.sub('[^a-z]+', '-', title.lower())}.md"
        shown = "\n\n".join(f"::: {module}.{name}" for name in names)
        found[path] = title, f"# {title}\n\n{sentence}\n\n{shown}\n"
        rows = [f"\n## {title}\n\n| Name | What it does |\n| --- | --- |"]
        short = (
            module.replace("keras_graft", "kg", 1) if module != "keras_graft.testing" else module
        )
        for name in names:
            link = f"[`{short}.{name}`]({path.removeprefix('reference/')}#{module}.{name})"
            rows.append(f"| {link} | {_summary(module, name)} |")
        overview.append("\n".join(rows) + "\n")
    return {"reference/index.md": ("Reference", "\n".join(overview)), **found}


def sections() -> list[tuple[str, str, str, list[str]]]:
    """Return title, sentence, module and names of each page, in the order of `__all__`."""
    text = (PACKAGE / "__init__.py").read_text(encoding="utf-8")
    listed = text.partition("__all__ = [")[2].partition("]")[0]
    found = []
    for part in re.split(r"^ *# *", listed, flags=re.M)[1:]:
        comment, _, names = part.partition("\n")
        title, sentence = GROUPS.get(comment.strip(), (comment.strip().capitalize(), ""))
        kept = [name for name in re.findall(r'"(\w+)"', names) if name not in MODULES]
        found.append((title, sentence, "keras_graft", kept))
    for module, (title, sentence) in MODULES.items():
        found.append((title, sentence, f"keras_graft.{module}", public(f"keras_graft.{module}")))
    return found


def public(module: str) -> list[str]:
    """Return the public names of a module: its `__all__`, or its functions."""
    tree = _tree(_file(module))
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return ast.literal_eval(node.value)
    return [n.name for n in tree.body if isinstance(n, ast.FunctionDef) and n.name[0] != "_"]


def _summary(module: str, name: str) -> str:
    """Return the first line of a docstring, from the file that defines the name."""
    tree = _tree(_file(module))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and any(a.name == name for a in node.names):
            return _summary(node.module or module, name)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return (ast.get_docstring(node) or "").partition("\n")[0].replace("|", "\\|")
    return ""


def _file(module: str) -> Path:
    if module == "keras_graft.resize":
        module = "keras_graft.weights.resize"
    path = PACKAGE.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))
