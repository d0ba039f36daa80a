"""Numbers by epoch as a drawing: an SVG that needs nothing else."""

from __future__ import annotations

import html
import math

from keras_graft.printable import printable

_WIDTH, _HEIGHT, _EDGE = 330, 160, 44
_COLORS = ("#3b6fb5", "#d9822b")
_DOTS = 12
"""The most epochs that are drawn with a dot each."""


def curves(title: str, lines: dict[str, list[float]]) -> str:
    """Return a drawing of the values of each epoch; an empty text if there are no numbers.

    Args:
        title: What the numbers are.
        lines: The numbers for training and, as `"val_..."`, for validation.
    """
    values = [v for line in lines.values() for v in line if math.isfinite(v)]
    if not values:
        return ""
    low, high = min(values), max(values)
    high = high if high > low else low + 1.0
    longest = max(map(len, lines.values()))

    def place(i: int, value: float) -> tuple[str, str]:
        x = _EDGE + i * (_WIDTH - _EDGE - 8) / max(longest - 1, 1)
        y = _HEIGHT - 22 - (value - low) * (_HEIGHT - 48) / (high - low)
        return f"{x:.1f}", f"{y:.1f}"

    drawn = [_text(printable(title), _EDGE, 14, font_weight="bold")]
    digits = next((d for d in (3, 4, 5) if f"{low:.{d}g}" != f"{high:.{d}g}"), 3)
    for value, y in ((high, 30), (low, _HEIGHT - 20)):
        drawn.append(_text(f"{value:.{digits}g}", _EDGE - 4, y, text_anchor="end"))
    for number, (name, line) in enumerate(lines.items()):
        color = _COLORS[number % len(_COLORS)]
        places = [place(i, v) for i, v in enumerate(line) if math.isfinite(v)]
        points = " ".join(map(",".join, places))
        drawn.append(_tag("polyline", points=points, fill="none", stroke=color, stroke_width=2))
        for x, y in places if len(line) <= _DOTS else ():
            drawn.append(_tag("circle", cx=x, cy=y, r=2.5, fill=color))
        what = "validation" if name.startswith("val_") else "training"
        drawn.append(_text(what, _EDGE + 96 * number, _HEIGHT - 4, fill=color))
    return _tag(
        "svg", "".join(drawn), xmlns="http://www.w3.org/2000/svg", width=_WIDTH, height=_HEIGHT,
        role="img", aria_label=printable(f"{title} by epoch"), font_family="sans-serif",
        font_size=11, fill="#888",
    )  # fmt: skip


def _text(text: str, x: float, y: float, **attributes: object) -> str:
    return _tag("text", html.escape(text), x=x, y=y, **attributes)


def _tag(name: str, inside: str = "", **attributes: object) -> str:
    """Return an element; an underscore in the name of an attribute is a hyphen."""
    said = [k.replace("_", "-") + '="' + html.escape(str(v)) + '"' for k, v in attributes.items()]
    return f"<{name} {' '.join(said)}>{inside}</{name}>"
