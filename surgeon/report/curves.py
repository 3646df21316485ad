"""Training curves: surgeon/metrics-*.jsonl, one JSON object a step, and the evaluations along the way."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydantic
from pydantic import BaseModel, ConfigDict

from surgeon.checkpoint.digest import file_digest
from surgeon.checkpoint.sidecars import SURGEON_DIR
from surgeon.errors import SurgeonError
from surgeon.measure.stability import of_evaluations

POINTS = 400  # most points of a drawn curve: more steps are drawn as means of equal groups


class EvalPoint(BaseModel):
    """One evaluation during training."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    step: int
    name: str
    tokens: int | None = None
    nats_per_token: float | None = None
    bits_per_byte: float | None = None


class Step(BaseModel):
    """One line of a metrics file. loss: nats a token; None: not recorded. Step 0 is the evaluation before training."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    step: int
    tokens: int | None = None
    loss: float | None = None
    lr: float | None = None
    grad_norm: float | None = None
    tokens_per_second: float | None = None
    eval: list[EvalPoint] | None = None


@dataclass(frozen=True)
class Training:
    """One training run: `file` (relative to the checkpoint) with its digest, the lines as recorded, evaluations."""

    title: str
    file: str | None
    digest: str | None
    steps: list[Step]
    lines: list[dict[str, Any]]
    evals: list[EvalPoint] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def stability(self) -> list[dict[str, Any]]:
        """What every corpus lost on the way; see surgeon.measure.stability."""
        return of_evaluations([e.model_dump() for e in self.evals])

    def to_json(self) -> dict[str, Any]:
        evals = [e.model_dump(exclude_unset=True) for e in self.evals]
        return {
            "title": self.title, "file": self.file, "digest": self.digest, "settings": self.settings,
            "steps": self.lines, "eval": evals, "stability": self.stability,
        }  # fmt: skip


def metrics_files(checkpoint: Path) -> list[Path]:
    """The metrics files of a checkpoint, by name."""
    return sorted(p for p in (checkpoint / SURGEON_DIR).glob("metrics-*.jsonl") if p.is_file())


def read_training(
    title: str, path: Path | None, evals: Sequence[EvalPoint] = (), settings: Mapping[str, Any] | None = None
) -> Training:
    """A metrics file (None: there is none) and its evaluations, by default those in the file.

    Raises SurgeonError on a line that is not a step.
    """
    steps: list[Step] = []
    lines: list[dict[str, Any]] = []
    if path is not None:
        for number, raw in enumerate(path.read_bytes().splitlines(), start=1):
            try:
                line = json.loads(raw)
                steps.append(Step.model_validate(line))
            except (ValueError, RecursionError) as error:  # also pydantic's and Unicode's errors
                raise SurgeonError(
                    "a line of the training metrics is not a step",
                    f"{path}:{number}",
                    "restore the file from the training run, or remove it to report without its curves",
                ) from error
            lines.append(line)
    return Training(
        title=title,
        file=f"{SURGEON_DIR}/{path.name}" if path else None,
        digest=file_digest(path) if path else None,
        steps=steps,
        lines=lines,
        evals=list(evals) or [point for step in steps for point in step.eval or ()],
        settings=dict(settings or {}),
    )


def read_evals(raw: Any, where: str) -> list[EvalPoint]:
    """The "eval" list of a cpt result; None or absent is no evaluation."""
    if raw is None:
        return []
    try:
        return pydantic.TypeAdapter(list[EvalPoint]).validate_python(raw)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise SurgeonError(
            f"the evaluations of a training cannot be read: {first['msg']}",
            f"{where}: {'.'.join(map(str, ('eval', *first['loc'])))}",
            "run the training again",
        ) from error


@dataclass(frozen=True)
class Line:
    """A curve to draw; y may hold nan where a number is absent or not finite (a gap)."""

    name: str
    x: list[float]
    y: list[float]


@dataclass(frozen=True)
class Curves:
    """What is drawn of a training. axis: "tokens", or "step" where tokens are not known. group: steps a point."""

    axis: str
    group: int
    loss: Line
    lr: Line
    eval_axis: str
    eval_unit: str
    evals: list[Line]


def curves(training: Training) -> Curves:
    """The curves of a training, thinned to at most POINTS points."""
    steps = training.steps
    axis = "tokens" if steps and all(s.tokens is not None for s in steps) else "step"
    group = max(1, math.ceil(len(steps) / POINTS))
    tokens_at = {0: 0} | {s.step: s.tokens for s in steps}
    known = [e.tokens if e.tokens is not None else tokens_at.get(e.step) for e in training.evals]
    eval_axis = "tokens" if all(k is not None for k in known) else "step"
    in_bits = all(e.bits_per_byte is not None for e in training.evals)
    lines: dict[str, Line] = {}
    for point, tokens in zip(training.evals, known, strict=True):
        line = lines.setdefault(point.name, Line(point.name, [], []))
        line.x.append(float(point.step if eval_axis == "step" or tokens is None else tokens))
        line.y.append(_number(point.bits_per_byte if in_bits else point.nats_per_token))
    return Curves(
        axis=axis,
        group=group,
        loss=_thinned("training loss", _points(steps, axis, "loss"), group),
        lr=_thinned("learning rate", _points(steps, axis, "lr"), group),
        eval_axis=eval_axis,
        eval_unit="bits per byte" if in_bits else "nats per token",
        evals=list(lines.values()),
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _points(steps: Sequence[Step], axis: str, what: str) -> list[tuple[float, float]]:
    """The steps that recorded `what`; the evaluation before the first step has neither loss nor learning rate."""
    return [(float(getattr(s, axis)), float(getattr(s, what))) for s in steps if getattr(s, what) is not None]


def _thinned(name: str, points: Sequence[tuple[float, float]], group: int) -> Line:
    """Means of `group` steps; a group with a number that is not finite is a gap."""
    x, y = [], []
    for start in range(0, len(points), group):
        part = points[start : start + group]
        x.append(math.fsum(p[0] for p in part) / len(part))
        y.append(math.fsum(p[1] for p in part) / len(part) if all(math.isfinite(p[1]) for p in part) else math.nan)
    return Line(name, x, y)
