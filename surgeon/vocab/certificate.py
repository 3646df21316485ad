"""The certificate of the hull: the weights that a checkpoint carries are convex, and they give its new rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import Lineage
from surgeon.checkpoint.sidecars import SURGEON_DIR
from surgeon.errors import SurgeonError
from surgeon.ops.plan import Apply, Piece, Rows, source_from_json
from surgeon.vocab.matrix import COMBINE

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class MatrixReport:
    """Of one tensor: how many new rows carry weights, the least weight, how far a sum is from 1, and whether the rows
    are byte for byte what the weights give (None: trained since, so they need not be)."""

    tensor: str
    rows: int
    least_weight: float
    sum_error: float
    reproduced: bool | None
    problem: str = ""


@dataclass(frozen=True)
class HullReport:
    """One report a matrix. `holds` is False if any certificate is broken; `claimed` is False if no row claims one."""

    matrices: tuple[MatrixReport, ...] = field(default=())

    @property
    def claimed(self) -> bool:
        return bool(self.matrices)

    @property
    def holds(self) -> bool:
        return not any(m.problem for m in self.matrices)


def check_hull(checkpoint: Checkpoint) -> HullReport:
    """Check all weights that the checkpoint carries for the rows of its last vocabulary extension.

    Rows are compared where nothing since the extension was a training; they are computed in float64 from the stored
    weights and the checkpoint's own old rows, rounded once. Raises SurgeonError where the lineage names no extension
    or a table it names is missing.
    """
    extension, trained = _extension(checkpoint)
    assert extension.rows is not None
    if extension.rows.weights is None:
        return HullReport()
    table = _table(checkpoint.path / SURGEON_DIR / extension.rows.weights)
    sources = {name: source_from_json(value) for name, value in extension.initial.items()}
    claims = [
        (name, piece)
        for name, source in sources.items()
        if isinstance(source, Rows)
        for piece in source.pieces
        if isinstance(piece.source, Apply) and piece.source.method == COMBINE
    ]
    old = extension.rows.old
    return HullReport(tuple(_report(checkpoint, name, piece, table, old, trained) for name, piece in claims))


def _extension(checkpoint: Checkpoint) -> tuple[Lineage, bool]:
    trained = False
    for lineage in checkpoint.lineage.chain() if checkpoint.lineage else ():
        if lineage.operation == "extend-vocab" and lineage.rows is not None:
            return lineage, trained
        trained = trained or lineage.kind == "training"
    raise SurgeonError(
        "the lineage names no vocabulary extension", str(checkpoint.path), "give an output of extend-vocab"
    )


def _table(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (FileNotFoundError, SafetensorError) as error:
        raise SurgeonError(
            f"the weights of the new rows cannot be read: {error}", str(path), "restore the file"
        ) from error


def _report(
    checkpoint: Checkpoint, name: str, piece: Piece, table: dict[str, Tensor], num_old: int, trained: bool
) -> MatrixReport:
    import torch

    from surgeon.checkpoint.reader import TORCH, read, to_bytes
    from surgeon.checkpoint.rounding import round_once
    from surgeon.vocab.hull import Combination

    assert isinstance(piece.source, Apply)
    given = Combination.from_tables(table, piece.source.options["matrix"])
    parts = [p for p in (given.weights, given.mean_weights) if p is not None and len(p)]
    least = min((float(p.min()) for p in parts), default=0.0)
    error = float((given.sums() - 1).abs().max()) if len(given) else 0.0
    problem, reproduced = "", None
    try:
        given.check(num_old, name)
    except SurgeonError as refused:
        problem = refused.problem
    stored = checkpoint.tensor(name)
    if not problem and not trained:
        rows = round_once(given.rows(read(stored, (0, num_old))), TORCH[stored.dtype])
        held = torch.cat([read(stored, run) for run in piece.ids])
        reproduced = to_bytes(rows) == to_bytes(held)
        problem = "" if reproduced else "the rows are not what the weights give"
    return MatrixReport(name, piece.count, least, error, reproduced, problem)
