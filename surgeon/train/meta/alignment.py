"""A probe: whether what is new and what is known pull the weights the same way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from surgeon.data.pack import Packed, Window
from surgeon.errors import SurgeonError, UsageError
from surgeon.train.corpora import corpora, mixture_stages
from surgeon.train.gradient import ahead, dot, gradient
from surgeon.train.hook import Hook, Run
from surgeon.train.outline import Outline
from surgeon.train.probes import packed
from surgeon.train.settings import CptSettings, methods

NEUTRAL, CORPORA = {"every": 1}, ("general", "domain")

Whole = Annotated[int, Field(ge=1)]


def CHECK(settings: CptSettings, options: Mapping[str, Any]) -> None:  # noqa: N802 - a trait that depends on the run
    """Refuse a run whose words say that one side has no text, or the general one no gradient."""
    _check_last_stage(settings, options)
    if options["general"] is not None:
        return
    if not settings.may_replay:
        raise _no_general()
    ((objective, chosen),) = methods(settings)["objective"]
    still = objective.trait("STILL")
    if still is not None and still(settings, chosen):
        raise UsageError(
            f"{objective.name} with these options learns nothing of replay: it has no gradient there at first",
            "--meta alignment",
            "name a text to compare with: --meta alignment:general=CORPUS, or let the objective learn the replay",
        )


def _check_last_stage(settings: CptSettings, options: Mapping[str, Any]) -> None:
    """Refuse stages that end without one kind of text, which probes there would look for in vain."""
    named = corpora(settings)
    stages = mixture_stages(settings, named)
    for side, replay, what in (("general", True, "replay"), ("domain", False, "new data")):
        weights = [w for w, (_, r) in zip(stages[-1][1], named, strict=True) if r is replay] if stages else []
        if weights and not any(weights) and options[side] is None:
            raise UsageError(
                f"the last stage of the run reads no {what}, which probes are to be made of",
                f"--meta alignment, --mixture {settings.mixture[-1]}",
                f"give it a share to the end, or name a text to compare with: --meta alignment:{side}=CORPUS",
            )


def _no_general() -> UsageError:
    return UsageError(
        "the run reads no general text to compare with",
        "--meta alignment",
        "add --replay CORPUS, or name one: --meta alignment:general=CORPUS",
    )


def alignment(
    run: Run, *, every: Whole = 100, rows: Whole | None = None, general: str | None = None,
    domain: str | None = None,
) -> Hook:  # fmt: skip
    """The cosine of the gradients of general and of new text, every n steps, in metrics.jsonl; moves nothing.

    Before the first step and then every `every` steps, at the weights as they are: g_general on the next `rows`
    windows of the run's replay (default: one micro-batch), g_domain on as many of its new data, or each on a corpus
    that is given (NAME=PATH), from its beginning on and further with every probe. Gradients are those of the mean
    loss under the run's objective over all trained tensors, frozen rows apart; products are summed in float64.
    Metrics: `alignment`, the cosine; `alignment_chance`, 1/sqrt(d), the spread of the cosine of two random directions
    of as many dimensions; `alignment_general_norm` and `alignment_domain_norm`.
    Source: Abbes et al. 2025 (2508.01908), whose objective rewards this product
    """
    return _Alignment(run, every, rows or run.micro_batch, _Side(run, general, True), _Side(run, domain, False))


def FITS(outline: Outline, options: Mapping[str, Any]) -> None:  # noqa: N802 - a trait that depends on the run
    """Refuse a run that is too short for the rows of its first probe, or reads no general text."""
    rows = options["rows"] or outline.micro_batch
    for side, replay in (("general", True), ("domain", False)):
        _Side(outline, options[side], replay).windows(1, 0, rows)


class _Side:
    """Where the windows of one of the two gradients come from."""

    def __init__(self, run: Run | Outline, word: str | None, replay: bool) -> None:
        self._run, self._replay = run, replay
        self._packed: Packed | None = packed(run, word) if word is not None else None
        if word is None and replay and not run.replays:
            raise _no_general()

    def windows(self, step: int, probe: int, rows: int) -> list[Window]:
        if self._packed is None:
            return ahead(self._run, step, rows, replay=self._replay)
        return [self._packed.window(number) for number in _numbers(probe, rows)]


class _Alignment(Hook):
    def __init__(self, run: Run, every: int, rows: int, general: _Side, domain: _Side) -> None:
        self._run, self._every, self._rows = run, every, rows
        self._general, self._domain = general, domain
        size = sum(p.numel() for name, p in run.parameters.items() if name not in run.rows)
        size += sum(int(mask.sum()) * run.parameters[name].shape[1] for name, mask in run.rows.items())
        self._chance = 1 / math.sqrt(size)
        self._metrics: dict[str, float] = {}

    def before_step(self, step: int) -> None:
        self._metrics = {}
        probe, rest = divmod(step - 1, self._every)
        if rest:
            return
        run = self._run
        with gradient(run, self._general.windows(step, probe, self._rows)) as held:
            general = {name: value.clone() for name, value in held.items()}
        with gradient(run, self._domain.windows(step, probe, self._rows)) as domain:
            product = dot(run, general, domain)
            one, other = math.sqrt(dot(run, general, general)), math.sqrt(dot(run, domain, domain))
        if not 0 < one * other < math.inf:
            raise SurgeonError(
                f"a gradient of length {one} and one of length {other} have no angle",
                f"--meta alignment, step {step}",
                "look at the loss of the steps before in metrics.jsonl",
            )
        self._metrics = {
            "alignment": product / (one * other),
            "alignment_chance": self._chance,
            "alignment_general_norm": one,
            "alignment_domain_norm": other,
        }

    def metrics(self) -> dict[str, float]:
        return self._metrics


def _numbers(probe: int, rows: int) -> range:
    return range(probe * rows, (probe + 1) * rows)
