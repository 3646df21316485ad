"""The identity of families with norms behind their branches: the gain of these norms is set to silence them."""

from __future__ import annotations

from surgeon.arch.family import Family
from surgeon.errors import UsageError
from surgeon.expand.fill import Filled, identity_start
from surgeon.ops.plan import Apply, Zeros


def norm_gain(family: Family, block: int, *, lr_multiplier: float = 10.0) -> Filled:
    """A copy of `block` whose post-norms have the gain zero (stored as -1 where the model adds 1); exact in any dtype.

    Output projections stay as copied, so only the gains get a gradient at first: `lr_multiplier` is recorded for
    them. Refused for a family without norms behind its branches.
    """
    if not family.post_norms:
        raise UsageError(
            f"the fill norm_gain needs norms behind the branches, which {family.name} does not have",
            "--fill norm_gain",
            "use --fill zero, or leave the choice to auto",
        )
    sources = identity_start(family, block)
    for name in sources:
        gain = family.post_norms.get(family.unit(name).part)
        if gain is not None:
            sources[name] = Zeros() if gain == 0 else Apply("kernel:constant", options={"value": gain})
    return Filled(sources, dict.fromkeys(family.post_norms, lr_multiplier))
