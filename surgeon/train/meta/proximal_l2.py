"""L2-SP behind the optimizer's step."""

from __future__ import annotations

from surgeon.train.hook import Run
from surgeon.train.proximal import Proximal
from surgeon.train.strength import Strength

KEEPS, NEUTRAL = ("anchors",), {"strength": 0.0}


def proximal_l2(run: Run, *, strength: Strength = 0.01) -> Proximal:
    """Pulls every trained tensor to where it started: (parameter + c start) / (1 + c), c = lr strength, after a step.

    The decoupled form of the regularizer l2_to_base. With plain SGD without momentum it is the proximal step on
    strength / 2 |parameter - start|^2. Strength 0 leaves every bit as it is; a great one ends at the start.
    Of an adapter the factors themselves are pulled, not their product.
    Source: Xuhong et al. 2018 (1802.01483), L2-SP; the closed form is ours
    """
    return Proximal(run, strength)
