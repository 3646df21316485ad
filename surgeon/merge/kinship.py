"""Whether two models grew from one: fine-tuned weights lie close to their base, others are at right angles to it."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

from surgeon.checkpoint.header import FLOATS
from surgeon.errors import SurgeonError
from surgeon.merge.ancestry import Member

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LEAST_COSINE = (
    0.3  # of unrelated models it is near 0, of fine-tuned ones above 0.9; long training of a tiny model: 0.6
)
MATRICES, ELEMENTS = 16, 1 << 16  # looked at


def check_kinship(base: Member, member: Member) -> None:
    """Refuse a model without lineage whose matrices do not point where the base's do; vectors say nothing, as norms
    are near 1 in any model. Looks at the first values of some matrices that both have.

    Raises SurgeonError with figures.
    """
    found = kinship(base, member)
    if found is None or found[0] >= LEAST_COSINE:
        return
    cosine, relative, count = found
    if not isfinite(relative):
        raise SurgeonError(
            f"{base.name} or {member.name} holds values that are not finite: whether they share a base is not known",
            str(member.checkpoint.path),
            "give checkpoints without them: `surgeon inspect` lists where they are",
        )
    raise SurgeonError(
        f"{member.name} and {base.name} do not share a base: the cosine of their weights is {cosine:.3f} "
        f"(|delta| / |W| {relative:.2f}, {count} matrices), that of a model and its base is near 1",
        str(member.checkpoint.path),
        "give the model that it was trained from as the base, or --any-base to add it all the same",
    )


def kinship(base: Member, member: Member) -> tuple[float, float, int] | None:
    """(cosine of the weights, |delta| / |W|, matrices looked at); None where there is nothing to compare."""
    import numpy as np

    from surgeon.checkpoint.decode import first_values

    def dot(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
        """Without BLAS, which would wake threads for it that then spin beside the work."""
        return float(np.einsum("i,i->", a, b))

    one, other = base.checkpoint.tensors, member.checkpoint.tensors
    outside = {base.family.embedding, f"{base.family.declaration.head}.weight"}
    names = [
        n
        for n, t in one.items()
        if len(t.shape) > 1 and n not in outside and n in other and other[n].shape == t.shape
        and t.dtype in FLOATS and other[n].dtype in FLOATS
    ]  # fmt: skip
    chosen = names[:: max(1, len(names) // MATRICES)][:MATRICES]
    ww = xx = wx = 0.0
    for name in chosen:
        w, x = (first_values(t[name], ELEMENTS) for t in (one, other))
        ww, xx, wx = ww + dot(w, w), xx + dot(x, x), wx + dot(w, x)
    if not ww or not xx:
        return None
    return wx / (ww * xx) ** 0.5, max(ww + xx - 2 * wx, 0.0) ** 0.5 / ww**0.5, len(chosen)
