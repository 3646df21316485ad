"""What old text loses to the new output rows, measured on its hidden states and, with a budget, held below it.

A new row takes probability from the old ones even where it never wins; a share of the mean row in it takes less.

Shape suffixes: V old rows, N new rows, D columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from surgeon.errors import SurgeonError, UsageError
from surgeon.ops.plan import runs
from surgeon.progress import SILENT, Progress
from surgeon.vocab.body import Body
from surgeon.vocab.hull import Combination
from surgeon.vocab.old_loss import NewRowsBeside, OldModel, Output
from surgeon.vocab.tokens import NewTokens

POSITIONS = 16_384
FINEST = 4096  # a share is a multiple of 1/4096, so that the last bits of a measurement do not move it
FITTED_HALF, MEASURED_HALF = 0, 1  # of a probe that an init reads: what it fits its rows to, and what judges them
_GRID = 16


@dataclass(frozen=True)
class Calibration:
    """What the probe measured of the output rows as they are stored; losses in nats a token, means over `positions`.

    share: of the mean that was mixed in to meet `budget` (None: only measured). loss_increase: of old text;
    unmixed_loss_increase: the same with no share. argmax_kept: the share of positions at which no new row is strictly
    above every old one. margin: the least distance, in logits, from the best old row down to the best new one.
    worst_bound = log(1 + max_i c_i) and unigram_bound = log(1 + sum_i c_i p_i) hold before any measurement, with c
    the column sums of the weights and p the mean old distribution; None for dense rows and under a soft cap.
    """

    share: float
    loss_increase: float
    unmixed_loss_increase: float
    worst_bound: float | None
    unigram_bound: float | None
    argmax_kept: float
    margin: float
    positions: int
    budget: float | None

    def to_json(self) -> dict[str, Any]:
        """Losses, bounds and margin to four digits: the rest is rounding, which may differ between machines."""
        keep = ("share", "argmax_kept", "positions", "budget")
        return {k: v if k in keep or v is None else float(f"{v:.4g}") for k, v in asdict(self).items()}


def calibrated(
    body: Body,
    given: Any,
    head_VD: Tensor,
    new: NewTokens,
    probe: Callable[[], Iterable[list[int]]],
    budget: float | None,
    progress: Progress = SILENT,
    *,
    padding: int = 0,
    positions: int = POSITIONS,
    half: int | None = None,
    bias: Tensor | None = None,
) -> tuple[Any, Calibration]:
    """The rows to store and what they cost on up to `positions` hidden states of the probe.

    given: a Combination or float64 rows [N, D]. head_VD: the output matrix as stored. probe: gives ids of old text.
    padding: how many further rows of the mean the matrix gets; they take part in the softmax too, and so do all rows
    that are stored now, except those that new ids replace. With a budget the weights become (1 - a) w + a mean for
    the least a (a multiple of 1/4096) at which the rows rounded to the matrix's dtype raise the loss by at most the
    budget; where the model is tied, the one matrix is mixed, and so the input rows are too. The loss is convex in a
    (a sum of exponentials of what is linear in a), so one search from 0 upwards finds it; under a soft cap it need not
    be, and a is then the first crossing on a grid of 1/16. Logits in float32, sums in float64, argmax in float64.
    half: the part of the probe that is measured (`Body.hidden_states`), for rows that were fitted to the other one:
    they cost the text that they were fitted to less than other text. bias: float64 [N], those of dense rows, where
    they are not the mean's.
    Raises SurgeonError where the rows are no Combination (with a budget) or the mean itself costs more.

    Source: the bounds follow from convexity of exp on Constrained Word2Vec's weights (arXiv 2407.05841, section 3);
    for equal weights they give Hewitt 2021, log(1 + N/V). Neither calibrates; the measurement here is ours.
    """
    if budget is not None and not isinstance(given, Combination):
        raise UsageError("only convex rows can be mixed to keep a budget", "--old-loss-budget", "add --project hull")
    with progress.task("measuring old text", None, "tokens") as advance, torch.no_grad():
        hidden_PD = body.hidden_states(probe, positions, half)
        old = OldModel.measure(body.head, hidden_PD, [i for i in new.ids if i < len(head_VD)])
        table = NewRowsBeside(old, head_VD, new, padding, bias)
        first = table.measure(table.stored(given))
        share, found, mix = 0.0, first, given
        if budget is not None and first.loss > budget:
            share = _least_share(table, given, budget)
            while True:
                mix = mixed(given, share, new)
                found = table.measure(table.stored(mix))
                if found.loss <= budget:
                    break
                if share >= 1:
                    raise _too_dear(budget, found.loss, found.loss)
                share += 1 / FINEST  # rounding took it over the budget
        advance(len(hidden_PD))
    worst, unigram = table.bounds(mix)
    measured = Calibration(
        share, found.loss, first.loss, worst, unigram, found.kept, found.margin, len(hidden_PD), budget
    )
    progress.say(
        f"old text: {found.loss:.4f} nats a token more, argmax kept at {100 * found.kept:.2f} % of {len(hidden_PD):,} "
        f"positions" + (f", share of the mean {share:.4f}" if share else "")
    )
    return mix, measured


def mixed(given: Combination, share: float, new: NewTokens) -> Combination:
    """(1 - share) of the combination and `share` of the mean it holds already, else of that of the usable rows."""
    if share == 0:
        return given
    ids = torch.tensor(runs(new.usable), dtype=torch.int64) if given.mean_ids is None else given.mean_ids
    held = torch.zeros(len(given), dtype=torch.float64) if given.mean_weights is None else given.mean_weights
    return replace(given, weights=given.weights * (1 - share), mean_weights=held * (1 - share) + share, mean_ids=ids)


def _least_share(table: NewRowsBeside, given: Combination, budget: float) -> float:
    """The least multiple of 1/FINEST at which the loss (before rounding) meets the budget."""
    output, mean = table.exact(given), table.exact(mixed(given, 1.0, table.new))
    mean = Output(mean.rows[:1], None if mean.bias is None else mean.bias[:1])
    step = FINEST // _GRID
    points = range(0, FINEST + 1, step)
    losses = table.losses(output, mean, [k / FINEST for k in points])
    if min(losses) > budget:
        raise _too_dear(budget, losses[-1], min(losses))
    high = _first(points, losses, budget, FINEST)
    while high > 0 and step > 1:
        points, step = range(high - step + step // _GRID, high, step // _GRID), step // _GRID
        high = _first(points, table.losses(output, mean, [k / FINEST for k in points]), budget, high)
    return high / FINEST


def _first(points: Sequence[int], losses: Sequence[float], budget: float, otherwise: int) -> int:
    return next((k for k, loss in zip(points, losses, strict=True) if loss <= budget), otherwise)


def _too_dear(budget: float, mean: float, least: float) -> SurgeonError:
    return SurgeonError(
        f"the new rows cost old text {least:.4f} nats a token at the least, and the mean alone {mean:.4f}: "
        f"a budget of {budget:g} cannot be met",
        "--old-loss-budget",
        "raise it, or add fewer tokens",
    )
