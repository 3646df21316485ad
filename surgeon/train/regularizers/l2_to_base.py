"""A pull back to where the run started."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from surgeon.train.strength import Strength

KEEPS, NEUTRAL = ("anchors",), {"strength": 0.0}


def l2_to_base(
    parameters: Mapping[str, Tensor], anchors: Mapping[str, Tensor], *, strength: Strength = 0.01
) -> Tensor:
    """strength / 2 times the squared distance from the model at the start of the run; zero there.

    parameters, anchors: trained tensors by name, float32. Result: a scalar added to the mean loss of a step; without
    a graph at strength 0. Its gradient goes through the optimizer: Adam divides it by the size that gradients have, so
    a pull that keeps its own scale is meta `proximal_l2`.
    Of an adapter the factors themselves are pulled, not their product.
    Source: Xuhong et al. 2018 (1802.01483), L2-SP
    """
    if strength == 0:
        return torch.zeros(())
    terms = [(parameters[name] - anchors[name]).square().sum() for name in parameters]
    return 0.5 * strength * torch.stack(terms).sum()
