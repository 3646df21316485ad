"""OSF: AdamW that leaves the large singular directions of every matrix where they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from surgeon.errors import SurgeonError
from surgeon.train.block_matrices import along, block_matrices, hold_left, hold_right, needed
from surgeon.train.outline import Outline
from surgeon.train.parallel import SOLO
from surgeon.train.strength import Epsilon

Ratio = Annotated[float, Field(ge=0, le=1)]
NEUTRAL = {"keep_ratio": 0.0}


def HOLDS(options: Mapping[str, Any]) -> bool:  # noqa: N802 - a trait that depends on the options
    """Whether directions stay where they are: what acts behind the step is not to move them."""
    return bool(options["keep_ratio"] != 0)


def FITS(outline: Outline, options: Mapping[str, Any]) -> None:  # noqa: N802 - a trait that depends on the run
    """Refuse an adapter."""
    block_matrices(outline.groups, outline.model, "osf")


def osf(
    groups: list[dict[str, Any]], betas: tuple[float, float], model: Any, block_cosines: Callable[[], list[float]], *,
    keep_ratio: Ratio | None = None, mrr: Ratio = 0.1, trr: Ratio = 0.8, protect: Literal["space", "block"] = "space",
    eps: Epsilon = 1e-8,
) -> torch.optim.Optimizer:  # fmt: skip
    """Orthogonal subspace fine-tuning: W = U_h S_h V_h + U_l S_l V_l, and U_h S_h V_h stays under AdamW with decay.

    Of every trained matrix of the blocks ([m, n]; fused experts one by one) the k = floor(ratio * min(m, n)) largest
    singular directions of its start are kept. protect: `space` keeps U_h^T W and W V_h^T (the paper's code: updates
    orthogonal to both sides), so a ratio of 1 leaves the matrix alone; `block` keeps U_h^T W V_h^T (the paper's
    formula). keep_ratio: of all blocks alike; without it, of block l, mrr + I(l) (trr - mrr), at least mrr and at most
    1, where I(l) is the mean cosine of what enters and leaves it on the windows of the run's first step, divided by
    the mean over the blocks, as in the authors' code, which makes trr the mean ratio. That code has a cosine for every
    matrix, of X and of W X cut to min(m, n) elements, on samples of the tasks before, and rounds k to the nearest; a
    run has no such samples, so here they are of its own text, and one number is for all matrices of a block.
    What is outside the blocks, and vectors, are AdamW's; at a ratio of 0 everything is, byte for byte.

    Where we differ: the paper's code and PEFT project the gradient, and Adam leads out of the subspace again (38 % of
    an update in a toy). Here the weight is put back after the step, decay included: U_h^T W is that of the start
    within 4 * 2^-24 of the norm of W whatever the number of steps (in the tests, on 48 x 32; so is W V_h^T), before W
    is rounded to its stored type. The decomposition is in float64 at the first step and goes into the state of the
    run with the moments: 4 k (m + n) bytes more. Arithmetic in float32. Several processes that share the model share
    all of that too, row by row (experts one by one); at a step each matrix costs them a sum and a gathering of [k, n].
    Raises UsageError on adapters. Source: Nayak et al. 2025 (2504.07097), equations from notes
    """
    numbers = block_matrices(groups, model, "osf")

    def ratios() -> dict[str, float]:
        if keep_ratio is not None:
            return dict.fromkeys(numbers, keep_ratio)
        by_block = adaptive_ratios(block_cosines(), mrr, trr)
        return {name: by_block[number] for name, number in numbers.items()}

    return Osf(groups, betas, eps, ratios, protect)


def adaptive_ratios(cosines: list[float], mrr: float, trr: float) -> list[float]:
    """The share of singular directions that each block keeps. Raises SurgeonError where cosines are not above 0 on
    the mean: there is no importance then."""
    mean = sum(cosines) / len(cosines)
    if not mean > 0:
        raise SurgeonError(
            f"what leaves the blocks points away from what enters them (mean cosine {mean:.3f})",
            "--optimizer osf",
            "give one ratio for all blocks: osf:keep_ratio=0.5",
        )
    return [min(1.0, max(mrr, mrr + c / mean * (trr - mrr))) for c in cosines]


class Osf(torch.optim.AdamW):
    """See `osf`. `ranks` of a group: how many directions of each parameter are kept. State of a matrix besides
    AdamW's: `left` U_h [.., m, k], `values` S_h [.., k], `right` V_h [.., k, n], float32."""

    def __init__(
        self, groups: list[dict[str, Any]], betas: tuple[float, float], eps: float,
        ratios: Callable[[], dict[str, float]], protect: str,
    ) -> None:  # fmt: skip
        super().__init__(groups, betas=betas, eps=eps, fused=True)
        self._ratios, self._protect = ratios, protect

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """AdamW's step, and back into the subspace."""
        assert closure is None
        if "ranks" not in self.param_groups[0]:  # a restored state has them
            self._choose()
        held = []
        started = {}
        for group in self.param_groups:
            for p, rank in zip(group["params"], group["ranks"], strict=True):
                if not rank or p.grad is None:
                    continue
                if self._is_whole(p, rank):
                    p.grad = None
                    continue
                if "left" not in self.state.get(p, {}):
                    started[p] = _decomposed(p, rank)
                if group["lr"] != 0:  # a rate of 0 moves nothing
                    held.append(p)
        super().step()
        for p, parts in started.items():
            self.state[p] |= parts  # now: AdamW takes an empty state for a new one
        for p in held:
            self._hold(p, self.state[p])

    def _choose(self) -> None:
        ratios = self._ratios()
        for group in self.param_groups:
            sizes = [min(p.shape[-2:]) if name in ratios else 0 for p, name in _named(group)]
            shares = [ratios.get(name, 0.0) for _, name in _named(group)]
            # the small number: 0.29 * 100 is 28.999999999999996
            group["ranks"] = [math.floor(r * n + 1e-9) for r, n in zip(shares, sizes, strict=True)]

    def _is_whole(self, p: Tensor, rank: int) -> bool:
        """Whether nothing of a matrix may move: its decomposition would only add rounding."""
        return rank == (min(p.shape[-2:]) if self._protect == "space" else max(p.shape[-2:]))

    def _hold(self, p: Tensor, state: dict[str, Tensor]) -> None:
        left, values, right = state["left"], needed(state["values"], p), needed(state["right"], p)
        own = SOLO.local(left)
        if self._protect == "space":
            hold_left(p, left, values[..., :, None] * right)
            hold_right(p, right, own * values[..., None, :])
        else:
            SOLO.local(p).sub_(own @ (along(left, p) @ right.mT - torch.diag_embed(values)) @ right)


def _named(group: dict[str, Any]) -> list[tuple[Tensor, str]]:
    return list(zip(group["params"], group["names"], strict=True))


def _decomposed(p: Tensor, rank: int) -> dict[str, Tensor]:
    left, values, right = torch.linalg.svd(SOLO.full(p).double(), full_matrices=False)
    parts = {"left": left[..., :rank], "values": values[..., :rank], "right": right[..., :rank, :]}
    held = {key: t.to(p.dtype, memory_format=torch.contiguous_format, copy=True) for key, t in parts.items()}
    return {key: SOLO.divided(t, p) for key, t in held.items()}
