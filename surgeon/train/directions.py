"""Directions in which gradients point: the largest of a matrix, a sketch of many matrices, and what a run leaves of
them for the runs after it.

A history is a safetensors file with an orthonormal basis [m, k], float32, under the name of each matrix [m, n].
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from surgeon.checkpoint.commit import write_atomically
from surgeon.errors import SurgeonError
from surgeon.train import state


def largest(matrix: Tensor, rank: int, least: float) -> tuple[Tensor, Tensor]:
    """(left singular vectors [m, rank], singular values [rank]) of a matrix [m, n], largest first, float32.

    Through the smaller of its two Gram matrices in float64, whose error of 1e-16 is 1e-8 of the largest value after
    the root. Vectors of values up to `least` are rounding and come back as zeros.
    """
    exact = matrix.double()
    wide = exact.shape[0] <= exact.shape[1]
    squares, vectors = torch.linalg.eigh(exact @ exact.mT if wide else exact.mT @ exact)
    values = squares.flip(0)[:rank].clamp(min=0).sqrt()
    vectors = vectors.flip(1)[:, :rank]
    real = values > least
    values = values * real
    left = vectors if wide else exact @ vectors / torch.where(real, values, 1)
    return (left * real).to(matrix.dtype).contiguous(), values.to(matrix.dtype)


def sketched(sketch: Tensor, columns: Tensor) -> Tensor:
    """The sketch S [m, l] after some more columns C [m, c] of a long matrix A: S S^T stays near A A^T.

    Of [S, C] the l largest directions, their squared values less the first one that is left out. After any number of
    calls ||A A^T - S S^T||_2 <= ||A||_F^2 / (l + 1). Arithmetic in float64.
    Source: Ghashami et al. 2016 (1501.01711), Frequent Directions
    """
    size = sketch.shape[1]
    left, values, _ = torch.linalg.svd(torch.cat([sketch, columns], 1).double(), full_matrices=False)
    squares = values.square()
    lost = squares[size] if len(squares) > size else 0.0
    kept = left[:, :size] * (squares[:size] - lost).clamp(min=0).sqrt()
    found = torch.zeros_like(sketch)
    found[:, : kept.shape[1]] = kept
    return found


def extended(past: Tensor | None, sketch: Tensor, energy: float) -> Tensor | None:
    """[M, U_k]: the basis M [m, j] (None: empty) and the fewest largest directions of the sketch that hold `energy` of
    its squared values, orthonormal, float32; None where both are empty."""
    left, values, _ = torch.linalg.svd(sketch.double(), full_matrices=False)
    squares = values.square()
    if float(squares.sum()) > 0:
        count = int((squares.cumsum(0) < energy * squares.sum()).sum()) + 1
        added = left[:, :count]
        if past is not None:
            added = added - past.double() @ (past.double().mT @ added)
        added = torch.linalg.qr(added)[0].float()
        past = added if past is None else torch.cat([past, added], 1)
    return past if past is None else past.contiguous()


def read_history(path: str, energy: float) -> dict[str, Tensor]:
    """Bases by name: of a file, or of the run whose folder OUT.run (kept with --keep-state) this is. Raises
    SurgeonError on anything else."""
    place = Path(path)
    if place.is_dir():
        return history_of(place, energy)
    try:
        found: dict[str, Tensor] = load_file(place)
    except (OSError, SafetensorError) as error:
        raise _unread(path, error) from error
    return found


def history_shapes(path: str) -> dict[str, list[int]]:
    """The shapes of what `read_history` gives of a file, without its values. Of a run, what is in its state needs all
    of it: there is a state, or SurgeonError, and the shapes are left out."""
    place = Path(path)
    if place.is_dir():
        _newest(place)
        return {}
    try:
        with safe_open(place, framework="pt") as held:
            return {name: held.get_slice(name).get_shape() for name in held.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise _unread(path, error) from error


def _unread(path: str, error: Exception) -> SurgeonError:
    return SurgeonError(
        f"the history cannot be read: {error}", path, "give a file of `write_history`, or a folder OUT.run"
    )


def history_of(run_dir: Path, energy: float = 0.98) -> dict[str, Tensor]:
    """What a run of the optimizer coso protects from the next one: its own history, and its sketches."""
    newest = _newest(run_dir)
    held = state.load(newest).optimizer
    found: dict[str, Tensor] | None = held["param_groups"][0].get("past")
    if found is None:
        raise SurgeonError("the run kept no sketches", str(newest), "only --optimizer coso does")
    names = [name for group in held["param_groups"] for name in group["names"]]
    found = dict(found)
    for number, kept in held["state"].items():
        if "sketch" in kept:
            basis = extended(found.get(names[number]), kept["sketch"].cpu(), energy)
            found |= {} if basis is None else {names[number]: basis}
    return found


def _newest(run_dir: Path) -> Path:
    found = state.latest(run_dir)
    if found is None:
        raise SurgeonError("there is no state of a run", str(run_dir), "run it with --keep-state")
    return found


def write_history(run_dir: Path, out: Path, energy: float = 0.98) -> None:
    """`history_of` a run as a file, complete before it takes its name."""
    held = history_of(run_dir, energy)
    write_atomically(out, save(held))
