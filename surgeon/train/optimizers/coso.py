"""CoSO: Adam in the directions in which gradients point, none of which an earlier run has used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from surgeon.errors import SurgeonError, UsageError
from surgeon.train.block_matrices import along, block_matrices, hold_left, needed
from surgeon.train.directions import history_shapes, largest, read_history, sketched
from surgeon.train.outline import Outline
from surgeon.train.parallel import SOLO
from surgeon.train.settings import CptSettings
from surgeon.train.strength import Epsilon

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(gt=0)]
NEUTRAL, EXAMPLE = {"rank": 0}, {"rank": 4, "sketch": 8}


def HOLDS(options: Mapping[str, Any]) -> bool:  # noqa: N802 - a trait that depends on the options
    """Whether directions stay where they are: what acts behind the step is not to move them."""
    return options["history"] is not None


def coso(
    groups: list[dict[str, Any]], betas: tuple[float, float], model: Any, *, history: str | None = None,
    rank: Count = 64, sketch: Count = 128, every: Positive = 20,
    energy: Annotated[float, Field(gt=0, lt=1)] = 0.98, eps: Epsilon = 1e-8,
) -> torch.optim.Optimizer:  # fmt: skip
    """Continuous subspace optimization: updates of rank `rank` that are orthogonal to what earlier runs used.

    For every trained matrix W [m, n] of the blocks with gradient G: G' = G - M M^T G, where M [m, k] is its basis in
    the history; every `every` steps P is the `rank` largest left singular vectors of G' (directions that are only
    rounding are left out), and W moves by -lr P Adam(P^T G') - lr decay (I - M M^T) W. Moments are [rank, n] and stay
    when P changes. rank=0: AdamW on the whole matrix, still orthogonal to M; without a history that is adamw, byte
    for byte. What is outside the blocks, and vectors, are AdamW's.
    history: a folder OUT.run of an earlier coso run (--keep-state), or a file of train/directions.py `write_history`;
    matrices that it does not name are not protected, a shape that does not fit is refused. What the next run takes
    from this one is M and the directions that hold `energy` of its sketch: of every P times its singular values, by
    Frequent Directions in `sketch` columns (0: none; else more than `rank`).
    M^T W is that of the start within 4 * 2^-24 of the norm of W whatever the number of steps (in the tests, on 32 x
    48). That keeps the output of W along M for the inputs of any text; other outputs for old inputs do change. GPT-2
    stores its matrices the other way round: there the inputs along M are kept.
    Not known, and so ours: what becomes of the moments when P changes (each of its directions points the way of the
    one before in its place), and that Q_t is P times its singular values.
    The paper's results are of image models, with 15 / 100 / 1, 50 / 120 / 1 or 70 / 160 / 20 for rank / sketch /
    every, by data set; the defaults are ours and near the last one, energy is the paper's. Arithmetic in float32,
    decompositions in float64. Several processes that share the model share all of that too, row by row; a matrix is
    whole in each only while it is decomposed.
    Raises UsageError on adapters. Source: Cheng et al. 2025 (2505.11816), equations from notes
    """
    _check_sketch(rank, sketch)
    numbers, shapes = _matrices(groups, model)
    past = read_history(history, energy) if history is not None else {}
    _check_history({name: basis.shape for name, basis in past.items()}, shapes, history)
    return Coso(groups, betas, eps, set(numbers), past, (rank, sketch, every))


def CHECK(settings: CptSettings, options: Mapping[str, Any]) -> None:  # noqa: N802 - a trait that depends on the run
    """Refuse a sketch that is too small."""
    _check_sketch(options["rank"], options["sketch"])


def FITS(outline: Outline, options: Mapping[str, Any]) -> None:  # noqa: N802 - a trait that depends on the run
    """Refuse adapters, fused experts and the history of another model, by its shapes: it may be as large as a state,
    and its values are read once, by the run."""
    _, shapes = _matrices(outline.groups, outline.model)
    if options["history"] is not None:
        _check_history(history_shapes(options["history"]), shapes, options["history"])


def _check_history(past: Mapping[str, Sequence[int]], shapes: Mapping[str, torch.Size], history: str | None) -> None:
    for name, basis in past.items():
        if name in shapes and (len(basis) != 2 or basis[0] != shapes[name][0]):
            raise SurgeonError(
                f"the history's {name} is of {list(basis)}, the matrix of {list(shapes[name])}",
                str(history),
                "give the history of this model",
            )


def _matrices(groups: list[dict[str, Any]], model: Any) -> tuple[dict[str, int], dict[str, torch.Size]]:
    """(numbers of the blocks, shapes) by name. Raises UsageError on what is no matrix."""
    numbers = block_matrices(groups, model, "coso")
    shapes = {n: p.shape for g in groups for n, p in zip(g["names"], g["params"], strict=True) if n in numbers}
    deep = [name for name, shape in shapes.items() if len(shape) > 2]
    if deep:
        raise UsageError(
            f"coso works on matrices, and {deep[0]} holds several",
            "--optimizer coso",
            "leave the experts out: --train",
        )
    return numbers, shapes


def _check_sketch(rank: int, sketch: int) -> None:
    if 0 < sketch <= rank:
        raise UsageError(
            f"a sketch of {sketch} columns does not hold more than a gradient's {rank}", "coso:sketch", "give more"
        )


class Coso(torch.optim.AdamW):
    """See `coso`. `past` of the first group: the history. State of a matrix: `updates`, `sketch` [m, l], `kept`
    M^T W [k, n] and, in place of AdamW's, `basis` P [m, r], `exp_avg` and `exp_avg_sq` [r, n]."""

    def __init__(
        self, groups: list[dict[str, Any]], betas: tuple[float, float], eps: float, names: set[str],
        past: dict[str, Tensor], sizes: tuple[int, int, int],
    ) -> None:  # fmt: skip
        super().__init__(groups, betas=betas, eps=eps, fused=True)
        self._rank, self._sketch, self._every = sizes
        self.param_groups[0]["past"] = past
        self._matrices: dict[Tensor, Tensor | None] = {}
        for group in self.param_groups:
            for name, p in zip(group["names"], group["params"], strict=True):
                if name in names:
                    basis = past[name].to(p.device, p.dtype) if name in past else None
                    self._matrices[p] = None if basis is None else SOLO.divided(basis, p)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back a state. Raises SurgeonError where the history is not the one that the run began with."""
        before, now = state_dict["param_groups"][0]["past"], self.param_groups[0]["past"]
        if before.keys() != now.keys() or any(not torch.equal(before[n], now[n]) for n in now):
            raise SurgeonError("the history has changed since the run began", "coso:history", "put it back")
        super().load_state_dict(state_dict)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        assert closure is None
        moved, extras = [], {}
        for group in self.param_groups:
            for p in group["params"]:
                if p not in self._matrices or p.grad is None:
                    continue
                past = self._matrices[p]
                if past is not None and past.shape[0] == past.shape[1]:
                    p.grad = None  # no direction is left to move in
                    continue
                extras[p] = self._looked_at(p, past, p.grad)
                moved.append((group, p, past))
                if self._rank:
                    self.state[p] |= extras.pop(p)
                    self._adam(p, past, group)
                    p.grad = None  # AdamW leaves it alone
        super().step()
        for p, extra in extras.items():
            self.state[p] |= extra  # now: AdamW takes an empty state for a new one
        for group, p, past in moved:
            if past is not None and group["lr"] != 0:
                hold_left(p, past, needed(self.state[p]["kept"], p))

    def _looked_at(self, p: Tensor, past: Tensor | None, gradient: Tensor) -> dict[str, Any]:
        """What a gradient changes in the state of a matrix before it is updated."""
        held = self.state.get(p, {})
        found: dict[str, Any] = {"updates": held.get("updates", 0) + 1}
        if past is not None and "kept" not in held:
            found["kept"] = SOLO.divided(along(past, p), p, alike=True)
        if held.get("updates", 0) % self._every or not (self._rank or self._sketch):
            return found
        free = _free(gradient, past)
        # by the size before the projection: what that leaves of a gradient in the history is its rounding
        least = float(SOLO.full(gradient.norm())) * max(p.shape) * torch.finfo(p.dtype).eps
        size = min(self._rank or self._sketch, *p.shape)
        directions, values = largest(SOLO.full(free), size, least)
        if self._rank:
            if "basis" in held:  # the moments are of a direction, whose sign a decomposition leaves open
                turned = (directions * SOLO.full(held["basis"])).sum(0) < 0
                directions = torch.where(turned, -directions, directions)
            found["basis"] = SOLO.divided(directions, p)
        if self._sketch:
            columns = directions * values
            empty = columns.new_zeros(p.shape[0], min(self._sketch, p.shape[0]))
            before = SOLO.full(held["sketch"]) if "sketch" in held else empty
            found["sketch"] = SOLO.divided(sketched(before, columns), p)
        return found

    def _adam(self, p: Tensor, past: Tensor | None, group: dict[str, Any]) -> None:
        assert p.grad is not None
        state, (beta1, beta2), lr = self.state[p], group["betas"], group["lr"]
        inner = SOLO.divided(along(state["basis"], _free(p.grad, past)), p, alike=True)
        if "exp_avg" not in state:
            # AdamW asks every state that it loads for a step; `updates` counts
            state |= {
                "exp_avg": torch.zeros_like(inner),
                "exp_avg_sq": torch.zeros_like(inner),
                "step": torch.zeros((), dtype=inner.dtype, device=inner.device),
            }
        state["exp_avg"].lerp_(inner, 1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(inner, inner, value=1 - beta2)
        scale = (state["exp_avg_sq"].sqrt() / (1 - beta2 ** state["updates"]) ** 0.5).add_(group["eps"])
        inward = needed(state["exp_avg"] / scale, p)
        p.mul_(1 - lr * group["weight_decay"])
        SOLO.local(p).sub_(SOLO.local(state["basis"]) @ inward, alpha=lr / (1 - beta1 ** state["updates"]))


def _free(gradient: Tensor, past: Tensor | None) -> Tensor:
    """The part of a gradient that is orthogonal to the history."""
    if past is None:
        return gradient
    found = gradient.clone()
    SOLO.local(found).sub_(SOLO.local(past) @ along(past, gradient))
    return found
