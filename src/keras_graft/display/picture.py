"""`Picture`: the text of a file that shows a network, and how a notebook shows it."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path

from keras_graft.errors import FileError
from keras_graft.printable import quoted


@dataclass(frozen=True)
class Picture:
    """A picture of a network or a report: what `kg.show` returns.

    `str(picture)` is the text of the file. A notebook shows the picture itself.

    Attributes:
        text: The text of the file.
        format: `"html"`, `"svg"`, `"dot"`, `"text"` or `"model_explorer"`.
    """

    text: str
    format: str

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return self.text if self.format == "text" else f"<Picture: {self.format}, {self._size()}>"

    def _size(self) -> str:
        return f"{len(self.text.encode()) / 1000:,.1f} kB"

    def save(self, path: str | Path) -> Path:
        """Write the picture to a file, and return its path.

        Args:
            path: The file. One that is there is replaced.

        Raises:
            FileError: If it cannot be written.
        """
        path = Path(path)
        try:
            path.write_text(self.text, encoding="utf-8")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise FileError(
                f"The picture cannot be written to {quoted(path)}: {reason}. Name a file in a "
                'folder that exists: picture.save("network.html").'
            ) from error
        return path

    def _repr_html_(self) -> str:
        if self.format == "html":
            return framed(self.text)
        if self.format == "svg":
            return self.text
        return f"<pre>{html.escape(self.text)}</pre>"


def framed(page: str) -> str:
    """Return a page for a notebook, in a frame that can run its script and reach nothing else."""
    style = "width:100%;height:640px;border:1px solid #8885"
    return element("iframe", sandbox="allow-scripts", title="network", style=style, srcdoc=page)


def element(tag: str, inside: str = "", **attributes: object) -> str:
    """Return an element of HTML or SVG; `inside` is code already, attributes are escaped.

    A trailing underscore of an attribute's name is left out, others become hyphens.

    >>> element("text", "a &amp; b", class_="t", aria_label='"')
    '<text class="t" aria-label="&quot;">a &amp; b</text>'
    """
    said = "".join(
        " " + name.rstrip("_").replace("_", "-") + '="' + html.escape(str(value)) + '"'
        for name, value in attributes.items()
        if value != ""
    )
    if tag in ("path", "rect"):  # in SVG, where such a tag may end itself
        return f"<{tag}{said}/>"
    return f"<{tag}{said}>{inside}</{tag}>"
