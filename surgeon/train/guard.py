"""When a run is stopped because its loss left the numbers, or runs away; and what the refusal names.

The rule of divergence: the loss is averaged over about 50 steps (an exponential mean with DECAY a step, divided by
the sum of its weights). From step SETTLED on, when the mean is one of many steps, its lowest value is remembered. When
the mean has been more than `stop_on_divergence` nats above that for PATIENCE steps in a row, the run has diverged. One
bad batch cannot do that: a single loss moves the mean by 1 - DECAY of its size.

What a run lost before step SETTLED is not seen: the lowest mean is taken from there on. The warm-up of a re-warmed
learning rate lifts the loss for a while; a limit below that lift stops a healthy run.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from surgeon.errors import SurgeonError, UsageError
from surgeon.train.settings import CptSettings

if TYPE_CHECKING:
    from torch import Tensor

DECAY = 0.98
SETTLED = 50
PATIENCE = 50
SHOWN = 24  # documents that a refusal names; the rest are counted

Document = tuple[str, int]  # the corpus's name and the document's number in it, from 0


@dataclass
class _Mean:
    """sum: of the losses by their weights. weight: the sum of those. lowest: of the settled mean, and its step.
    above: for how many steps the mean has been too far above it."""

    sum: float = 0.0
    weight: float = 0.0
    seen: float = 0.0
    lowest: float = math.inf
    lowest_step: float = 0.0
    above: float = 0.0

    @property
    def value(self) -> float:
        return self.sum / self.weight


class Guard:
    """Looks at every step of a run. Its state is a few floats, so that a run that goes on decides as one that was
    never broken off; it is kept also where nothing is to be stopped, for a resumed run may ask for it."""

    def __init__(self, settings: CptSettings) -> None:
        self._limit, self._train = settings.stop_on_divergence, settings.train
        self._mean = _Mean()

    def check(
        self,
        step: int,
        loss: float,
        norm: float,
        documents: Callable[[], Iterable[Document]],
        last_good: Path | None,
    ) -> None:
        """Raise SurgeonError where the run must stop: always when `loss` (nats a target) or `norm` (of the gradient)
        is not finite, and by the rule of divergence where one was asked for.

        documents: those of the step's batch, in order; asked for only when the run stops. last_good: the newest state
        on disk from which a step was trained whose numbers were finite.
        """
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise SurgeonError(
                f"the loss or its gradient is no longer finite at step {step} (loss {loss}, norm {norm})",
                _where(step, documents()),
                f"lower --lr, lengthen the warm-up, or look at these documents; {_kept(last_good)}",
            )
        self._follow(step, loss)
        mean = self._mean
        if self._limit is not None and mean.above >= PATIENCE:
            raise SurgeonError(
                f"the loss diverges: at step {step} its mean of {mean.value:.4f} has been more than {self._limit:g} "
                f"nats above its lowest ({mean.lowest:.4f} at step {mean.lowest_step:.0f}) for {PATIENCE} steps",
                _where(step, documents()),
                f"lower --lr or lengthen the warm-up; {_kept(last_good)}",
            )

    def spoilt(self, step: int, what: str, documents: Iterable[Document], last_good: Path | None) -> NoReturn:
        """Raise SurgeonError: what a step left behind is not finite, though its own loss was. what: with a verb."""
        raise SurgeonError(
            f"{what} no longer finite after step {step}",
            _where(step, documents),
            f"lower --lr, lengthen the warm-up, or look at these documents; {_kept(last_good)}",
        )

    def check_labels(
        self, step: int, labels: int, documents: Callable[[], Iterable[Document]], last_good: Path | None
    ) -> None:
        """Raise SurgeonError on a step that has nothing to learn: its loss would be 0 of nothing, and momentum and
        decay would move the model all the same. documents, last_good: as in `check`."""
        if not labels:
            raise SurgeonError(
                f"step {step} has nothing to learn: no answer lies within its rows",
                _where(step, documents()),
                f"give longer rows (--seq-len), more of them (--batch-tokens), or --loss-on all; {_kept(last_good)}",
            )

    def check_graph(self, loss: Tensor) -> None:
        """Raise UsageError where the loss of a micro-batch hangs on nothing that is trained, and has no graph."""
        if not loss.requires_grad:
            raise UsageError(
                "the loss depends on none of the trained tensors",
                f"--train {self._train}",
                "choose tensors that the model's logits depend on",
            )

    def state(self) -> dict[str, float]:
        """What the next check depends on. Without "lowest" as long as there is none: infinity is no JSON."""
        return {key: value for key, value in vars(self._mean).items() if math.isfinite(value)}

    def restore(self, state: Mapping[str, float]) -> None:
        """Go on from a state; from an empty one (of a run that kept none) as from the beginning."""
        self._mean = _Mean(**state)

    def _follow(self, step: int, loss: float) -> None:
        mean = self._mean
        mean.sum = DECAY * mean.sum + (1 - DECAY) * loss
        mean.weight = DECAY * mean.weight + (1 - DECAY)
        mean.seen += 1
        if mean.seen < SETTLED:
            return
        if mean.value < mean.lowest:
            mean.lowest, mean.lowest_step = mean.value, float(step)
        too_far = self._limit is not None and mean.value > mean.lowest + self._limit
        mean.above = mean.above + 1 if too_far else 0.0


def _where(step: int, documents: Iterable[Document]) -> str:
    return f"step {step}, a batch of {named(documents)}"


def _kept(last_good: Path | None) -> str:
    if last_good is None:
        return "no state before this step is known to be good"
    return f"the last good state is {last_good}"


def named(documents: Iterable[Document]) -> str:
    """Documents by corpus, each once, in their order: `old 3, 17; new 5`; the first SHOWN of them."""
    each = list(dict.fromkeys(documents))
    corpora: dict[str, list[str]] = {}
    for corpus, number in itertools.islice(each, SHOWN):
        corpora.setdefault(corpus, []).append(str(number))
    said = "; ".join(f"{corpus} {', '.join(numbers)}" for corpus, numbers in corpora.items())
    left = len(each) - SHOWN
    return f"documents {said or 'unknown'}" + (f" and {left} more" if left > 0 else "")
