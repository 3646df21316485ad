"""What the data of a run are worth for a text that matters, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import NonNegativeInt

from surgeon.train.fisher import TOKENS, probe_windows
from surgeon.train.hook import Hook, Run
from surgeon.train.outline import Outline
from surgeon.train.probes import packed
from surgeon.train.settings import Positive
from surgeon.train.value import last_blocks, mean_gradient, value

CORPORA, NEUTRAL = ("feedback", "source"), {"every": 1}


def value_probe(
    run: Run, *, feedback: str, source: str | None = None, every: Positive = 100, tokens: Positive = TOKENS,
    blocks: NonNegativeInt = 0,
) -> Hook:  # fmt: skip
    """Measures g_down . g_pre before every `every`-th step from the first; the run is the plain one, byte for byte.

    feedback: the corpus that matters, of which g_down is the gradient; source: a corpus whose value is asked for; the
    windows of the step itself where there is none. Of each at most `tokens` tokens. blocks: compare in the trained
    tensors of the last so many alone; 0 in all of them. Metrics: value and value_cosine, see surgeon.train.value.
    Constants are ours.
    Source: 2601.22108, the value of a pre-training batch
    """
    return _Probe(run, feedback, source, every, tokens, _compared(run, blocks))


def _compared(run: Run | Outline, blocks: int) -> list[str] | None:
    return last_blocks(run, blocks, "--meta value_probe") if blocks else None


def FITS(outline: Outline, options: Mapping[str, Any]) -> None:  # noqa: N802 - a trait that depends on the run
    """Refuse last blocks of which none is trained, and texts that cannot be read for this model."""
    _compared(outline, options["blocks"])
    for word in (options["feedback"], options["source"]):
        if word is not None:
            packed(outline, word)


class _Probe(Hook):
    def __init__(
        self, run: Run, feedback: str, source: str | None, every: int, tokens: int, names: list[str] | None
    ) -> None:
        self._run, self._every, self._names = run, every, names
        self._feedback = probe_windows(run, feedback, tokens)
        self._source = None if source is None else probe_windows(run, source, tokens)
        self._found: dict[str, float] = {}

    def before_step(self, step: int) -> None:
        self._found = {}
        if (step - 1) % self._every:
            return
        source = self._run.windows(step - 1) if self._source is None else self._source
        down, pre = (mean_gradient(self._run, held, self._names) for held in (self._feedback, source))
        found = value(down, pre, self._run.world)
        self._found = {"value": found.value, "value_cosine": found.cosine}

    def metrics(self) -> dict[str, float]:
        return self._found
