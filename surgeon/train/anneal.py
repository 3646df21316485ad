"""`cpt anneal`: a run that goes on from the constant phase of another and brings its learning rate down."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from surgeon.checkpoint.commit import check_apart
from surgeon.checkpoint.digest import json_digest
from surgeon.data.numbers import Count
from surgeon.errors import SurgeonError, UsageError
from surgeon.progress import SILENT, Progress
from surgeon.train.decay import Shape
from surgeon.train.fork import Fork, find_fork
from surgeon.train.settings import CptSettings, methods

if TYPE_CHECKING:
    from surgeon.train.run import CptResult

Positive = Annotated[Count, Field(gt=0)]
_NO_SETTINGS = ("adapter", "fork", "probes")  # what a record holds besides settings
_OF_THE_RUN = ("model", "teacher", "probe")  # what a record has by its digest


class AnnealSettings(BaseModel):
    """Settings of `cpt anneal`; all others are those of the run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str = Field(description="The OUT of a run (done or not), its OUT.run, a checkpoint it kept, or a state file.")
    out: str = Field(description="A folder that does not exist yet.")
    data: list[str] = Field(min_length=1, description="The corpora of the run, as it was given them; repeatable.")
    tokens: Positive = Field(description="How many tokens to anneal over.")
    replay: list[str] = Field([], description="The replay corpora of the run, as it was given them; repeatable.")
    model: str | None = Field(None, description="The model that the run began with [where its lineage says].")
    teacher: str | None = Field(None, description="The --teacher of the run, as it was given it [none].")
    probe: list[str] = Field(
        [], description="A corpus that methods of the run read by themselves, as they were given it; repeatable."
    )
    at: Positive | None = Field(None, description="The step of the run to go on from [the newest that is kept].")
    schedule_shape: Shape = Field("exponential", description="How the rate falls: exponential, sqrt, linear, cosine.")
    min_ratio: float = Field(0.01, ge=0, le=1, description="The rate at the end, as a share of the run's --lr.")
    eval: list[str] = Field([], description="A corpus to evaluate on, NAME=PATH; repeatable.")
    eval_every: Positive | None = Field(None, description="Steps between evaluations [only at the end].")
    eval_tokens: Positive = Field(20_000, description="Tokens of each eval corpus, in whole documents.")
    save_every: Positive | None = Field(None, description="Steps between saved states [a tenth of all steps].")
    keep_checkpoints: Positive | None = Field(None, description="Keep the newest N checkpoints, as cpt does [none].")
    resume: bool = Field(False, description="Go on with the annealing whose state is kept in OUT.run.")
    keep_state: bool = Field(False, description="Keep OUT.run when it is done.")
    device: Literal["auto", "cpu", "cuda"] | None = Field(None, description="Where to compute [as the run].")


def anneal(
    settings: AnnealSettings, progress: Progress = SILENT, *, force: bool = False,
    inputs: Mapping[str, Any] | None = None,
) -> CptResult:  # fmt: skip
    """Go on from a step of a run, with its data, optimizer and numbering of steps, and write the result to OUT.

    The run that is left, its states and its checkpoints are read and never changed, so any number of annealings can
    begin at one point. From a state the result has the bytes of a run that was told of its end beforehand (`wsd`,
    `infinite`); a checkpoint has its weights in their stored types and no moments, which begin anew: found["fork"]
    says which. What OUT holds has the lineage of one run from the first model on. Raises SurgeonError.
    Source: Singh et al. 2025 (2503.02844); Hu et al. 2024 (2404.06395)
    """
    from surgeon.train.run import run_cpt

    fork, forked = forked_settings(settings)
    if fork.state is None:
        progress.say("a checkpoint holds no moments of the optimizer: they begin anew")
    progress.say(f"going on from step {fork.step} of {settings.run}")
    result = run_cpt(forked, progress, force=force, inputs=inputs, fork=fork)
    return dataclasses.replace(result, found={**result.found, "fork": fork.note})


def describe_anneal(settings: AnnealSettings) -> dict[str, Any]:
    """What --dry-run prints: the whole run's sizes, and where it begins. Reads the inputs, writes nothing."""
    from surgeon.train.describe import describe_cpt

    fork, forked = forked_settings(settings)
    return describe_cpt(forked, fork) | {"fork": fork.note}


