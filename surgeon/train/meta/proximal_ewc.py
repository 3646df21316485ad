"""Elastic weight consolidation behind the optimizer's step."""

from __future__ import annotations

from surgeon.train.fisher import TOKENS, fisher, fits
from surgeon.train.hook import Run
from surgeon.train.proximal import Proximal
from surgeon.train.settings import Positive
from surgeon.train.strength import Strength

KEEPS, CORPORA, NEUTRAL = ("anchors", "fisher"), ("probe",), {"strength": 0.0}
BY_ELEMENT, FITS = True, fits


def proximal_ewc(run: Run, *, probe: str, tokens: Positive = TOKENS, strength: Strength = 1.0) -> Proximal:
    """Pulls every element back by what it matters for a probe: (parameter + c start) / (1 + c), c = lr strength F.

    F: the Fisher diagonal of the start on the corpus `probe` (NAME=PATH), of at most so many `tokens`; see
    surgeon.train.fisher. The decoupled form of the regularizer ewc: an element that matters stays, one that does not
    is free, and no strength makes a step unstable. Refused beside osf and coso: shares of the
    way that differ by element lead out of the directions that they hold. Strength 0 leaves every bit as it is.
    Of an adapter the factors themselves are pulled, not their product.
    Source: Kirkpatrick et al. 2017 (1612.00796), elastic weight consolidation; the closed form is ours
    """
    return Proximal(run, strength, fisher(run, probe, int(tokens)) if strength else None)
