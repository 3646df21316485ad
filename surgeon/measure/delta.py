"""What differs between two checkpoints, and how task vectors lie to each other; streamed, in float64."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from surgeon.arch.family import family_of
from surgeon.checkpoint.header import FLOATS, StoredTensor
from surgeon.checkpoint.index import Checkpoint
from surgeon.measure.products import Products
from surgeon.merge.align import Alignment
from surgeon.merge.ancestry import Member, surgery_since
from surgeon.merge.pieces import attachments
from surgeon.ops.plan import Source
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


def vectors(base: Path, models: Sequence[Path], progress: Progress = SILENT) -> dict[str, Any]:
    """Task vectors against the base, aligned by lineage: norms, norms relative to the reference, and for every pair
    the cosine, its null 1/sqrt(d), z = cosine x sqrt(d), and the share of elements with opposite signs.

    Two independent random vectors of dimension d have a cosine of about 1/sqrt(d): read z, not the cosine. A model
    that is shallower or has fewer rows counts where it has tensors; d is the number of elements both have.
    units: by block and part; blocks, parts: sums of these; total: the whole model. Raises SurgeonError where a model
    does not come from the base.
    """
    members, target = _members(base, models)
    alignment = Alignment(Member("base", base.name, Checkpoint.open(base)), target)
    alignment.check_positions([alignment.base, *members])
    family = alignment.family
    units: dict[str, Products] = {}
    groups: dict[str, dict[str, Products]] = {"blocks": {}, "parts": {}}
    total = Products(len(members))
    stored = target.checkpoint.tensors
    with progress.task("measuring", sum(t.nbytes for t in stored.values()), "bytes") as advance:
        for name, tensor in stored.items():
            if tensor.dtype in FLOATS:
                found = _measure(alignment, members, name, tensor)
                unit = family.unit(name)
                block = "outside" if unit.block is None else str(unit.block)
                label = unit.part if unit.block is None else f"{unit.block}.{unit.part}"
                for place in (
                    units.setdefault(label, Products(len(members))),
                    groups["blocks"].setdefault(block, Products(len(members))),
                    groups["parts"].setdefault(unit.part, Products(len(members))),
                    total,
                ):
                    place.merge(found)
            advance(tensor.nbytes)
    names = [member.name for member in members]
    described = {
        key: [{"unit": label} | sums.report(names) for label, sums in _in_order(held)]
        for key, held in ({"units": units} | groups).items()
    }
    whole = total.report(names)
    return {"base": base.name, "models": names, "total": whole, "pairs": whole["pairs"]} | described


def _measure(alignment: Alignment, members: Sequence[Member], name: str, tensor: StoredTensor) -> Products:
    """The sums of one tensor, by chunks of rows."""
    reference = alignment.reference(name)
    deltas = [alignment.delta(member, name) for member in members]
    found = Products(len(members))
    evaluator = _evaluator(alignment, members, [reference, *(d for d in deltas if d is not None)])
    from surgeon.ops.evaluate import chunk_rows

    step = chunk_rows(tensor.shape)
    cache: dict[str, Any] = {}
    for start in range(0, tensor.shape[0] if tensor.shape else 1, step):
        rows = (start, min(start + step, tensor.shape[0])) if tensor.shape else None
        values = [
            None if source is None else evaluator.value(source, tensor.shape, name, rows, cache)
            for source in (reference, *deltas)
        ]
        found.add(values[0], values[1:])
    return found


def _evaluator(alignment: Alignment, members: Sequence[Member], sources: Sequence[Source]) -> Any:
    from safetensors.torch import load_file

    from surgeon.checkpoint.sidecars import SURGEON_DIR
    from surgeon.ops.evaluate import Evaluator

    inputs = {m.role: m.checkpoint for m in (alignment.base, *members)}
    folder = alignment.target.checkpoint.path / SURGEON_DIR
    return Evaluator(inputs, tables={name: load_file(folder / name) for name in attachments(sources)})


def _members(base: Path, models: Sequence[Path]) -> tuple[list[Member], Member]:
    """(the models, the most operated-on of them or the base)."""
    root = Checkpoint.open(base)
    members = []
    for number, path in enumerate(models):
        checkpoint = Checkpoint.open(path)
        members.append(
            Member(f"tuned{number}", path.name, checkpoint, surgery_since(checkpoint, path.name, root, base.name))
        )
    deepest = max(members, key=lambda m: m.level)
    return members, deepest if deepest.level else Member("base", base.name, root)


def _units(checkpoint: Checkpoint) -> dict[str, str]:
    """Tensor name -> block and part; the plain name where there is no architecture (an adapter)."""
    if "model_type" not in checkpoint.config:
        return {name: name for name in checkpoint.tensors}
    family = family_of(checkpoint)
    units = {name: family.unit(name) for name in checkpoint.tensors}
    return {n: u.part if u.block is None else f"{u.block}.{u.part}" for n, u in units.items()}


def _in_order(units: Mapping[str, Products]) -> list[tuple[str, Products]]:
    """Blocks by number, what is outside them first."""

    def key(entry: tuple[str, Products]) -> tuple[int, str]:
        head = entry[0].partition(".")[0]
        return (int(head) if head.isdigit() else -1, entry[0])

    return sorted(units.items(), key=key)


def _chunks(one: StoredTensor, other: StoredTensor) -> Iterator[tuple[Any, Any]]:
    from surgeon.checkpoint.reader import read
    from surgeon.ops.evaluate import chunk_rows

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
