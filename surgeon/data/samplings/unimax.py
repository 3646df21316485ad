"""As even as can be while no corpus is read more than so many times."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Annotated

from pydantic import Field

from surgeon.errors import UsageError


def unimax(sizes: Sequence[int], budget: float, *, max_epochs: Annotated[float, Field(gt=0)] = 5.0) -> list[float]:
    """The same number of tokens of every corpus, but of none more than max_epochs times its size.

    From the smallest corpus up, each gets an even share of what is left of the budget, or max_epochs times its size
    where that is less; so all that are not held back get the same. Default: what AfriqueLLM (2601.06395) took.
    sizes and budget: in tokens. Result: in tokens, exact before one rounding; they add up to the budget. A budget
    beyond max_epochs times all of the corpora is refused. Raises UsageError.
    Source: Chung et al. 2023 (2304.09151)
    """
    most = [Fraction(max_epochs) * size for size in sizes]
    if budget > sum(most):
        raise UsageError(
            f"the run reads {budget:,.0f} tokens of corpora that hold {sum(sizes):,}: more than {max_epochs:g} times",
            f"--sampling unimax:max_epochs={max_epochs:g}",
            "give fewer --tokens, more text, or a greater max_epochs",
        )
    left, found = Fraction(budget), [0.0] * len(sizes)
    for place, number in enumerate(sorted(range(len(sizes)), key=lambda i: sizes[i])):
        part = min(left / (len(sizes) - place), most[number])
        found[number] = float(part)
        left -= part
    return found
