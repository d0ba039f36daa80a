"""Turn what file systems raise into errors that name the place and say what to do."""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable
from typing import Any

from keras_graft.errors import FeatureError

_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_RIGHTS = {errno.EACCES, errno.EPERM, errno.EROFS}
_NAMES = {errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP}


def way_out(error: BaseException) -> str:
    """Return what the user can do about an error of a file system."""
    number = getattr(error, "errno", None)
    if number in _FULL:
        return "Make room, and call again: what was written before is kept."
    if number in _RIGHTS or isinstance(error, PermissionError):
        return "Give another place, or get permission to use this one."
    if isinstance(error, IsADirectoryError | NotADirectoryError | FileExistsError):
        return (
            "A store is a folder of files: give another folder, or move away the file of this name."
        )
    if number in _NAMES or isinstance(error, ValueError):
        return "Give another path."
    if isinstance(error, FileNotFoundError):
        return "Is it still there? Give the path of a folder that exists, or of a new one."
    return "Once the place can be reached, call again: what was written before is kept."


def said(error: BaseException, masked: Callable[[str], str] = str) -> str:
    """Return the kind of an error and what it says, in one short line, without secrets."""
    text = masked(str(getattr(error, "strerror", None) or error))
    return f"{type(error).__name__}: {' '.join(text.split())[:300].rstrip('.')}"


def guarded(cannot: str) -> Callable[[Any], Any]:
    """Turn what a file system raises in a method of a folder into a FeatureError.

    The folder says which errors those are (`failures`), and which part of them may be shown
    (`shown`). The first error is chained only if it holds no secrets.

    Args:
        cannot: What failed; `{}` is the method's first argument.
    """

    def wrap(method: Any) -> Any:
        @functools.wraps(method)
        def run(self: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return method(self, *args, **kwargs)
            except (FeatureError, MemoryError):
                raise
            except self.failures as error:
                what = cannot.format(repr(args[0]) if args else "")
                wrong = FeatureError(f"{self}: {what}: {said(error, self.shown)}. {way_out(error)}")
                cause = None if self.secrets else error
            # Outside of `except`: else Python would chain, and print, what holds the secrets.
            raise wrong from cause

        return run

    return wrap
