"""How much memory this process may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def memory(groups: Path = _GROUPS, own: Path = _OWN) -> int:
    """Return the bytes of memory of the machine, or of the container if it may use less.

    Args:
        groups: Where Linux shows control groups.
        own: The file that says in which groups this process is.

    >>> memory() > 0
    True
    """
    limits = [*_limits(groups, own)]
    try:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):  # Windows
        limits.append(8 << 30)
    return min(limits)


def _limits(groups: Path, own: Path) -> Iterator[int]:
    """Yield the limits of this process's control groups and of those around them."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        lines = []
    places = {(groups, "memory.max"), (groups / "memory", "memory.limit_in_bytes")}
    for line in lines:
        number, _, rest = line.partition(":")
        kinds, _, path = rest.partition(":")
        if number == "0":
            top, name = groups, "memory.max"
        elif "memory" in kinds.split(","):
            top, name = groups / "memory", "memory.limit_in_bytes"
        else:
            continue
        parts = Path(path.strip("/")).parts
        places.update((top.joinpath(*parts[:n]), name) for n in range(len(parts) + 1))
    for folder, name in places:
        try:
            text = (folder / name).read_text().strip()
        except OSError:
            continue
        if text.isdigit():  # or "max"
            yield int(text)
