"""How soon the page of `kg.show` can be used, in a browser: folded, and after "Open all".

    KERAS_BACKEND=torch python benchmarks/show.py            # writes docs/benchmarks-show.md

Folded: from opening the file until the picture is painted. Unfolded: from the click until it is painted.
The median of three. Graphics are drawn by the processor, as in most continuous integration.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import page as doc
from keras import layers
from playwright.sync_api import sync_playwright

from keras_graft.display.page import page
from keras_graft.display.scene import scene
from keras_graft.tables import table

CHROMIUM = "/usr/bin/chromium"
ROUNDS = 3
PAINTED = "() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))"
HEAD = """
# How soon a picture can be used

The page of `kg.show`, opened from a file in headless Chromium without a graphics card, by
`benchmarks/show.py`. Folded: seconds from opening the file until the picture is painted. Unfolded: seconds
from a click on "Open all" until all boxes are painted. Medians of three. The file is the whole page.
"""


def transformer(blocks: int = 32, width: int = 64) -> keras.Model:
    """Return a language model of `blocks` blocks."""
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    x = layers.Embedding(1000, width, name="embedding")(tokens)
    for i in range(blocks):
        y = layers.LayerNormalization(name=f"block_{i}_norm1")(x)
        y = layers.MultiHeadAttention(4, width // 4, name=f"block_{i}_attention")(y, y)
        x = layers.Add(name=f"block_{i}_add1")([x, y])
        y = layers.LayerNormalization(name=f"block_{i}_norm2")(x)
        y = layers.Dense(4 * width, activation="gelu", name=f"block_{i}_up")(y)
        y = layers.Dense(width, name=f"block_{i}_down")(y)
        x = layers.Add(name=f"block_{i}_add2")([x, y])
    x = layers.LayerNormalization(name="norm")(x)
    return keras.Model(tokens, layers.Dense(1000, name="head")(x), name="transformer")


MODELS: dict[str, Callable[[], keras.Model]] = {
    "ResNet50": lambda: keras.applications.ResNet50(weights=None),
    "NASNetLarge": lambda: keras.applications.NASNetLarge(weights=None),
    "transformer of 32 blocks": transformer,
}


def measured(browser: Any, address: str) -> tuple[float, float, int, int]:
    """Return seconds folded and unfolded, and how many boxes are seen then."""
    tab = browser.new_page(viewport={"width": 1400, "height": 900})
    start = time.perf_counter()
    tab.goto(address)
    tab.wait_for_selector("html[data-ready=yes]")
    tab.evaluate(PAINTED)
    folded = time.perf_counter() - start
    few = tab.locator("#picture [data-id]").count()
    start = time.perf_counter()
    tab.get_by_role("button", name="Open all").click()
    tab.wait_for_selector("html[data-busy=no]")
    tab.evaluate(PAINTED)
    unfolded = time.perf_counter() - start
    many = tab.locator("#picture [data-id]").count()
    tab.close()
    return folded, unfolded, few, many


def main() -> None:
    """Measure every model and write the page."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--no-first-run"]
        )
        for name, make in MODELS.items():
            start = time.perf_counter()
            model = make()
            made = time.perf_counter()
            text = page(scene(model))
            took = time.perf_counter() - made
            path = Path(folder) / "page.html"
            path.write_text(text, encoding="utf-8")
            runs = [measured(browser, path.as_uri()) for _ in range(ROUNDS)]
            folded, unfolded = (statistics.median(run[i] for run in runs) for i in (0, 1))
            row = [
                name, f"{took:.2f}", f"{len(text.encode()) / 1000:.0f}", runs[0][2], f"{folded:.2f}",
                runs[0][3], f"{unfolded:.2f}",
            ]  # fmt: skip
            print(*row, f"(the model took {made - start:.1f} s)", flush=True)
            rows.append(row)
        browser.close()
    head = ["model", "seconds to write", "kB", "boxes", "folded", "boxes", "unfolded"]
    doc.write("benchmarks-show.md", HEAD, f"```\n{table(head, rows)}\n```")


if __name__ == "__main__":
    main()