def forked_settings(settings: AnnealSettings) -> tuple[Fork, CptSettings]:
    """Where to begin, and the settings of the whole run of which the annealing is the end."""
    if settings.schedule_shape == "exponential" and settings.min_ratio == 0:
        raise UsageError(
            "an exponential fall never comes to 0", "--min-ratio", "give for example 0.01, or another --schedule-shape"
        )
    fork = find_fork(Path(settings.run), settings.at)
    if fork.state is None and "adapter" in fork.record:
        raise SurgeonError(
            "an adapter's run goes on from a state alone", settings.run, "keep its state: surgeon cpt --keep-state"
        )
    before = _before(fork, settings)
    odd = [name for name in ("batch_ramp", "mixture", "lengths") if getattr(before, name)]
    odd += ["sampling"] if "budget" in methods(before)["sampling"][0][0].supplied else []
    odd += ["replay_mode"] if before.replay_mode == "additive" else []
    if odd:
        flag = f"--{odd[0].replace('_', '-')}"
        raise UsageError(
            f"the data of a run with {flag} depend on how long it is, and a fork is longer", settings.run,
            "train a checkpoint of it on: surgeon cpt CHECKPOINT OUT --schedule anneal",
        )  # fmt: skip
    batch = int(fork.record["batch_tokens"])
    level = _level(fork, before, math.ceil(before.tokens / batch))
    if level <= settings.min_ratio:
        raise UsageError(
            f"at step {fork.step} the learning rate is at {level:g} of its peak, which is not above the end of "
            f"{settings.min_ratio:g}",
            "--min-ratio",
            "give a smaller one, or --at of a step of the constant phase",
        )
    fall = {
        "start": fork.step,
        "start_ratio": level,
        "min_ratio": settings.min_ratio,
        "shape": settings.schedule_shape,
    }
    own, others = _options(before)
    given = settings.model_dump(exclude={*_OF_THE_RUN, "run", "at", "device", "schedule_shape", "min_ratio"})
    given |= {
        "tokens": fork.step * batch + settings.tokens,
        "schedule": "anneal",
        "option": others | {f"schedule.{name}": value for name, value in fall.items()},
    }
    forked = before.model_copy(update=given | ({"device": settings.device} if settings.device else {}))
    check_apart(forked.out_path, fork.folders)
    check_apart(forked.run_dir, fork.folders)
    note = {
        "plan": json_digest(fork.record) if fork.lineage is None else fork.lineage.plan,
        "step": fork.step,
        "optimizer": "carried over" if fork.state is not None else "begun anew",
        "schedule": before.schedule,
        "option": own,
    }
    return dataclasses.replace(fork, note=note), forked


def _before(fork: Fork, settings: AnnealSettings) -> CptSettings:
    """The settings of the run that is left."""
    from surgeon.train.probes import by_word

    record = {k: v for k, v in by_word(fork.record, settings.probe).items() if k not in _NO_SETTINGS}
    if bool(record.get("teacher")) != bool(settings.teacher):
        raise SurgeonError(
            "the run had no teacher" if settings.teacher else "the run learned from a model of --teacher",
            settings.run,
            "leave out --teacher" if settings.teacher else "give it with --teacher, as the run was given it",
        )
    record |= {"model": settings.model or _model(fork), "data": settings.data, "replay": settings.replay}
    record |= {"teacher": settings.teacher}
    try:
        return CptSettings(**record, out=settings.out)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise SurgeonError(
            f"the run has settings that this version does not know: {first['loc'][0]}: {first['msg']}",
            settings.run,
            "anneal it with the version it was made with",
        ) from error


def _model(fork: Fork) -> str:
    """The model that the run began with, by the paths in the lineage of one of its checkpoints."""
    if fork.lineage is None or fork.lineage_at is None:
        raise SurgeonError(
            "a state does not say where the run's model lies", str(fork.state), "give --model, as the run was given it"
        )
    places = [(fork.lineage_at / parent.path).resolve() for parent in fork.lineage.parents]
    for place in places:
        if not place.is_dir():
            raise SurgeonError(
                "the model that the run began with is no longer there", str(place), "give its place with --model"
            )
    return "+".join(map(str, places))


def _level(fork: Fork, before: CptSettings, total: int) -> float:
    """The factor of the learning rate at the fork. A rate that still rises is refused."""
    method, options = methods(before)["schedule"][0]
    level, after = (
        float(method.call({"step": step, "total": total}, options)) for step in (fork.step, min(fork.step + 1, total))
    )
    if after > level:
        raise UsageError(
            f"at step {fork.step} the run was still warming up", "--at", "give a step of its constant phase"
        )
    return level


def _options(before: CptSettings) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options that the run's schedule was given, and those of its other methods, each with its kind: beside
    another schedule a bare name may fit two."""
    own, others = {}, {}
    for key, value in before.option.items():
        kind, _, name = key.rpartition(".")
        takers = [k for k, chosen in methods(before).items() for m, _ in chosen if name in m.options]
        if (kind or takers[0]) == "schedule":
            own[name] = value
        else:
            others[f"{kind or takers[0]}.{name}"] = value
    return own, others
