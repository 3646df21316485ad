"""The identity of blocks with norms behind their branches: the gain of these norms is set to silence them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from surgeon.arch.family import Family
from surgeon.errors import UsageError
from surgeon.expand.fill import LR_MULTIPLIER, Filled, identity_start, silence_norms

Multiplier = Annotated[float, Field(ge=0, allow_inf_nan=False)]  # a rate below 0 would climb the loss


def norm_gain(family: Family, block: int, *, lr_multiplier: Multiplier = LR_MULTIPLIER) -> Filled:
    """A copy of `block` whose post-norms have the gain zero (stored as -1 where the model adds 1); exact in any dtype.

    Output projections stay as copied, so only the gains get a gradient at first: `lr_multiplier` is recorded for
    them. It needs a norm behind every branch of the block: refused where one has none, as in families without such
    norms, and in some blocks of mixed ones (OLMo hybrid), for which auto is the fill.
    """
    ends = family.branches(block)
    if ends.bare:
        mixed = f" behind {ends.bare[0]!r} in block {block}" if family.declaration.branches else ""
        raise UsageError(
            f"the fill norm_gain needs norms behind the branches, which {family.name} does not have{mixed}",
            "--fill norm_gain",
            "leave the choice to auto" if mixed else "use --fill zero, or leave the choice to auto",
        )
    sources = identity_start(family, block)
    return Filled(sources, silence_norms(sources, family, ends.post_norms, lr_multiplier))
