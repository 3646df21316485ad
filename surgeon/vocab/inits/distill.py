"""Token distillation: a word read as one new token should leave the hidden states that its old pieces left.

Shape suffixes: N new rows, D columns, B windows, S tokens of a window, P positions that are compared.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from surgeon.errors import SurgeonError, UsageError
from surgeon.loading import context_length
from surgeon.progress import Progress
from surgeon.vocab.body import Body
from surgeon.vocab.extended import Extended, extended
from surgeon.vocab.inits.subword_mean import subword_mean
from surgeon.vocab.part_gradients import PartResult, draws, gradients
from surgeon.vocab.tokens import NewTokens
from surgeon.vocab.twice import Twice, fitting, padded, twice
from surgeon.vocab.windows import drawn, snippets, start_ids

HULL = False
BATCH_INDEPENDENT = False  # new tokens that stand in one window are trained together
READS_TEXT = True
PAIRED = True
_PART = 4  # windows of a part


def distill(
    new: NewTokens,
    body: Body,
    tied: bool,
    pair_seed: int,
    progress: Progress,
    *,
    relative_lr: float = 0.03,
    num_snippets: int = 25,
    snippet_length: int = 50,
    batch: int = 16,
    epochs: int = 1,
    ntp: bool = True,
    max_tokens: int = 10_000_000,
    max_windows: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Input rows that minimise the mean squared error between the last hidden states under the new and the old tokens.

    Windows of `snippet_length` tokens are taken from the target text until each new token stands in
    `num_snippets` of them. Compared are all positions from the first new token of a window on: that of a new token
    with that of its last piece. Rows start as the mean of their pieces and are trained by Adam in float32; the body
    and old rows are frozen. Tokens that the text does not hold stay at the mean. A window ends where its old form
    would be longer than the model's context; max_windows: so many of them are drawn and read (None: all).

    ntp: output rows learn to predict the text (next-token loss, which does not reach the input rows). Where the
    matrices are tied, the one row gets both gradients, the next-token loss scaled to the size of the error (the
    paper's alpha NTP), for a row that only matches hidden states is a bad output row. Without it output rows stay at
    the mean, and tied rows match hidden states alone. Rows of both are free: `--project hull` brings them back.

    Against the released code: a window trains all new tokens in it and not one; `relative_lr` counts in the root mean
    square of the old rows, so that it fits any model (the code's 1e-4 does not: rows here have 0.09 or 0.3); no
    warm-up; 25 windows a token and not 100, which give a little more in four times the time.
    Source: Token Distillation (AweDist), arXiv 2505.20133, section 3, and its code's default for output rows.
    """
    counts = (num_snippets, batch, max_tokens, *([] if max_windows is None else [max_windows]))
    if min(counts) < 1 or epochs < 0 or snippet_length < 2 or not relative_lr > 0:
        raise UsageError("a count or the learning rate is too small", "--option", "see `surgeon methods init`")
    rng = np.random.Generator(np.random.Philox(pair_seed))
    start = start_ids(body.path)
    pieces = dict(zip(new.ids, new.pieces, strict=True))
    context = context_length(body.model)
    room = None if context is None else context - len(start)
    cut = (fitting(w, pieces, room) for w in snippets(new, snippet_length, num_snippets, max_tokens, "distill"))
    windows = drawn((window for window in cut if any(token in pieces for token in window)), max_windows, rng)
    if not windows:
        raise SurgeonError("the target text holds none of the new tokens", "--corpus", "give text that uses them")
    mean = subword_mean(new)
    with extended(body.model, new.ids, str(body.path)) as model, gradients(model.device) as gradient_of:
        olds = [model.old_input] if tied else [model.old_input, model.old_output]
        rows = [mean.rows(old.detach().cpu()).to(old) for old in olds]
        bias = None if model.old_bias is None else mean.rows(model.old_bias.detach().cpu()).to(model.old_bias)
        adam = torch.optim.Adam(
            [
                {"params": [row.requires_grad_()], "lr": relative_lr * float(old.square().mean().sqrt())}
                for row, old in zip(rows, olds, strict=True)
            ]
        )
        steps = -(-len(windows) // batch) * epochs
        errors: list[float] = []
        with progress.task("distilling tokens", steps, "steps") as advance:
            for picked in draws(len(windows), batch, steps, rng):
                chosen = [twice(windows[i], pieces, start) for i in picked]
                model.set(rows[0], rows[-1], bias)
                count = sum(sum(one.compared_new) for one in chosen), sum(len(one.new) - 1 for one in chosen)

                def part(items: list[Twice], count: tuple[int, int] = count) -> PartResult:
                    return _part(model, items, rows, count, ntp)

                (error, loss), (to_input, to_output) = gradient_of(part, chosen, _PART)
                _assign(rows, to_input, to_output, error / loss if loss else 0.0)
                adam.step()
                errors.append(error)
                advance(1)
    tenths = [piece for piece in np.array_split(np.asarray(errors), 10) if len(piece)]
    progress.say("mean squared error of hidden states: " + " ".join(f"{piece.mean():.4g}" for piece in tenths))
    found = [row.detach().to("cpu", torch.float64) for row in rows]
    return found[0], found[-1]


def _assign(rows: list[Tensor], to_input: Tensor | None, to_output: Tensor | None, alpha: float) -> None:
    """Gradients of the rows: of two matrices each its own; of a tied one both, the second scaled by alpha."""
    if len(rows) == 2:
        rows[0].grad, rows[1].grad = to_input, to_output
    elif to_input is not None and to_output is not None:
        rows[0].grad = to_input + alpha * to_output
    else:
        rows[0].grad = to_input


def _part(model: Extended, items: list[Twice], rows: list[Tensor], count: tuple[int, int], ntp: bool) -> PartResult:
    """The error and the next-token loss as shares of a step's means, and their gradients for the input and output."""
    device = model.device
    with torch.no_grad():
        old = model.hidden(padded([one.old for one in items], 0).to(device))
    new_BS = padded([one.new for one in items], 0).to(device)
    if ntp:
        hidden, logits = model.both(new_BS)
    else:
        hidden, logits = model.hidden(new_BS), None
    of_new, of_old = (
        padded(m, 0).bool().to(device) for m in ([o.compared_new for o in items], [o.compared_old for o in items])
    )
    error = mse_loss(hidden[of_new], old[of_old], reduction="sum") / (count[0] * hidden.shape[-1])
    (to_input,) = torch.autograd.grad(error, [rows[0]], retain_graph=logits is not None)
    if logits is None:
        return [float(error.detach()), 0.0], [to_input, None]
    labels = padded([one.new for one in items], -100).to(device)[:, 1:]
    loss = cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels.flatten(), reduction="sum") / count[1]
    (to_output,) = torch.autograd.grad(loss, [rows[-1]])
    return [float(error.detach()), float(loss.detach())], [to_input, to_output]
