"""The certificate of the hull: the weights that a checkpoint carries are convex, and they give its new rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import Lineage, RowMap
from surgeon.checkpoint.sidecars import SURGEON_DIR
from surgeon.errors import SurgeonError
from surgeon.ops.plan import Apply, Copy, Piece, Rows, source_from_json
from surgeon.vocab.matrix import COMBINE

if TYPE_CHECKING:
    from torch import Tensor

    from surgeon.vocab.hull import Combination

PADDING = "_padding"  # how the tables of rows behind the new ones are named
_BIAS = "output_bias"


@dataclass(frozen=True)
class MatrixReport:
    """Of one tensor: how many new rows carry weights, the least weight, how far a sum is from 1, and whether the rows
    are byte for byte what the weights give (None: trained since, or weights that give no rows). table: its name among
    the weights, `input`, `output`, `output_bias`, each with `_padding` for rows behind the new ones."""

    tensor: str
    rows: int
    least_weight: float
    sum_error: float
    reproduced: bool | None
    problem: str = ""
    table: str = ""


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


class Claim(NamedTuple):
    """Rows of a tensor that are said to be convex: which ones, and the name of their weights in the table."""

    tensor: str
    piece: Piece
    table: str


class Extension:
    """The last vocabulary extension that a checkpoint went through, and the weights it carries of it.

    rows: its row map. trained: whether a training came after it. Raises SurgeonError where the lineage names none, or
    where the table it names is missing or is no table.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.lineage, self.trained = _extension(checkpoint)
        assert self.lineage.rows is not None
        self.rows: RowMap = self.lineage.rows
        self.sources = {name: source_from_json(value) for name, value in self.lineage.initial.items()}
        weights = self.rows.weights
        self._table = {} if weights is None else _table(checkpoint, weights)

    @property
    def claims(self) -> list[Claim]:
        return [
            Claim(name, piece, piece.source.options["matrix"])
            for name, piece in self._computed()
            if isinstance(piece.source, Apply) and piece.source.method == COMBINE
        ]

    def weights(self, claim: Claim) -> Combination:
        """Raises SurgeonError where the table holds none for the claim, or parts that do not fit together."""
        from surgeon.vocab.hull import Combination

        try:
            found = Combination.from_tables(self._table, claim.table)
        except KeyError as error:
            raise self._damaged(f"the table holds no weights for {claim.table!r}") from error
        ends, mean = found.offsets.tolist(), found.mean_weights
        fits = ends[:1] == [0] and ends[-1] == len(found.indices) == len(found.weights) and ends == sorted(ends)
        if not fits or (mean is not None and len(mean) != len(found)):
            raise self._damaged(f"the weights for {claim.table!r} do not fit together")
        return found

    def rows_of_bias(self, claim: Claim) -> Claim | None:
        """The convex rows whose weights the claim's biases must have; None where the claim is of no biases, or their
        rows are not convex (then they have the mean bias)."""
        if not claim.table.startswith(_BIAS):
            return None
        used = {p.source.options["matrix"] for _, p in self._computed() if isinstance(p.source, Apply)}
        rows = ("output" if "output" in used else "input") + claim.table.removeprefix(_BIAS)
        return next((c for c in self.claims if c.table == rows), None)

    def _damaged(self, problem: str) -> SurgeonError:
        path = self.checkpoint.path / SURGEON_DIR / str(self.rows.weights)
        return SurgeonError(problem, str(path), "restore the file")

    def all_convex(self, tensor: str) -> bool:
        """Whether every row of the tensor that is not a copy is said to be convex."""
        found = [p.source for name, p in self._computed() if name == tensor]
        return bool(found) and all(isinstance(s, Apply) and s.method == COMBINE for s in found)

    def column_sums(self, tensor: str) -> Tensor:
        """float64 [old rows]: the weight that each old row has in all rows added to `tensor` together, padding
        included, with the mean spread over the rows it ranges over."""
        import torch

        sums_V = torch.zeros(self.rows.old, dtype=torch.float64)
        for claim in self.claims:
            if claim.tensor != tensor:
                continue
            given = self.weights(claim)
            if outside(given, self.rows.old):
                raise self._damaged(outside(given, self.rows.old))
            sums_V.index_add_(0, given.indices, given.weights)
            if given.mean_weights is not None and given.mean_ids is not None:
                ids = torch.cat([torch.arange(a, b) for a, b in given.mean_ids.tolist()])
                sums_V[ids] += given.mean_weights.sum() / len(ids)
        return sums_V

    def _computed(self) -> Iterator[tuple[str, Piece]]:
        for name, source in self.sources.items():
            for piece in source.pieces if isinstance(source, Rows) else ():
                if not isinstance(piece.source, Copy):
                    yield name, piece


