"""How hard the default is fitted: one matrix for both is spared where old text hears what it says."""

from __future__ import annotations

from pathlib import Path

import torch
from vocab_models import body_folder

from surgeon.vocab.body import Body
from surgeon.vocab.inits.distill_hull import TIED, UNHEARD, UNTIED, effort
from surgeon.vocab.old_loss import OldModel
from surgeon.vocab.simplex import Simplex


def test_rows_that_old_text_does_not_hear_are_fitted_as_if_they_were_not_tied(stories: Path, tmp_path: Path) -> None:
    """What they lose is computed here from the logits; the threshold is a tenth of the budget."""
    body = Body(body_folder(tmp_path / "body", stories, 60, 16), "cpu")
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        body.head.weight.normal_(std=0.5, generator=draw)
        hidden = torch.randn(3000, body.head.weight.shape[1], generator=draw)
        old = OldModel.measure(body.head, hidden, [])
    usable = tuple(range(3, 60))
    start = Simplex([{5: 0.6, 6: 0.3}, {7: 0.2}], usable, body.head.weight, body.head.bias)
    with torch.no_grad():
        logits = hidden.double() @ torch.cat([body.head.weight, start.rows()]).double().T
        lost = float((logits.logsumexp(1) - logits[:, :60].logsumexp(1)).mean())
    assert lost > 0.001
    assert effort(True, old, start, 10.01 * lost) == UNHEARD
    assert effort(True, old, start, 9.99 * lost) == TIED
    assert effort(False, old, start, 10.01 * lost) == UNTIED
    assert start.logits.grad is None
