"""What mkdocs does for this project: pages made of files outside `docs/`, and links between them.

On GitHub the README, the changelog and the examples are files of the repository; on the site they
are pages. A link works in both: it is written for GitHub, and turned here.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path

from flowchart import svg
from mkdocs.structure.files import File, Files
from reference import pages as reference

ROOT = Path(__file__).parents[2]

PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Files of the repository that are pages, and where they lie on the site. `mapping` adds examples."""

TRACKERS = {
    "keras": "keras-team/keras",
    "tf-keras": "keras-team/tf-keras",
    "tensorflow": "tensorflow/tensorflow",
    "models": "tensorflow/models",
    "keras-vis": "raghakot/keras-vis",
    "keract": "philipperemy/keract",
    "deep-learning-models": "fchollet/deep-learning-models",
}
"""Where issues are that pages cite: `keras#16123`."""


def mapping() -> dict[str, str]:
    """Return the page of the site for each file of the repository that is one."""
    pages = dict(PAGES)
    for path in (ROOT / "docs").rglob("*.md"):
        pages[path.relative_to(ROOT).as_posix()] = path.relative_to(ROOT / "docs").as_posix()
    pages["examples/README.md"] = pages["examples"] = "examples.md"
    for path in [*(ROOT / "examples").glob("*.py"), *(ROOT / "examples").glob("notebooks/*.ipynb")]:
        name = path.relative_to(ROOT).as_posix()
        pages[name] = posixpath.splitext(name)[0] + ".md"
    return pages


def on_config(config):
    found = {title: page for page, (title, _) in reference().items()}
    _fill(config.nav, "Reference", [{title: page} for title, page in found.items()])
    names = sorted(path.name for path in (ROOT / "docs").glob("benchmarks*.md"))
    _fill(config.nav, "Benchmarks", names)
    return config


def _fill(nav: list, title: str, pages: list) -> None:
    """Put pages into the part of the navigation that has this title."""
    for item in nav:
        if isinstance(item, dict):
            ((name, inner),) = item.items()
            if name == title:
                item[name] = pages
            elif isinstance(inner, list):
                _fill(inner, title, pages)


def on_files(files: Files, config) -> Files:
    for source, page in mapping().items():
        if not source.startswith("docs/") and source != "examples":
            files.append(File.generated(config, page, content=_page(ROOT / source, source)))
    for page, (_, text) in reference().items():
        files.append(File.generated(config, page, content=text))
    return files


def _page(path: Path, source: str) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        title = path.stem.replace("_", " ").capitalize()
        return f"# {title}\n\n`{source}`\n\n```python\n{text}```\n"
    if path.suffix == ".ipynb":
        return f"{_cells(json.loads(text))}\n\nThe notebook: `{source}`.\n"
    return text


def _cells(notebook: dict) -> str:
    cells = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        cells.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    return "\n\n".join(cells)


def on_post_build(config) -> None:
    """Let the search work in pages opened from the disk, where a browser reads no JSON."""
    folder = Path(config.site_dir) / "search"
    index = (folder / "search_index.json").read_text(encoding="utf-8")
    (folder / "search_index.js").write_text(f"var __index = {index}", encoding="utf-8")


def on_page_markdown(markdown: str, page, **kwargs) -> str:
    pages = mapping()
    here = page.file.src_uri
    source = next((source for source, uri in pages.items() if uri == here), f"docs/{here}")

    def turned(match: re.Match[str]) -> str:
        words, target, anchor = match[1], match[2], match[3] or ""
        if re.match(r"[a-z]+:|$", target):
            return match[0]
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        goal = pages.get(file, file.removeprefix("docs/"))
        return f"{words}({posixpath.relpath(goal, posixpath.dirname(here) or '.')}{anchor})"

    markdown = re.sub(
        r"^```mermaid\n(.*?)^```$", lambda m: _chart(m[1]), markdown, flags=re.S | re.M
    )
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.S | re.M)
    link = re.compile(r"(!?\[[^\]]*\])\(([^)#\s]*)(#[^)\s]*)?\)")
    return "".join(p if p.startswith("```") else _issues(link.sub(turned, p)) for p in parts)


def _chart(text: str) -> str:
    return f'<div class="chart">{svg(text)}</div>\n'


def _issues(text: str) -> str:
    """Link the issues that a page cites; code stays as it is."""
    cited = re.compile(rf"(?<![\w`/-])({'|'.join(TRACKERS)})#(\d+)\b(?!`)")

    def link(match: re.Match[str]) -> str:
        return f"[{match[0]}](https://github.com/{TRACKERS[match[1]]}/issues/{match[2]})"

    return cited.sub(link, text)
