"""Means and covariances of the old rows from chunks of them: exact, and without a float64 copy of the matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from surgeon import registry
from surgeon.vocab import moments
from surgeon.vocab.tokens import NewTokens

OLD, WIDTH, NEW = 90, 6, 50
USABLE = tuple(i for i in range(2, OLD) if i % 7)


def _rows(init: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(what the init gives at scale 1, the draws that it makes, the usable old rows), float64."""
    embed = torch.randn(OLD, WIDTH, generator=torch.Generator().manual_seed(2)).bfloat16() * 3 + 2
    names = tuple(f"t{n}" for n in range(NEW))
    new = NewTokens(names, tuple(range(OLD, OLD + NEW)), ((3, 4),) * NEW, USABLE)
    draws = [np.random.Generator(np.random.Philox(s)).standard_normal(WIDTH) for s in new.seeds(0)]
    rows = registry.get("init", init).call({"new": new, "embed_VD": embed, "seed": 0}, {"scale": 1.0})
    return rows, torch.from_numpy(np.stack(draws)), embed[list(USABLE)].double()


@pytest.mark.parametrize("size", [12, 13, 76, 10_000])
def test_chunks_give_the_covariance_of_all_rows(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "_ROWS", size)
    rows, draws, old = _rows("gaussian")
    factor = torch.linalg.lstsq(draws, rows - old.mean(0)).solution
    torch.testing.assert_close(factor.T @ factor, torch.cov(old.T), rtol=1e-12, atol=1e-12)
    rows, draws, old = _rows("univariate")
    torch.testing.assert_close(rows, old.mean(0) + draws * old.std(0), rtol=1e-13, atol=1e-13)


def test_no_more_than_a_chunk_is_widened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "_ROWS", 16)
    widest, widen = 0, torch.Tensor.to

    def watched(self: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        nonlocal widest
        if torch.float64 in args and self.dtype == torch.bfloat16:
            widest = max(widest, len(self))
        return widen(self, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(torch.Tensor, "to", watched)
    for init in ("gaussian", "univariate"):
        _rows(init)
    assert widest == 16
