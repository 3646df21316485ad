"""What differs between two checkpoints; streamed, in float64."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from surgeon.arch.family import family_of
from surgeon.checkpoint.header import FLOATS, StoredTensor
from surgeon.checkpoint.index import Checkpoint
from surgeon.measure.products import Products
from surgeon.progress import SILENT, Progress


def diff(a: Path, b: Path, progress: Progress = SILENT) -> dict[str, Any]:
    """Names only in one, other shapes and dtypes; per unit the norm of b - a, relative to a, and the cosine of both.

    `identical` is of bytes: names, dtypes, shapes and every element. Raises SurgeonError on a damaged checkpoint.
    """
    left, right = Checkpoint.open(a), Checkpoint.open(b)
    both = [name for name in left.tensors if name in right.tensors]
    alike = [name for name in both if left.tensors[name].shape == right.tensors[name].shape]
    unit_of = _units(left)
    units: dict[str, Products] = {}
    total = Products(3)
    same = True
    with progress.task("comparing", sum(left.tensors[n].nbytes for n in alike), "bytes") as advance:
        for name in alike:
            one, other = left.tensors[name], right.tensors[name]
            same &= one.dtype == other.dtype
            found = Products(3)
            for x, y in _chunks(one, other):
                same &= one.dtype != other.dtype or _equal_bytes(x, y)
                if one.dtype in FLOATS and other.dtype in FLOATS:
                    x, y = x.double(), y.double()
                    found.add(x, [x, y, y - x])
            units.setdefault(unit_of[name], Products(3)).merge(found)
            total.merge(found)
            advance(one.nbytes)
    only_a = [name for name in left.tensors if name not in right.tensors]
    only_b = [name for name in right.tensors if name not in left.tensors]
    shapes = [
        f"{n}: {list(left.tensors[n].shape)} and {list(right.tensors[n].shape)}" for n in both if n not in set(alike)
    ]
    dtypes = [
        f"{n}: {left.tensors[n].dtype} and {right.tensors[n].dtype}"
        for n in alike
        if left.tensors[n].dtype != right.tensors[n].dtype
    ]
    return {
        "identical": same and not (only_a or only_b or shapes),
        "only_a": only_a,
        "only_b": only_b,
        "shapes": shapes,
        "dtypes": dtypes,
        "total": total.difference(),
        "units": [{"unit": unit} | sums.difference() for unit, sums in units.items()],
    }


def _units(checkpoint: Checkpoint) -> dict[str, str]:
    """Tensor name -> block and part; the plain name where there is no architecture (an adapter)."""
    if "model_type" not in checkpoint.config:
        return {name: name for name in checkpoint.tensors}
    family = family_of(checkpoint)
    units = {name: family.unit(name) for name in checkpoint.tensors}
    return {n: u.part if u.block is None else f"{u.block}.{u.part}" for n, u in units.items()}


def _chunks(one: StoredTensor, other: StoredTensor) -> Iterator[tuple[Any, Any]]:
    from surgeon.checkpoint.reader import read
    from surgeon.ops.rowwise import chunk_rows

    if not one.shape:
        yield read(one), read(other)
        return
    step = chunk_rows(one.shape)
    for start in range(0, one.shape[0], step):
        rows = (start, min(start + step, one.shape[0]))
        yield read(one, rows), read(other, rows)


def _equal_bytes(x: Any, y: Any) -> bool:
    import torch

    return torch.equal(x.reshape(-1).view(torch.uint8), y.reshape(-1).view(torch.uint8))
