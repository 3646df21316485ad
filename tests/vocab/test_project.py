"""The nearest convex combination: against exact solvers, an independent linear programme, and real matrices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.optimize import linprog, nnls
from torch import Tensor

from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError, UsageError
from surgeon.ops.execute import execute
from surgeon.vocab.certificate import check_hull
from surgeon.vocab.plan import plan_extend_vocab
from surgeon.vocab.project import nearest, project_hull
from surgeon.vocab.settings import ExtendVocabSettings

USABLE = tuple(range(3, 60))


def old_rows(width: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    rows = torch.randn(64, width, generator=torch.Generator().manual_seed(1))
    rows[60:] = 50.0  # padding: nearer to far targets than any usable row
    return rows.to(dtype)


def inside(old: Tensor, count: int = 20) -> Tensor:
    torch.manual_seed(2)
    weights = torch.distributions.Dirichlet(torch.ones(len(USABLE), dtype=torch.float64)).sample((count,))
    return weights @ old[list(USABLE)].double()


def outside(width: int, count: int = 20) -> Tensor:
    draws = torch.randn(count, width, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return 9 * draws / draws.norm(dim=1, keepdim=True)


def in_hull(point: Tensor, rows: Tensor) -> bool:
    """An independent programme: is there w >= 0 with sum 1 and rows^T w = point?"""
    equal = np.vstack([rows.double().numpy().T, np.ones(len(rows))])
    found = linprog(np.zeros(len(rows)), A_eq=equal, b_eq=np.append(point.numpy(), 1.0), method="highs")
    assert found.status in (0, 2)  # found, or infeasible
    return bool(found.status == 0)


def exact(point: Tensor, rows: Tensor, weight: float = 1e5) -> Tensor:
    """The nearest point by Lawson and Hanson's active set; the sum of 1 as a heavily weighted equation."""
    system = np.vstack([rows.double().numpy().T, weight * np.ones(len(rows))])
    found, _ = nnls(system, np.append(point.numpy(), weight))
    return torch.from_numpy(found / found.sum()) @ rows.double()


@pytest.mark.parametrize("width", [2, 5, 12])
def test_points_inside_come_back_and_points_outside_go_to_the_nearest(width: int) -> None:
    old = old_rows(width)
    usable = old[list(USABLE)]
    targets = torch.cat([inside(old), outside(width)])
    given, distance, _ = nearest(targets, old, USABLE)
    given.check(60, "here")
    rows = given.rows(old)
    for n, (target, row) in enumerate(zip(targets, rows, strict=True)):
        is_in = in_hull(target, usable)
        assert is_in == (n < 20)
        assert float((row - exact(target, usable)).abs().max()) < 1e-6
        assert (float(distance[n]) < 1e-9) == is_in
    torch.testing.assert_close(distance, (rows - targets).norm(dim=1), rtol=1e-9, atol=1e-9)
    used = given.indices.unique().tolist()
    assert set(used) <= set(USABLE)


def test_the_duality_gap_is_closed() -> None:
    """<x - t, x - e_i> <= 0 for every usable row: that, and being in the hull, is what makes x the nearest point."""
    old = old_rows(12)
    targets = outside(12)
    rows = project_hull(targets, old, USABLE).rows(old)
    gaps = ((rows - targets) * rows).sum(1, keepdim=True) - (rows - targets) @ old[list(USABLE)].double().T
    assert float(gaps.max()) < 1e-9


@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_no_more_rows_than_iterations(iterations: int) -> None:
    old = old_rows(12)
    targets = torch.cat([inside(old), outside(12)])
    given, distance, _ = nearest(targets, old, USABLE, iterations=iterations)
    given.check(60, "here")
    assert int((given.offsets[1:] - given.offsets[:-1]).max()) <= iterations
    more = nearest(targets, old, USABLE, iterations=iterations + 3)[1]
    assert bool((more <= distance + 1e-12).all()) and float(more.sum()) < float(distance.sum())


def test_an_old_row_is_itself_and_the_mean_costs_no_row() -> None:
    old = old_rows(5, torch.bfloat16)
    corner = in_hull_corner(old)
    given = project_hull(torch.stack([old[corner].double(), old[list(USABLE)].double().mean(0)]), old, USABLE)
    assert given.indices[: given.offsets[1]].tolist() == [corner]
    assert given.weights[0] == 1.0
    assert given.offsets.tolist() == [0, 1, 1]
    assert given.mean_weights is not None and given.mean_weights.tolist() == [0.0, 1.0]


