"""Arrays, numbers, words, lists and maps as bytes, and back: what processes and caches exchange.

Reading builds nothing but these, whoever wrote the bytes, and no array is larger than the bytes it
came in: a pickle would run whatever a planted file says.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np

ARRAY = 1  # the extension type of an array
DTYPES = ("<f8", "<f4", "<i8", "<i4", "|i1", "|u1", "|b1")


def encode(value: Any) -> bytes:
    """Bytes of nested maps, lists, tuples, numbers, text, None and arrays."""
    return _ENCODER.encode(value)


def decode(data: bytes) -> Any:
    """What was encoded, tuples as lists; a :class:`ValueError` where the bytes are not that."""
    try:
        return _DECODER.decode(data)
    except (msgspec.DecodeError, TypeError, RecursionError) as error:
        raise ValueError(f"not data of the suite: {error}") from None


def _packed(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        if value.dtype.str not in DTYPES:
            raise TypeError(f"an array of {value.dtype} is not exchanged")
        head = (value.dtype.str, value.shape, np.ascontiguousarray(value).tobytes())
        return msgspec.msgpack.Ext(ARRAY, msgspec.msgpack.encode(head))
    raise TypeError(f"a {type(value).__name__} is not exchanged")


def _unpacked(code: int, data: memoryview) -> Any:
    if code != ARRAY:
        raise ValueError(f"extension {code} is none of the suite's")
    dtype, shape, content = _HEAD.decode(data)
    if dtype not in DTYPES or any(n < 0 for n in shape):
        raise ValueError(f"an array of {dtype!r} and shape {shape} is none of the suite's")
    if math.prod(shape) * np.dtype(dtype).itemsize != len(content):
        raise ValueError(f"an array of shape {shape} in {len(content)} bytes")
    return np.frombuffer(content, dtype).reshape(shape).copy()


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_packed)
_DECODER = msgspec.msgpack.Decoder(ext_hook=_unpacked)
_HEAD = msgspec.msgpack.Decoder(tuple[str, tuple[int, ...], bytes])
