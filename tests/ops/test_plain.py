"""Plain values have the bytes that the kernel computes, or are left to it."""

from __future__ import annotations

import pytest
import torch

from surgeon.checkpoint.reader import TORCH, to_bytes
from surgeon.ops.evaluate import evaluate
from surgeon.ops.plain import is_plain, plain_bytes
from surgeon.ops.plan import Apply, Copy, OutTensor, Zeros


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
@pytest.mark.parametrize("value", [-1.0, 0.0, -0.0, 2, 1.5, 0.1, 1e-30, 65504.0, 1e300, 2.0**-126, float("inf")])
def test_bytes_are_those_of_the_kernel(dtype: str, value: float) -> None:
    source = Apply("kernel:constant", options={"value": value})
    out = OutTensor("x", dtype, (3, 5), source)
    raw = plain_bytes(out)
    expected = evaluate(source, dtype, (3, 5), {})
    exact = float(torch.tensor(value, dtype=torch.float64).to(TORCH[dtype])) == value
    assert (raw is not None) == exact == is_plain(out)
    if raw is not None:
        assert raw == bytes(to_bytes(expected))


def test_what_is_not_plain() -> None:
    constant = Apply("kernel:constant", options={"value": 1.0})
    assert plain_bytes(OutTensor("x", "F32", (4,), Zeros())) is None and is_plain(OutTensor("x", "F32", (4,), Zeros()))
    for out in (
        OutTensor("x", "F32", (4,), Copy("model", "x")),
        OutTensor("x", "I32", (4,), constant),
        OutTensor("x", "F32", (1 << 23,), constant),
        OutTensor("x", "F32", (4,), Apply("kernel:constant", options={"value": float("nan")})),
        OutTensor("x", "F32", (4,), Apply("kernel:constant", options={"value": "1"})),
        OutTensor("x", "F32", (4,), Apply("kernel:rounded", (constant,))),
    ):
        assert plain_bytes(out) is None and not is_plain(out)