def check_hull(checkpoint: Checkpoint) -> HullReport:
    """Check all weights that the checkpoint carries for the rows of its last vocabulary extension.

    Rows are compared where nothing since the extension was a training; they are computed in float64 from the stored
    weights and the checkpoint's own old rows, rounded once. Raises SurgeonError where the lineage names no extension
    or a table it names is missing.
    """
    extension = Extension(checkpoint)
    return HullReport(tuple(_report(extension, claim) for claim in extension.claims))


def held_rows(checkpoint: Checkpoint, claim: Claim) -> Tensor:
    """The rows of the claim as they are stored."""
    import torch

    from surgeon.checkpoint.reader import read

    stored = checkpoint.tensor(claim.tensor)
    return torch.cat([read(stored, run) for run in claim.piece.ids])


def measured(given: Combination) -> tuple[float, float]:
    """(the least weight, the largest distance of a row's sum from 1); nan where a weight is."""
    import torch

    parts = [p for p in (given.weights, given.mean_weights) if p is not None and len(p)]
    least = float(torch.cat(parts).min()) if parts else 0.0
    return least, float((given.sums() - 1).abs().max()) if len(given) else 0.0


def outside(given: Combination, num_old: int) -> str:
    """What is wrong with the old rows that the weights name, or nothing."""
    runs = given.mean_ids.flatten() if given.mean_ids is not None else given.indices[:0]
    low = min((int(ids.min()) for ids in (given.indices, runs) if ids.numel()), default=0)
    high = max(int(given.indices.max()) if given.indices.numel() else 0, int(runs.max()) - 1 if runs.numel() else 0)
    return "" if low >= 0 and high < num_old else f"a weight stands on a row outside of the {num_old} old ones"


def _report(extension: Extension, claim: Claim) -> MatrixReport:
    from surgeon.checkpoint.reader import TORCH, read, to_bytes
    from surgeon.checkpoint.rounding import round_once

    given = extension.weights(claim)
    least, error = measured(given)
    problem, reproduced = "", None
    try:
        given.check(extension.rows.old, claim.tensor)
    except SurgeonError as refused:
        problem = refused.problem
    if len(given) != claim.piece.count:
        problem = f"weights of {len(given)} rows for {claim.piece.count}"
    rows_of = extension.rows_of_bias(claim)
    if not problem and rows_of is not None and not _same(given, extension.weights(rows_of)):
        problem = f"the weights are not those of the rows of {rows_of.tensor}"
    if not problem and not extension.trained:
        stored = extension.checkpoint.tensor(claim.tensor)
        rows = round_once(given.rows(read(stored, (0, extension.rows.old))), TORCH[stored.dtype])
        reproduced = to_bytes(rows) == to_bytes(held_rows(extension.checkpoint, claim))
        problem = "" if reproduced else "the rows are not what the weights give"
    return MatrixReport(claim.tensor, claim.piece.count, least, error, reproduced, problem, claim.table)


def _same(one: Combination, other: Combination) -> bool:
    import torch

    left, right = one.tables(""), other.tables("")
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def _extension(checkpoint: Checkpoint) -> tuple[Lineage, bool]:
    trained = False
    for lineage in checkpoint.lineage.chain() if checkpoint.lineage else ():
        if lineage.operation == "extend-vocab" and lineage.rows is not None:
            return lineage, trained
        trained = trained or lineage.kind == "training"
    raise SurgeonError(
        "the lineage names no vocabulary extension", str(checkpoint.path), "give an output of extend-vocab"
    )


def _table(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = checkpoint.path / SURGEON_DIR / name
    try:
        return load_file(path)
    except (FileNotFoundError, SafetensorError) as error:
        raise SurgeonError(
            f"the weights of the new rows cannot be read: {error}", str(path), "restore the file"
        ) from error
