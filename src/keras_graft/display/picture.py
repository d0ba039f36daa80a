"""`Picture`: the text of a file that shows a network, and how a notebook shows it."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path

from keras_graft.errors import FileError
from keras_graft.printable import quoted

_SUFFIXES = {
    ".html": "html", ".htm": "html", ".svg": "svg", ".dot": "dot", ".gv": "dot", ".txt": "text",
    ".json": "model_explorer",
}  # fmt: skip


def format_of(path: str | Path) -> str | None:
    """Return the kind of picture that the name of a file says; None if it says none.

    Raises:
        FileError: If it is an image of points, such as PNG.

    >>> format_of("net.svg"), format_of("net")
    ('svg', None)
    """
    suffix = Path(path).suffix.lower()
    if suffix in (".png", ".jpg", ".jpeg", ".gif", ".pdf", ".webp"):
        raise FileError(
            f"A picture of kind {suffix[1:].upper()} cannot be written. For an image give a name that ends in "
            '.svg; a browser prints it, or the page, to a file: kg.show(model, path="network.svg").'
        )
    return _SUFFIXES.get(suffix)


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
            FileError: If it cannot be written, or if its name is that of another kind of file.
        """
        path = Path(path)
        named = format_of(path)
        if named is not None and named != self.format:
            raise FileError(
                f"The picture is {self.format}, and {quoted(path)} has the name of another kind of file: "
                f"make that kind, kg.show(model, as_={quoted(named)}), or give another name."
            )
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
