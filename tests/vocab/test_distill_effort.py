"""How hard the default is fitted: one matrix for both is spared where old text hears what it says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from static_material import Said
from vocab_models import body_folder

from surgeon.vocab.body import Body
from surgeon.vocab.budget import FITTED_HALF
from surgeon.vocab.inits import distill_hull
from surgeon.vocab.inits.distill_hull import TIED, UNHEARD, UNTIED, effort
from surgeon.vocab.tokens import NewTokens


def test_the_threshold_is_a_tenth_of_the_budget() -> None:
    assert effort(True, 0.00199, 0.02) == UNHEARD
    assert effort(True, 0.00201, 0.02) == TIED
    assert effort(False, 0.00199, 0.02) == effort(False, 1.0, 0.02) == UNTIED


@pytest.mark.parametrize("tied", [True, False])
def test_what_is_heard_is_what_the_first_rows_cost(
    tied: bool, stories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Computed here from the logits of the rows that a fit of no steps gives back."""
    body = Body(body_folder(tmp_path / "body", stories, 60, 16), "cpu")
    with torch.no_grad():
        for parameter in body.model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    draw = torch.Generator().manual_seed(0)
    text = torch.randint(3, 62, (6, 15), generator=draw).tolist()
    probe = torch.randint(3, 60, (5, 20), generator=draw).tolist()
    new = NewTokens(("x", "y"), (60, 61), ((5, 6), (7, 8)), tuple(range(3, 60)), lambda: text)
    asked: list[tuple[bool, float, float]] = []

    def told(tied: bool, heard: float, budget: float) -> distill_hull.Effort:
        asked.append((tied, heard, budget))
        return TIED

    monkeypatch.setattr(distill_hull, "effort", told)
    _, last = distill_hull.distill_hull(
        new, body, tied, 0, Said(), lambda: probe, 0.05, steps=0, tokens_per_step=96, seq_len=16, num_snippets=2
    )
    with torch.no_grad():
        hidden = body.hidden_states(lambda: probe, 1000, FITTED_HALF).double()
        old = body.head.weight.double()
        both = hidden @ torch.cat([old, last.rows(body.head.weight)]).T
    expected = float((both.logsumexp(1) - (hidden @ old.T).logsumexp(1)).mean())
    assert asked == [(tied, pytest.approx(expected, rel=1e-4), 0.05)]
