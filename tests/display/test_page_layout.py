"""Where the page puts boxes: random networks with random groups, laid out by the page's own code."""

import random

import page_scenes as scenes
import pytest

pytestmark = pytest.mark.once

LAID_OUT = """([scene, open]) => {
  const network = new Network(scene);
  open.forEach((id) => network.open.add(id));
  const boxes = network.boxes().map((id) => ({
    id, parent: network.get(id).parent, w: network.isOpen(id) ? 220 : 90 + 3 * id.length, h: 46,
    open: network.isOpen(id),
  }));
  const lines = network.lines().map(([a, b]) => [a, b]);
  const { places, paths } = Layout.layout({ boxes, lines });
  return { boxes, lines, places, paths };
}"""


def drawn(seed):
    """Return a random scene, and the groups that are open. Edges may lead in circles of groups."""
    rng = random.Random(seed)
    groups = [None]
    items = {}
    for i in range(rng.randrange(8)):
        items[f"g{i}"] = scenes.group(f"g{i}", "block", rng.choice(groups))
        groups.append(f"g{i}")
    count = rng.randrange(1, 40)
    for i in range(count):
        items[f"n{i}"] = scenes.item(f"n{i}", parent=rng.choice(groups))
    edges = [
        (f"n{rng.randrange(i)}", f"n{i}") for i in range(1, count) for _ in range(rng.randrange(3))
    ]
    return scenes.scene(items, edges), [g for g in groups[1:] if rng.random() < 0.7]


def overlap(a, b):
    apart = (
        a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
    )  # fmt: skip
    return not apart


def inside(a, b):
    return (
        b["x"] <= a["x"] + 0.5 and a["x"] + a["w"] <= b["x"] + b["w"] + 0.5
        and b["y"] <= a["y"] + 0.5 and a["y"] + a["h"] <= b["y"] + b["h"] + 0.5
    )  # fmt: skip


def test_boxes_and_lines_lie_where_they_must(opened):
    page = opened(scenes.blocks())
    for seed in range(60):
        found = page.evaluate(LAID_OUT, list(drawn(seed)))
        places = found["places"]
        assert len(places) == len(found["boxes"])
        parents = {box["id"]: box["parent"] for box in found["boxes"]}
        for a, parent in parents.items():
            assert parent is None or inside(places[a], places[parent]), (seed, a)
            for b, other in parents.items():
                assert a == b or parent != other or not overlap(places[a], places[b]), (seed, a, b)
        for (a, b), points in zip(found["lines"], found["paths"], strict=True):
            start, stop = places[a], places[b]
            if stop["y"] <= start["y"] + start["h"]:
                continue  # backwards
            (x, y), (u, v) = points[0], points[-1]
            assert y == start["y"] + start["h"] and start["x"] <= x <= start["x"] + start["w"]
            assert v == stop["y"] and stop["x"] <= u <= stop["x"] + stop["w"], (seed, a, b)
            assert all(
                before[1] <= after[1] + 1 for before, after in zip(points, points[1:], strict=False)
            )
