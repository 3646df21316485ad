"""What is merged must be finite: the model that is not is named, else the type that does not hold the values."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from surgeon.checkpoint.header import FLOATS
from surgeon.checkpoint.reader import read
from surgeon.ops.evaluate import Evaluator
from surgeon.ops.plan import Apply, OutTensor, Source, leaves
from surgeon.ops.rowwise import chunk_rows
from surgeon.ops.sum_piece import refuse_not_finite, refuse_overflow


def is_merged(source: Source) -> bool:
    """Whether it is computed by a method of merging, alone or within another computation."""
    return isinstance(source, Apply) and (source.method == "kernel:merge" or any(map(is_merged, source.inputs)))


def check_merged(out: OutTensor, stored: Tensor, evaluator: Evaluator) -> None:
    """Raises SurgeonError where what is stored of a merged tensor is not finite."""
    if is_merged(out.source) and not bool(torch.isfinite(stored).all()):
        refuse(out.source, out, stored, evaluator)


def refuse(source: Source, out: OutTensor, stored: Tensor, evaluator: Evaluator) -> None:
    """Raises SurgeonError on NaN or infinity in what the source is computed from, wherever it is there: one element
    may spoil a whole tensor. Else on infinity in what is stored."""
    for leaf in leaves(source):
        held = evaluator.stored(leaf)
        if held.dtype not in FLOATS:
            continue
        num, width = (held.shape[0], math.prod(held.shape[1:])) if held.shape else (1, 1)
        step = chunk_rows(held.shape) if held.shape else 1
        for first in range(0, num, step):
            values = read(held, (first, min(first + step, num)) if held.shape else None).double().numpy()
            refuse_not_finite(values, str(evaluator.inputs[leaf.model].path), leaf.tensor, first * width)
    refuse_overflow(stored.double().numpy(), out.name, out.dtype)
