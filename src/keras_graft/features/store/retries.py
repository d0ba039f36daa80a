"""Calls to a file system far away, made again where a moment later they may succeed."""

from __future__ import annotations

import errno
import random
import re
import time
from collections.abc import Callable
from typing import Any

WAITS = (0.2, 1.0, 4.0)
"""Seconds before each further try, up to half as long again: so many processes that are refused at
the same time do not come back at the same time."""
_NUMBERS = {
    errno.EAGAIN, errno.EBUSY, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTUNREACH,
    errno.EIO, errno.ENETUNREACH, errno.EPIPE, errno.ETIMEDOUT, getattr(errno, "EREMOTEIO", errno.EIO),
}  # fmt: skip
"""What s3fs raises for "slow down" is EBUSY, and for an error inside the store EREMOTEIO."""
_CODES = {408, 429, 500, 502, 503, 504}
"""What HTTP answers where a later try may succeed."""
_KINDS = re.compile(
    "Timeout|Connect|Endpoint|HTTPClientError|Throttl|SlowDown|IncompleteRead|Payload|Disconnect"
)


def passing(error: BaseException) -> bool:
    """Whether the same call may succeed a moment later.

    >>> passing(ConnectionResetError()), passing(PermissionError())
    (True, False)
    """
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    code = getattr(error, "status", getattr(error, "code", None))
    if isinstance(code, int) and code in _CODES:
        return True
    number = getattr(error, "errno", None)
    if isinstance(error, OSError) and number is not None:
        return number in _NUMBERS
    if isinstance(error, FileNotFoundError | FileExistsError | PermissionError):
        return False
    return any(_KINDS.search(kind.__name__) for kind in type(error).__mro__)


def again(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return what a call returns; make it again, later and later, while its errors may pass."""
    for wait in WAITS:
        try:
            return call(*args, **kwargs)
        except Exception as error:
            if not passing(error):
                raise
        time.sleep(wait * (1 + random.random() / 2))
    return call(*args, **kwargs)
