"""A pull back to where the run started, on what mattered there."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from surgeon.train.fisher import TOKENS, fits, of_probe
from surgeon.train.settings import Positive
from surgeon.train.strength import Strength

MAKES, KEEPS, CORPORA = {"fisher": of_probe}, ("anchors", "fisher"), ("probe",)
NEUTRAL, FITS = {"strength": 0.0}, fits


def ewc(
    parameters: Mapping[str, Tensor], anchors: Mapping[str, Tensor], fisher: Mapping[str, Tensor], *,
    probe: str, tokens: Positive = TOKENS, strength: Strength = 1.0,
) -> Tensor:  # fmt: skip
    """strength / 2 times the sum of F (parameter - start)^2, F the Fisher diagonal of the start on a probe.

    parameters, anchors, fisher: trained tensors by name, float32; see surgeon.train.fisher. probe: a corpus of what is
    to be kept, NAME=PATH; tokens: of it, at most. F is a mean over tokens, as the loss is, so strength 1 is the
    second-order loss of the probe, weighed like the text that is trained on; its off-diagonal part is missing, and
    much more may be needed. Result: a scalar added to the mean loss of a step; without a graph at strength 0.
    Of an adapter the factors themselves are pulled, not their product.
    Source: Kirkpatrick et al. 2017 (1612.00796), elastic weight consolidation
    """
    if strength == 0:
        return torch.zeros(())
    terms = [(fisher[name] * (parameters[name] - anchors[name]).square()).sum() for name in parameters]
    return 0.5 * strength * torch.stack(terms).sum()
