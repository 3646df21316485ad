"""Values that are known without arithmetic: zeros, and constants that the stored type holds exactly."""

from __future__ import annotations

import struct

from surgeon.ops.plan import Apply, OutTensor, Zeros

_FORMATS = {"F64": "<d", "F32": "<f", "F16": "<e"}
_MOST = 1 << 24  # bytes: larger constants are made in pieces by the kernel


def plain_bytes(out: OutTensor) -> bytes | None:
    """The bytes of a small tensor with one exact value everywhere; None for any other (zeros too)."""
    source = out.source
    if not isinstance(source, Apply) or source.method != "kernel:constant" or source.inputs or out.nbytes > _MOST:
        return None
    element = _element(source.options.get("value"), out.dtype)
    return None if element is None else element * (out.nbytes // len(element))


def is_plain(out: OutTensor) -> bool:
    return isinstance(out.source, Zeros) or plain_bytes(out) is not None


def _element(value: object, dtype: str) -> bytes | None:
    if not isinstance(value, int | float):
        return None
    if dtype == "BF16":  # the upper half of a float32
        whole = _exact(value, "<f")
        return whole[2:] if whole is not None and whole[:2] == b"\0\0" else None
    return _exact(value, _FORMATS[dtype]) if dtype in _FORMATS else None


def _exact(value: float, form: str) -> bytes | None:
    try:
        raw = struct.pack(form, value)
    except (OverflowError, struct.error):
        return None
    return raw if struct.unpack(form, raw)[0] == value else None