def in_hull_corner(old: Tensor) -> int:
    """A row that is no mixture of the others."""
    return next(i for i in USABLE if not in_hull(old[i].double(), old[[j for j in USABLE if j != i]]))


def test_equal_rows_and_flat_hulls_are_no_trouble() -> None:
    """Old rows that lie in a plane, several of them equal: supports are never degenerate."""
    plane = torch.randn(3, 8, generator=torch.Generator().manual_seed(5))
    old = torch.randn(64, 3, generator=torch.Generator().manual_seed(6)) @ plane
    old[10:20] = old[20:30]
    targets = torch.cat([inside(old), outside(8)])
    given, distance, _ = nearest(targets, old, USABLE)
    given.check(60, "here")
    assert float(distance[:20].max()) < 1e-6
    for target, row in zip(targets, given.rows(old), strict=True):
        assert float((row - exact(target, old[list(USABLE)])).norm()) < 2e-5


def test_wrong_words_are_refused() -> None:
    with pytest.raises(SurgeonError, match="not finite"):
        project_hull(torch.tensor([[float("nan")] * 5]), old_rows(), USABLE)
    with pytest.raises(UsageError, match="above zero"):
        project_hull(outside(5), old_rows(), USABLE, iterations=0)
    assert len(project_hull(outside(5)[:0], old_rows(), USABLE)) == 0


def real(material: Path, count: int) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """Draws of N(mu, Sigma) of the output matrix of `base`, the matrix, its usable rows."""
    old = load_file(material / "models" / "base" / "model.safetensors")["lm_head.weight"]
    values = old[3:].double()
    draw = torch.randn(count, 256, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    factor = torch.linalg.qr(values - values.mean(0), mode="r")[1] / 4092**0.5
    return values.mean(0) + draw @ factor, old, tuple(range(3, 4096))


@pytest.mark.material
def test_real_rows_have_the_same_bytes_for_any_number_of_threads(material: Path) -> None:
    targets, old, usable = real(material, 300)  # two blocks
    one = project_hull(targets, old, usable, iterations=8)
    try:
        torch.set_num_threads(2)
        two = project_hull(targets, old, usable, iterations=8)
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(one.tables("m")[name], two.tables("m")[name]) for name in one.tables("m"))


@pytest.mark.material
def test_real_rows_are_nearest_among_all_old_ones(material: Path) -> None:
    """The gap to every row of the matrix is closed, in a bfloat16 matrix, within the default iterations."""
    targets, old, usable = real(material, 24)
    values = old[3:].double()
    given, distance, from_mean = nearest(targets, old, usable)
    given.check(4096, "here")
    rows = given.rows(old)
    gaps = (((rows - targets) * rows).sum(1, keepdim=True) - (rows - targets) @ values.T).amax(1)
    spread = (values - values.mean(0)).square().sum(1).mean()
    assert float((gaps / spread).median()) < 1e-9  # finished
    assert float((gaps / spread).max()) < 1e-3  # stopped by the number of iterations
    assert 0.5 < float((distance / from_mean).median()) < 0.9


def test_a_projected_init_has_a_certificate(stories: Path, tmp_path: Path) -> None:
    corpus, out = tmp_path / "new.txt", tmp_path / "out"
    corpus.write_text("Haemoglobin carries oxygen; haemophilia is a disorder. Haemoglobin falls in anaemia. " * 9)
    settings = ExtendVocabSettings(
        model=str(stories), out=out, corpus=[str(corpus)], add=20, init="gaussian", option={"scale": 1.0},
        project="hull", pad_to_multiple_of=64,
    )  # fmt: skip
    execute(plan_extend_vocab(settings), out, threads=1)
    report = check_hull(Checkpoint.open(out))
    assert report.claimed and report.holds and all(m.reproduced for m in report.matrices)
    stored = load_file(out / "model.safetensors")["model.embed_tokens.weight"]
    plain = plan_extend_vocab(settings.model_copy(update={"project": None}))
    execute(plain, tmp_path / "plain", threads=1)
    before = load_file(tmp_path / "plain" / "model.safetensors")["model.embed_tokens.weight"][512:532].double()
    for target, row in zip(before[:4], stored[512:516].double(), strict=True):
        assert float((row - exact(target, stored[3:512])).norm()) < 1e-4
