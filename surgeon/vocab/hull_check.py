"""hull_weights.safetensors against the rows and against the float64 weights of the lineage.

Where rows cancel, float32 weights cannot give a stored row to one unit in its last place (ulp). The bound used holds
always: a stored value s is within half an ulp of what the float64 weights give, and that is within
B = sum_i |w_i e_i| 2^-24 of what the same weights, rounded to float32, give. So |s - r| <= max(ulp, ulp / 2 + B).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from surgeon.errors import SurgeonError
from surgeon.vocab.certificate import Claim, Extension, held_rows, measured, outside
from surgeon.vocab.hull_file import HullFile, read_hull, rectangular

if TYPE_CHECKING:
    from torch import Tensor

    from surgeon.vocab.hull import Combination

FILE_TOLERANCE = 1e-6  # of a sum of float32 weights
_HALF_ULP = 2.0**-24  # of float32, relative
_SLACK = 1 + 2.0**-20  # the bound is taken from the rounded weights; and float64 sums have roundings of their own


@dataclass(frozen=True)
class FileReport:
    """Of one matrix in the file. same_weights: they are those of the lineage, rounded once. elements, equal: of the
    rows, and how many come out as stored. by_bound: how many are further than one ulp off, but within the bound.
    worst: the largest distance from the stored value, in ulps. off: how many are outside of the bound."""

    tensor: str
    rows: int
    least_weight: float
    sum_error: float
    same_weights: bool
    elements: int = 0
    equal: int = 0
    by_bound: int = 0
    worst: float = 0.0
    off: int = 0
    problem: str = ""


def check_hull_file(extension: Extension) -> tuple[FileReport, ...]:
    """Every matrix that the file should hold; none where the extension wrote no such file.

    The checkpoint must be the extension's own output: the file does not travel. Raises SurgeonError where the file
    cannot be read, or holds other matrices or rows than the lineage says.
    """
    if extension.rows.hull_weights is None:
        return ()
    path = extension.checkpoint.path / extension.rows.hull_weights
    file = read_hull(path)
    claims: dict[str, Claim] = {}
    for claim in extension.claims:
        if claim.table in ("input", "output") and claim.table not in claims:  # a tied matrix stored twice is held once
            claims[claim.table] = claim
    if file.ids.tolist() != [row.id for row in extension.rows.new]:
        raise SurgeonError("the file is of other rows than the lineage names", str(path), "restore the file")
    if list(file.matrices) != [claim.tensor for claim in claims.values()]:
        raise SurgeonError("the file is of other matrices than the lineage names", str(path), "restore the file")
    return tuple(_report(extension, claim, file) for claim in claims.values())


def _report(extension: Extension, claim: Claim, file: HullFile) -> FileReport:
    from surgeon.checkpoint.reader import TORCH, read
    from surgeon.checkpoint.rounding import round_once

    given = file.matrices[claim.tensor]
    least, error = measured(given)
    same = _same(given, extension.weights(claim))
    report = FileReport(
        claim.tensor, len(given), least, error, same, problem=_problem(given, claim.piece.count, extension.rows.old)
    )
    if report.problem:
        return report
    stored = extension.checkpoint.tensor(claim.tensor)
    old_VD, held_ND = read(stored, (0, extension.rows.old)), held_rows(extension.checkpoint, claim)
    rows_ND = given.rows(old_VD)
    bound_ND = given.rows(old_VD.abs()) * _HALF_ULP * _SLACK
    ulp_ND = ulp(held_ND)
    distance_ND = (held_ND.double() - rows_ND).abs()
    allowed_ND = (ulp_ND / 2 + bound_ND).maximum(ulp_ND)
    return replace(
        report,
        elements=held_ND.numel(),
        equal=int((round_once(rows_ND, TORCH[stored.dtype]) == held_ND).sum()),
        by_bound=int(((distance_ND > ulp_ND) & (distance_ND <= allowed_ND)).sum()),
        worst=float((distance_ND / ulp_ND).max()) if held_ND.numel() else 0.0,
        off=int((~(distance_ND <= allowed_ND)).sum()),  # also what is not a number
    )


def _problem(given: Combination, count: int, num_old: int) -> str:
    """Why no rows can be computed, or nothing."""
    if len(given) != count:
        return f"weights of {len(given)} rows for {count}"
    return outside(given, num_old)


def _same(file: Combination, tables: Combination) -> bool:
    import torch

    found, wanted = rectangular(file), rectangular(tables)
    return found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)


def ulp(values: Tensor) -> Tensor:
    """The distance between neighbours in the dtype of `values`, at each of them, in float64."""
    import torch

    limits = torch.finfo(values.dtype)
    least = limits.tiny * limits.eps
    exponents = torch.frexp(values.double()).exponent - 1
    steps = torch.ldexp(torch.full_like(exponents, limits.eps, dtype=torch.float64), exponents).clamp_min(least)
    return torch.where(values == 0, least, steps)
