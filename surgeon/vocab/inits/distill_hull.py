"""Distilled rows, brought into the hull and fitted there to the target text while old text keeps its budget.

Shape suffixes: N new rows, D columns, R rows of text, P positions of the probe.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from surgeon.errors import UsageError
from surgeon.loading import context_length
from surgeon.progress import Progress
from surgeon.vocab.body import Body
from surgeon.vocab.budget import FITTED_HALF
from surgeon.vocab.extended import extended
from surgeon.vocab.hull import Combination
from surgeon.vocab.inits.distill import distill
from surgeon.vocab.next_token import backward, next_token
from surgeon.vocab.old_loss import OldModel
from surgeon.vocab.old_text_price import Price, old_text_loss
from surgeon.vocab.part_gradients import draws, gradients
from surgeon.vocab.project import project_hull
from surgeon.vocab.simplex import Simplex
from surgeon.vocab.tokens import NewTokens, Sequences
from surgeon.vocab.windows import packed_rows, start_ids

HULL = False  # output rows are convex, and so are tied ones; input rows of their own are free
BATCH_INDEPENDENT = False  # all new tokens are trained together
READS_TEXT = True
READS_PROBE = True
PAIRED = True
_POSITIONS, _POSITIONS_A_STEP = 32_768, 2048  # of the half of the probe that is fitted to; of each step
_PIECES, _QUIET, _MEAN = 0.05, 0.05, 0.02  # shares beside the projection, so that each of them can grow
_FIRST_PRICE = 5.0
_ROUND, _JOINING, _NEWCOMER = 10, 0.6, 0.01  # steps of a round; the share of steps in which rows join; their weight
_REPORTS = 5


class Effort(NamedTuple):
    """max_windows that are distilled; `steps` of the fit at the rate `lr`, with `join` old rows a round."""

    max_windows: int
    steps: int
    lr: float
    join: int


# one matrix for both is trained less on the text, for what is fitted fast there is better at the start and worse after
# training; but not where old text does not hear it
TIED, UNHEARD, UNTIED = Effort(4096, 100, 0.05, 0), Effort(4096, 200, 0.2, 2), Effort(2048, 200, 0.2, 2)
_UNHEARD = 0.1  # of the budget


def distill_hull(
    new: NewTokens,
    body: Body,
    tied: bool,
    pair_seed: int,
    progress: Progress,
    probe: Sequences | None,
    old_loss_budget: float | None,
    *,
    num_snippets: int = 100,
    max_windows: int | None = None,
    max_old_rows: int = 32,
    quiet: int = 8,
    steps: int | None = None,
    lr: float | None = None,
    join: int | None = None,
    relative_lr: float = 0.02,
    tokens_per_step: int = 1024,
    seq_len: int = 256,
    max_tokens: int = 1_000_000,
) -> tuple[Tensor | Combination, Combination]:
    """Token distillation for what a new token means, and convex weights fitted under the budget for what it says.

    1. Free rows by `distill`, from up to `max_windows` windows of the target text, `num_snippets` of a token at most.
    2. Output rows (both, where the matrices are tied) become the nearest convex combinations of at most
       `max_old_rows` old rows, and get small shares of their pieces, of the mean, and of the `quiet` old rows that the
       probe expects least.
    3. Adam on the logits of these weights lowers the next-token loss of the target text plus a price times what the
       probe loses; the price rises while that is more than the budget. `steps` steps at `lr`, falling to zero, read
       `tokens_per_step` tokens each in rows of `seq_len` (the model's context, or the text, where that is shorter).
       Every 10 steps, up to 6 tenths of them, the `join` old rows towards which that sum falls most steeply join the
       combination of each new row. Input rows of their own are trained beside them, on the loss of the target text
       alone, at `relative_lr` root mean squares of the old ones (0: they stay as distilled).
    max_windows, steps, lr, join, for what is not given: UNTIED where the matrices are not tied; where they are,
    UNHEARD if old text loses less than a tenth of the budget to the rows of 2 (they are of another script), else TIED.
    The fit reads one half of the probe. What extend-vocab then measures of the other half decides: a share of the mean
    takes away what is left above the budget.

    Why it is the default where a text and a probe are given: on a small model, tied and untied, it starts better than
    weighted pieces within the same budget and is still ahead after training (benchmarks/README.md, Inits). Only output
    rows can win over an old one, so only they have to be convex; free input rows leave old text as it is. It costs a
    pass forwards and backwards over max_windows windows and steps * tokens_per_step tokens (0.3 to 0.4 million by
    default, whatever the number of new tokens) and one forwards over the windows in old tokens, and a product of new
    and old rows every 10 steps; `weighted_pieces` trains nothing.
    Source: Token Distillation, arXiv 2505.20133, section 3; the hull of Constrained Word2Vec, arXiv 2407.05841; the
    fit under a budget is ours.
    """
    if probe is None or old_loss_budget is None:
        raise UsageError("the init 'distill_hull' holds old text to a budget", "--probe", "add --probe CORPUS")
    if max_windows is None:
        max_windows = (TIED if tied else UNTIED).max_windows
    counts = [quiet, relative_lr, *(number for number in (steps, join) if number is not None)]
    if (
        min(max_old_rows, tokens_per_step, max_tokens) < 1
        or min(counts) < 0
        or seq_len < 2
        or not (lr is None or lr > 0)
    ):
        raise UsageError("a count or the learning rate is too small", "--option", "see `surgeon methods init`")
    first_ND, last_ND = distill(
        new, body, tied, pair_seed, progress, num_snippets=num_snippets, max_windows=max_windows
    )
    start = start_ids(body.path)
    seq_len = min(seq_len, context_length(body.model) or seq_len, max(2, _length(new, start, seq_len)))
    rows_RS = packed_rows(new, start, seq_len, max_tokens, "distill_hull")
    rng = np.random.Generator(np.random.Philox(pair_seed))
    old_VD = body.head.weight
    near = project_hull(last_ND, old_VD.cpu(), new.usable, progress, iterations=max_old_rows)
    with gradients(old_VD.device) as gradient_of:
        old = _old_text(body, new, probe)
        start_rows = _start(near, new, _quietest(old, new, quiet))
        heard = _lost(old, Simplex(start_rows, new.usable, old_VD, body.head.bias))
        progress.say(f"old text loses {heard:.5f} nats a token to the rows that the fit starts from")
        usual = effort(tied, heard, old_loss_budget)
        steps, lr = usual.steps if steps is None else steps, usual.lr if lr is None else lr
        join = usual.join if join is None else join
        rounds = range(_ROUND, int(_JOINING * steps) + 1, _ROUND)
        last = Simplex(start_rows, new.usable, old_VD, body.head.bias, room=join * len(rounds))
        steep_ND = torch.zeros(len(new), old_VD.shape[1], device=old_VD.device)
        first = None if tied else first_ND.to(old_VD).requires_grad_()
        groups: list[dict[str, Any]] = [{"params": [last.logits], "lr": lr}]
        if first is not None:
            size = float(body.model.get_input_embeddings().weight.square().mean().sqrt())
            groups.append({"params": [first], "lr": relative_lr * size})
        adam = torch.optim.Adam(groups)
        rates = [group["lr"] for group in groups]
        price = Price(old_loss_budget, _FIRST_PRICE)
        history: list[tuple[float, float]] = []
        texts = draws(len(rows_RS), max(1, tokens_per_step // seq_len), steps, rng)
        positions = draws(len(old.hidden), max(1, min(_POSITIONS_A_STEP, len(old.hidden) // 4)), steps, rng)
        with (
            extended(body.model, new.ids, str(body.path)) as model,
            progress.task("fitting convex weights", steps, "steps") as advance,
        ):
            for t, (picked, at) in enumerate(zip(texts, positions, strict=True)):
                if join and t in rounds:
                    last.join(steep_ND, join, _NEWCOMER)
                    steep_ND.zero_()
                made = [tensor for tensor in (last.rows(), last.biases()) if tensor is not None]
                leaves = [tensor.detach().requires_grad_() for tensor in made]
                bias = leaves[1] if len(leaves) > 1 else None
                model.set(leaves[0] if first is None else first, leaves[0], bias)
                inputs = [] if first is None else [first]
                loss, grads = next_token(model, gradient_of, rows_RS[picked], leaves + inputs)
                lost = old_text_loss(old, torch.from_numpy(at).to(old_VD.device), leaves[0], bias)
                dear = [g if g is None else price.value * g for g in (lost.rows, lost.bias)]
                steep_ND += price.value * lost.rows if grads[0] is None else grads[0] + price.value * lost.rows
                for group, rate in zip(adam.param_groups, rates, strict=True):
                    group["lr"] = rate * (1 - t / steps)
                adam.zero_grad(set_to_none=True)
                backward(made + made, grads[: len(made)] + dear[: len(made)])
                if first is not None:
                    first.grad = grads[-1]
                adam.step()
                price.update(lost.value)
                history.append((loss, lost.value))
                advance(1)
    _say(history, progress)
    given = last.combination()
    return (given if first is None else first.detach().to("cpu", torch.float64)), given


def effort(tied: bool, heard: float, budget: float) -> Effort:
    """What is not given. heard: nats a token that the probe loses to the rows that the fit starts from."""
    if not tied:
        return UNTIED
    return UNHEARD if heard < _UNHEARD * budget else TIED


def _lost(old: OldModel, rows: Simplex) -> float:
    """Nats a token, over all positions held. Called as `_old_text` is."""
    every, bias = torch.arange(len(old.hidden), device=old.hidden.device), rows.biases()
    return old_text_loss(old, every, rows.rows().detach(), None if bias is None else bias.detach()).value


def _length(new: NewTokens, start: Sequence[int], enough: int) -> int:
    """Tokens of the target text with what stands before its documents, counted as far as `enough`."""
    total = 0
    for document in new.text("distill_hull"):
        total += len(start) + len(document)
        if total >= enough:
            break
    return total


def _old_text(body: Body, new: NewTokens, probe: Sequences) -> OldModel:
    """Called where torch is held to one thread, so that its sums do not depend on how many there are."""
    with torch.no_grad():
        hidden_PD = body.hidden_states(probe, _POSITIONS, FITTED_HALF)
        return OldModel.measure(body.head, hidden_PD, [i for i in new.ids if i < len(body.head.weight)])


def _quietest(old: OldModel, new: NewTokens, count: int) -> list[int]:
    usable = torch.tensor(new.usable)
    order = old.mean.cpu()[usable].argsort(stable=True)
    found: list[int] = usable[order[:count]].tolist()
    return found


def _start(near: Combination, new: NewTokens, quiet: Sequence[int]) -> list[dict[int, float]]:
    """Of each new token old id -> weight; what they lack of 1 stands on the mean."""
    allowed = set(new.usable)
    ends = near.offsets.tolist()
    chosen: list[dict[int, float]] = []
    for pieces, a, b in zip(new.pieces, ends, ends[1:], strict=False):
        known = [p for p in pieces if p in allowed]
        shares = [(p, _PIECES / len(known)) for p in known] + [(q, _QUIET / len(quiet)) for q in quiet]
        kept = 1 - _MEAN - sum(share for _, share in shares)
        row: dict[int, float] = {}
        for i, w in zip(near.indices[a:b].tolist(), near.weights[a:b].tolist(), strict=True):
            row[i] = kept * w
        for i, share in shares:
            row[i] = row.get(i, 0.0) + share
        chosen.append(row)
    return chosen


def _say(history: list[tuple[float, float]], progress: Progress) -> None:
    """The mean losses of each fifth of the steps."""
    parts = [part.mean(0) for part in np.array_split(np.asarray(history), _REPORTS) if len(part)]
    if parts:
        progress.say("loss of the target text, nats a token: " + " ".join(f"{part[0]:.3f}" for part in parts))
        progress.say("what old text loses, nats a token: " + " ".join(f"{part[1]:.4f}" for part in parts))
