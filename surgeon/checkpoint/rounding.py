"""From float64 to a stored type with one rounding.

torch converts float64 to bfloat16 or float16 by way of float32 and so rounds twice; here the step to float32 rounds
to odd, after which the second rounding gives what a single one would (Boldo and Melquiond, 2008).
"""

from __future__ import annotations

import torch
from torch import Tensor


def round_once(values: Tensor, dtype: torch.dtype) -> Tensor:
    """`values` in `dtype`, rounded to nearest even exactly once; integers are taken only to integers."""
    if values.dtype == dtype:
        return values
    if values.dtype == torch.float64 and dtype == torch.bfloat16:
        return _to_bfloat16(values)
    if values.dtype == torch.float64 and dtype == torch.float16:
        return _to_odd_float32(values).to(dtype)
    if values.dtype.is_floating_point != dtype.is_floating_point:
        raise TypeError(f"{values.dtype} is not rounded to {dtype}")
    return values.to(dtype)


def _to_bfloat16(values: Tensor) -> Tensor:
    """Rounding twice differs from rounding once only where the first one lands in the middle of two values of the
    second: the lower half of the float32 is 0x8000. Those few are rounded to odd first."""
    nearest = values.to(torch.float32)
    found = nearest.to(torch.bfloat16)
    middle = (nearest.view(torch.int32) & 0xFFFF) == 0x8000
    if bool(middle.any()):
        found[middle] = _to_odd_float32(values[middle]).to(torch.bfloat16)
    return found


def _to_odd_float32(values: Tensor) -> Tensor:
    nearest = values.to(torch.float32)
    back = nearest.to(torch.float64)
    bits = nearest.view(torch.int32)
    bits = bits - (back.abs() > values.abs()).to(torch.int32)  # towards zero
    return (bits | (back != values).to(torch.int32)).view(torch.float32)  # sticky last bit where inexact


def round_stochastically(values: Tensor, dtype: torch.dtype, drawn: Tensor) -> Tensor:
    """float64 `values` in `dtype`: the neighbour above where `drawn`, uniform in [0, 1), is below the distance from
    the one below in units of the distance between the two; exact values stay as they are."""
    nearest = round_once(values, dtype)
    at = nearest.double()
    side = torch.where(values > at, torch.inf, -torch.inf).to(dtype)
    other = torch.where(values == at, nearest, torch.nextafter(nearest, side)).double()
    low, high = torch.minimum(at, other), torch.maximum(at, other)
    share = torch.where(high > low, (values - low) / (high - low), 0.0)
    return torch.where(drawn < share, high, low).to(dtype)


def uniform_at(seed: int, start: int, count: int) -> Tensor:
    """float64 [count]: the numbers of one endless sequence in [0, 1) from `start` on, whoever asks for which part."""
    import numpy as np

    block, skip = divmod(start, 4)  # Philox gives four numbers a step of its counter
    bits = np.random.Philox(key=seed, counter=block)
    return torch.from_numpy(np.random.Generator(bits).random(skip + count)[skip:].copy())
