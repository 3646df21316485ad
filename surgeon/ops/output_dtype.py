"""The stored type that a person asks for, and sources that give it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgeon.checkpoint.header import FLOATS
from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import UsageError, did_you_mean
from surgeon.ops.plan import Apply, Copy, OutTensor, Rows, Source, leaves

_CODES = {"float64": "F64", "float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_WORDS = {code: word for word, code in _CODES.items()}


def dtype_code(text: str | None) -> str | None:
    """The safetensors code of "float32", "bfloat16", ... (codes are taken too); None stays None."""
    if text is None or text in FLOATS:
        return text
    if text not in _CODES:
        raise UsageError(f"there is no dtype {text!r} for weights", "--dtype", did_you_mean(text, _CODES))
    return _CODES[text]


def with_dtype(config: Mapping[str, Any], code: str | None) -> dict[str, Any]:
    """The configuration saying the output's dtype."""
    if code is None:
        return dict(config)
    key = "torch_dtype" if "torch_dtype" in config and "dtype" not in config else "dtype"
    return {**config, key: _WORDS[code]}


def fitted(
    name: str,
    source: Source,
    checkpoint: Checkpoint,
    code: str | None,
    inputs: Mapping[str, Checkpoint],
    like: str | None = None,
) -> OutTensor:
    """An output of the shape of the checkpoint's tensor `like` (by default of its own name); copies of another stored
    type go through one rounding."""
    stored = checkpoint.tensor(like or name)
    dtype = code or stored.dtype
    copied = isinstance(source, Copy | Rows)
    if copied and any(inputs[c.model].tensor(c.tensor).dtype != dtype for c in leaves(source)):
        source = Apply("kernel:convert", (source,))
    return OutTensor(name, dtype, stored.shape, source)
