"""How low an init can get: rows trained on the text itself for long, with and without what the default promises.

`python benchmarks/vocab_quality.py --inits "floor,floor within 0.02,floor in the hull within 0.02"` runs it beside the
inits. It is a measure and not an init to use: it fits rows to a million tokens of the training text, and in the hull
all old rows carry weight. What training in another way could gain beyond it is not excluded.

Shape suffixes: V old rows, U usable ones, N new rows, D columns, P positions of the probe, R rows of text.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from surgeon.errors import UsageError
from surgeon.progress import Progress
from surgeon.vocab.body import Body
from surgeon.vocab.extended import extended
from surgeon.vocab.inits.subword_mean import subword_mean
from surgeon.vocab.next_token import next_token
from surgeon.vocab.old_loss import OldModel
from surgeon.vocab.old_text_price import Price
from surgeon.vocab.part_gradients import draws, gradients
from surgeon.vocab.tokens import NewTokens, Sequences
from surgeon.vocab.windows import packed_rows, start_ids

HULL = False
BATCH_INDEPENDENT = False  # all new tokens are trained together
READS_TEXT = True
PAIRED = True
_POSITIONS, _AT_ONCE = 16_384, 4_096  # of the probe
_PIECES = 0.5  # share of the pieces at the start of convex weights; the rest stands evenly on all old rows
_MARGIN, _WINS = 1.0, 10.0  # logits that new rows shall stay below the best old one, nats a logit that they do not
_FIRST_PRICE = 5.0


def floor(
    new: NewTokens,
    body: Body,
    tied: bool,
    pair_seed: int,
    progress: Progress,
    probe: Sequences | None,
    *,
    steps: int = 1000,
    lr: float = 0.03,
    weight_lr: float = 0.3,
    tokens_per_step: int = 1024,
    seq_len: int = 128,
    limit: float | None = None,
    hull: bool = False,
) -> tuple[Tensor, Tensor]:
    """(input rows, output rows), float64 [N, D]: what Adam makes of the means of the pieces with the body frozen.

    The next-token loss of the target text is minimised, `lr` in root mean squares of the old rows, falling to zero.
    limit: nats a token that the probe may lose (a price, as in `distill_hull`); then a new row that comes within one
    logit of the best old one at a position of the probe costs too. hull: output rows (tied ones whole) are softmax
    weights over all usable old rows, trained at `weight_lr`.
    """
    if limit is not None and probe is None:
        raise UsageError("old text is held to a limit", "--probe", "add --probe CORPUS")
    rows_RS = packed_rows(new, start_ids(body.path), seq_len, 10_000_000, "floor")
    rng = np.random.Generator(np.random.Philox(pair_seed))
    price = Price(limit or 1.0, _FIRST_PRICE)
    history: list[tuple[float, float]] = []
    with (
        gradients(body.head.weight.device) as gradient_of,
        progress.task("looking for the floor", steps, "steps") as advance,
    ):
        old = None if limit is None or probe is None else _old_text(body, probe)
        with extended(body.model, new.ids, str(body.path)) as model:
            olds = [model.old_input] if tied else [model.old_input, model.old_output]
            mean = subword_mean(new)
            rows = [mean.rows(matrix.detach().cpu()).to(matrix).requires_grad_() for matrix in olds]
            groups = [
                {"params": [row], "lr": lr * float(matrix.square().mean().sqrt())}
                for row, matrix in zip(rows, olds, strict=True)
            ]
            if hull:
                usable_UD = olds[-1].detach()[list(new.usable)]
                weights_NU = mean.rows(torch.eye(len(olds[-1])))[:, list(new.usable)].float() * _PIECES
                logits_NU = (weights_NU + (1 - weights_NU.sum(1, keepdim=True)) / len(new.usable)).log()
                logits_NU = logits_NU.to(usable_UD.device).requires_grad_()
                groups[-1] = {"params": [logits_NU], "lr": weight_lr}
            adam = torch.optim.Adam(groups)
            rates = [group["lr"] for group in adam.param_groups]
            for t, picked in enumerate(draws(len(rows_RS), max(1, tokens_per_step // seq_len), steps, rng)):
                made = torch.softmax(logits_NU, 1) @ usable_UD if hull else None
                if made is not None:
                    rows[-1] = made.detach().requires_grad_()
                model.set(rows[0], rows[-1])
                loss, grads = next_token(model, gradient_of, rows_RS[picked], rows)
                adam.zero_grad(set_to_none=True)
                for row, grad in zip(rows, grads, strict=True):
                    row.grad = grad
                lost = 0.0
                if old is not None:
                    at = torch.from_numpy(rng.permutation(len(old.hidden))[:_AT_ONCE]).to(old.hidden.device)
                    taken, wins = _old_text_costs(old, at, rows[-1])
                    (price.value * taken + _WINS * wins).backward()
                    lost = float(taken.detach())
                    price.update(lost)
                for group, rate in zip(adam.param_groups, rates, strict=True):
                    group["lr"] = rate * (1 - t / steps)
                if made is not None:
                    made.backward(rows[-1].grad)
                adam.step()
                history.append((loss, lost))
                advance(1)
            found = [row.detach().to("cpu", torch.float64) for row in rows]
            if hull:
                found[-1] = torch.softmax(logits_NU.detach().double(), 1).cpu() @ usable_UD.double().cpu()
    for name, column in zip(("target text", "old text, lost"), np.asarray(history).T, strict=True):
        tenths = (part.mean() for part in np.array_split(column, 10) if len(part))
        progress.say(f"{name}, nats a token: " + " ".join(f"{mean:.4f}" for mean in tenths))
    return found[0], found[-1]


def _old_text(body: Body, probe: Sequences) -> OldModel:
    with torch.no_grad():
        return OldModel.measure(body.head, body.hidden_states(probe, _POSITIONS), [])


def _old_text_costs(old: OldModel, at_P: Tensor, rows_ND: Tensor) -> tuple[Tensor, Tensor]:
    """(nats a token that old text loses, mean logits by which the best new row comes too near the best old one)."""
    logits_PN = old.head.cap(old.head.scale * (old.hidden[at_P] @ rows_ND.T))
    taken = (logits_PN - old.log_z[at_P, None].to(logits_PN)).exp().sum(1).log1p().mean()
    return taken, (logits_PN - old.best_logit[at_P, None] + _MARGIN).relu().amax(1).mean()
