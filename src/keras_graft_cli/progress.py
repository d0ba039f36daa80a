"""What is being done, on a terminal, when it takes longer than a second."""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import Any


class Progress:
    """A line on stderr that says what is being done, with the seconds; only on a terminal.

    Args:
        after: After how many seconds it appears.
    """

    def __init__(self, after: float = 1.0) -> None:
        self._text = "Starting"
        self._after = after
        self._stream = sys.stderr
        self._status: Any = None
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()
        self._done = False

    def __enter__(self) -> Progress:
        if self._stream.isatty():
            self._timer = threading.Timer(self._after, self._start)
            self._timer.daemon = True
            self._timer.start()
        return self

    def say(self, text: str) -> None:
        """Say what is being done now."""
        self._text = text
        with self._lock:
            if self._status is not None:
                self._status.update(text)

    def stop(self) -> None:
        """Take the line away: the end, or something that tells of itself comes."""
        if self._timer is not None:
            self._timer.cancel()
        with self._lock:
            self._done = True
            if self._status is not None:
                self._status.stop()
                self._status = None

    def _start(self) -> None:
        from rich.console import Console
        from rich.text import Text

        with self._lock:
            if not self._done:
                console = Console(file=self._stream)
                self._status = console.status(Text(self._text))
                self._status.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        self.stop()
