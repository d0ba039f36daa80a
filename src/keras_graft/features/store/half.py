"""float32 to float16, to the bit as NumPy does it, and as fast whatever the numbers are.

NumPy raises a processor flag for every number below 6e-5 that loses digits, which takes 40 times as
long as to convert it, and features are full of such numbers behind a swish. This is the way of
"float->half variants" by F. Giesen: the exponent is moved by integers, and what is too small for it
is rounded by adding 0.5, whose last binary digit is the last that a float16 has.
"""

from __future__ import annotations

import numpy as np

_BITS = np.uint32
_CHUNK = 1 << 15  # numbers: what a core's own cache holds several times


def half(array: np.ndarray) -> np.ndarray | None:
    """Return float32 as float16; None if a number is beyond it, infinite, or none.

    Args:
        array: C-contiguous float32, of any shape.
    """
    out = np.empty(array.shape, np.float16)
    bits, halves = array.reshape(-1).view(_BITS), out.reshape(-1).view(np.uint16)
    room = np.empty((3, min(bits.size, _CHUNK)), _BITS)
    for start in range(0, bits.size, _CHUNK):
        given = bits[start : start + _CHUNK]
        size, normal, small = room[:, : given.size]
        np.bitwise_and(given, _BITS(0x7FFFFFFF), out=size)
        if size.max() > 0x477FE000:  # 65504
            return None
        # Rounds to even: half of the last digit less one, and one if what stays is odd.
        np.right_shift(size, _BITS(13), out=normal)
        np.bitwise_and(normal, _BITS(1), out=normal)
        np.add(normal, size, out=normal)
        np.add(normal, _BITS(0xC8000FFF), out=normal)  # 112 less in the exponent
        np.right_shift(normal, _BITS(13), out=normal)
        np.add(size.view(np.float32), np.float32(0.5), out=small.view(np.float32))
        np.subtract(small, _BITS(0x3F000000), out=small)
        np.copyto(normal, small, where=size < 0x38800000)  # 2 ** -14
        np.bitwise_xor(given, size, out=size)  # the sign
        np.right_shift(size, _BITS(16), out=size)
        np.bitwise_or(normal, size, out=normal)
        halves[start : start + _CHUNK] = normal
    return out
