"""CoSO: orthogonal to the history in float64, of low rank, a sketch within its bound; rank 0 is AdamW."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from method_runs import check_new_rows, check_resume, cpt, same, weights
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from surgeon.errors import SurgeonError
from surgeon.train.directions import extended, history_of, largest, sketched, write_history
from surgeon.train.optimizers.coso import Coso

Tiny = Callable[..., Path]
BOUND = 4 * 2.0**-24  # of the norm of a matrix, as the docstring of `coso` says


def basis_of(rows: int, size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(rows, size, generator=generator, dtype=torch.float64))[0].float().contiguous()


def optimizer_of(p: nn.Parameter, past: dict[str, Tensor], rank: int, every: int = 4, decay: float = 0.1) -> Coso:
    groups = [{"params": [p], "names": ["w"], "lr": 1e-2, "weight_decay": decay}]
    return Coso(groups, (0.9, 0.95), 1e-8, {"w"}, past, (rank, 24, every))


@pytest.mark.parametrize("rank", [0, 5, 64])
@pytest.mark.parametrize("shape", [(32, 48), (48, 32)])
def test_a_thousand_steps_stay_orthogonal_to_the_history(shape: tuple[int, int], rank: int) -> None:
    """Gradients that point into the history, with decay: the rounding of the steps does not add up."""
    torch.manual_seed(0)
    p, past = nn.Parameter(torch.randn(shape) * 0.2), basis_of(shape[0], 8)
    start, pull = p.detach().clone(), past @ torch.randn(8, shape[1]) * 3
    optimizer = optimizer_of(p, {"w": past}, rank)
    for _ in range(1000):
        p.grad = pull + torch.randn(shape)
        optimizer.step()
    moved = p.detach().double() - start.double()
    assert (past.double().mT @ moved).norm() <= BOUND * p.detach().double().norm()
    assert (past.double().mT @ moved).norm() <= 1e-6 * moved.norm()
    assert moved.norm() > 0.3 * start.norm()


def test_a_gradient_in_the_history_moves_nothing() -> None:
    """What the projection leaves of it is rounding, and Adam would make full steps of that."""
    p, past = nn.Parameter(torch.randn(32, 48)), basis_of(32, 8)
    start = p.detach().clone()
    optimizer = optimizer_of(p, {"w": past}, 5, decay=0)
    for _ in range(10):
        p.grad = past @ torch.randn(8, 48)
        optimizer.step()
    assert (p.detach() - start).norm() <= BOUND * start.norm()


def test_updates_between_two_refreshes_are_of_low_rank() -> None:
    torch.manual_seed(0)
    p = nn.Parameter(torch.zeros(32, 48))
    optimizer = optimizer_of(p, {}, 5, every=10, decay=0)
    for _ in range(10):
        p.grad = torch.randn(32, 48)
        optimizer.step()
    values = torch.linalg.svdvals(p.detach().double())
    assert float(values[5]) < 1e-6 * float(values[0]) < float(values[4])


def test_the_first_step_is_adam_in_the_largest_directions() -> None:
    """Adam's first step is the sign of its gradient, here of P^T G with P of a library's own decomposition."""
    torch.manual_seed(0)
    p, gradient = nn.Parameter(torch.zeros(32, 48)), torch.randn(32, 48)
    optimizer = optimizer_of(p, {}, 5, decay=0)
    p.grad = gradient.clone()
    optimizer.step()
    left = torch.linalg.svd(gradient.double())[0][:, :5]
    expected = -1e-2 * left @ (left.mT @ gradient.double()).sign()
    torch.testing.assert_close(p.detach().double(), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("shape", [(20, 30), (30, 20)])
def test_the_largest_directions(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape, dtype=torch.float64)
    left, values, _ = torch.linalg.svd(matrix)
    directions, sizes = largest(matrix, 6, 0.0)
    torch.testing.assert_close(sizes, values[:6], rtol=1e-12, atol=0)
    torch.testing.assert_close((directions.mT @ left[:, :6]).abs(), torch.eye(6).double(), rtol=0, atol=1e-10)
    thin = torch.outer(matrix[:, 0], matrix[0]).float()
    directions, sizes = largest(thin, 6, 1e-3)
    assert (sizes > 0).tolist() == [True] + 5 * [False] and not directions[:, 1:].any()


@pytest.mark.parametrize("size", [4, 9, 30])
def test_the_sketch_is_within_its_bound(size: int) -> None:
    torch.manual_seed(0)
    sketch, columns = torch.zeros(20, min(size, 20), dtype=torch.float64), []
    for _ in range(50):
        columns.append(
            torch.randn(20, 3, dtype=torch.float64) * torch.logspace(0, -2, 20, dtype=torch.float64)[:, None]
        )
        sketch = sketched(sketch, columns[-1])
    whole = torch.cat(columns, 1)
    off = torch.linalg.matrix_norm(whole @ whole.mT - sketch @ sketch.mT, 2)
    if size >= 20:
        assert off <= 1e-12 * whole.square().sum()
    else:
        assert 0 < off <= whole.square().sum() / (size + 1)


def test_a_basis_grows_by_the_directions_that_hold_the_energy() -> None:
    past = torch.eye(6)[:, :1]
    sketch = torch.diag(torch.tensor([0.0, 3.0, 1.0, 0.1, 0.0, 0.0]))  # squares 9, 1, 0.01
    grown = extended(past, sketch, 0.98)
    assert grown is not None
    torch.testing.assert_close(grown.abs(), torch.eye(6)[:, :3])
    assert extended(None, sketch, 0.5).shape == (6, 1)  # type: ignore[union-attr]
    assert extended(None, torch.zeros(6, 3), 0.98) is None
    assert torch.equal(extended(past, torch.zeros(6, 3), 0.98), past)  # type: ignore[arg-type]


def test_rank_0_without_a_history_is_adamw_byte_for_byte(tiny: Tiny, corpus: Path, tmp_path: Path) -> None:
    model = tiny("llama", "bfloat16", tie_word_embeddings=True)
    runs = [cpt(model, tmp_path / o[:5], corpus, optimizer=o) for o in ("adamw", "coso:rank=0,sketch=8,every=2")]
    assert same(*runs)


def test_the_second_run_is_orthogonal_to_the_first(tiny: Tiny, corpus: Path, tmp_path: Path) -> None:
    """By the folder of the first run or by the file that is written from it: the same bytes."""
    model, file = tiny("llama"), tmp_path / "past.safetensors"
    options: dict[str, Any] = {"keep_state": True, "weight_decay": 0.1}
    first = cpt(model, tmp_path / "one", corpus, optimizer="coso:rank=4,sketch=8,every=2", **options)
    write_history(tmp_path / "one.run", file)
    past = load_file(file)
    before = weights(first)
    matrices = {n for n in before if ".layers." in n and before[n].ndim == 2}
    assert past.keys() == matrices
    for basis in past.values():
        assert 0 < basis.shape[1] <= 8
        torch.testing.assert_close(basis.mT @ basis, torch.eye(basis.shape[1]), rtol=0, atol=1e-6)
    second = "coso:rank=4,sketch=8,every=2,history="
    outs = [
        cpt(first, tmp_path / n, corpus, optimizer=second + str(h), **options)
        for n, h in (("two", tmp_path / "one.run"), ("three", file))
    ]
    assert same(*outs)
    free = weights(cpt(first, tmp_path / "four", corpus, optimizer=second.removesuffix(",history="), **options))
    after = weights(outs[0])
    for name, basis in past.items():
        for found, orthogonal in ((after, True), (free, False)):
            off = (basis.double().mT @ (found[name].double() - before[name].double())).norm()
            assert bool(off <= BOUND * found[name].double().norm()) is orthogonal
        assert not torch.equal(after[name], before[name])
    for name, basis in history_of(tmp_path / "two.run").items():
        assert torch.equal(basis[:, : past[name].shape[1]], past[name]), "the first run's stay in it"
        assert basis.shape[1] > past[name].shape[1]
        torch.testing.assert_close(basis.mT @ basis, torch.eye(basis.shape[1]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("options", ["rank=4,sketch=8,every=2", "rank=0,sketch=8,every=2"])
def test_a_run_that_goes_on_ends_with_the_same_bytes(tiny: Tiny, corpus: Path, tmp_path: Path, options: str) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({name: basis_of(48, 5)}, tmp_path / "past.safetensors")
    chosen = f"coso:{options},history={tmp_path / 'past.safetensors'}"
    check_resume(tiny("llama"), tmp_path, corpus, optimizer=chosen, train=r"layers\.[12]\.|embed")
    save_file({name: basis_of(48, 5, seed=1)}, tmp_path / "past.safetensors")
    (tmp_path / "again.run").rename(tmp_path / "third.run")
    with pytest.raises(SurgeonError, match="history has changed"):
        cpt(
            tmp_path / "tiny-llama", tmp_path / "third", corpus, optimizer=chosen, train=r"layers\.[12]\.|embed",
            resume=True,
        )  # fmt: skip


def test_a_full_history_leaves_the_matrix_alone(tiny: Tiny, corpus: Path, tmp_path: Path) -> None:
    model, name = tiny("llama"), "model.layers.1.mlp.up_proj.weight"
    save_file({name: basis_of(48, 48)}, tmp_path / "past.safetensors")
    out = cpt(model, tmp_path / "out", corpus, optimizer=f"coso:rank=4,history={tmp_path / 'past.safetensors'}")
    before, after = weights(model), weights(out)
    assert [n for n in before if torch.equal(before[n], after[n])] == [name]


def test_new_rows_alone_move(tiny: Tiny, corpus: Path, tmp_path: Path) -> None:
    check_new_rows(tiny("llama"), tmp_path, corpus, optimizer="coso")


@pytest.mark.parametrize(
    ("options", "problem"),
    [("rank=8,sketch=8", "does not hold more"), ("history=absent", "cannot be read"), ("history=.", "no state"),
     ("history={past}", "the history's")],
)  # fmt: skip
def test_what_does_not_fit_is_refused(
    tiny: Tiny, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str, problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    save_file({"model.layers.0.mlp.up_proj.weight": basis_of(32, 5)}, tmp_path / "past")
    with pytest.raises(SurgeonError, match=problem):
        cpt(tiny("llama"), tmp_path / "out", corpus, optimizer=f"coso:{options.format(past='past')}")
    assert not (tmp_path / "out").exists()


def test_adapters_and_experts_are_refused(adapted: str, tiny: Tiny, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(SurgeonError, match="an adapter has none to keep"):
        cpt(adapted, tmp_path / "out", corpus, optimizer="coso", train="adapter")
    model = tiny("qwen3_moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24)
    with pytest.raises(SurgeonError, match="experts"):
        cpt(model, tmp_path / "out", corpus, optimizer="coso")
