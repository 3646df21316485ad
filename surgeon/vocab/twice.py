"""A window of text written twice, in new tokens and in old ones, with the positions that say the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Twice(NamedTuple):
    """new, old: ids after the start. compared_new, compared_old: 1 where positions are compared, as many in both: from
    the first new token on every token, and of a token's old pieces the last."""

    new: list[int]
    old: list[int]
    compared_new: list[int]
    compared_old: list[int]


def twice(window: Sequence[int], pieces: Mapping[int, Sequence[int]], start: Sequence[int]) -> Twice:
    """`window` in new ids; `pieces` of each new id."""
    found = Twice(list(start), list(start), [0] * len(start), [0] * len(start))
    seen = 0
    for token in window:
        held = pieces.get(token, (token,))
        seen = int(seen or token in pieces)
        found.new.append(token)
        found.compared_new.append(seen)
        found.old.extend(held)
        found.compared_old.extend([0] * (len(held) - 1) + [seen])
    return found


def fitting(window: Sequence[int], pieces: Mapping[int, Sequence[int]], room: int | None) -> list[int]:
    """The longest beginning of `window` whose old form has at most `room` tokens (None: all of it)."""
    total, found = 0, []
    for token in window:
        total += len(pieces.get(token, (token,)))
        if room is not None and total > room:
            break
        found.append(token)
    return found


def padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """int64 [B, S]; `value` stands behind the shorter rows, where a causal model does not see it."""
    size = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (size - len(row))] for row in rows])
