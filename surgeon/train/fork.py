"""Where a run branches off another: the state or checkpoint it begins with, and what decided the run before it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgeon.checkpoint.digest import json_digest
from surgeon.checkpoint.lineage import Lineage, read_lineage
from surgeon.errors import SurgeonError
from surgeon.merge.run_checkpoints import CHECKPOINTS, RUN
from surgeon.train.began_with import began_with
from surgeon.train.kept import kept

if TYPE_CHECKING:
    from surgeon.registry import Method
    from surgeon.train.hook import Hook
    from surgeon.train.job import Job
    from surgeon.train.state import State

SETTINGS, STATES = "settings.json", "state"  # as surgeon.train.state has them, which imports torch
_MEND = "train a checkpoint of the run on: surgeon cpt CHECKPOINT OUT --schedule anneal"
_STATE = re.compile(r"step-([0-9]{8,})\.pt")


@dataclass(frozen=True)
class Fork:
    """The point at which a run is left.

    step: optimiser steps done there. state: a file that holds all of it. checkpoint: a model, which lacks the
    optimizer's moments. record: what decided the run (settings, digests of its inputs). lineage: of a checkpoint of
    that run, if there is one. folders: what belongs to the run and is never changed. note: what the new run's lineage
    says of it.
    """

    step: int
    state: Path | None
    checkpoint: Path | None
    record: dict[str, Any]
    lineage: Lineage | None
    lineage_at: Path | None
    folders: tuple[Path, ...]
    note: dict[str, Any] = dataclasses.field(default_factory=dict)

    def joined(self, job: Job) -> Job:
        """The job with the fork in its record. Raises SurgeonError where it reads other inputs than the run did, or
        begins with a checkpoint, which does not hold what a method of the run keeps."""
        changed = [key for key, wanted in self._inputs().items() if _given(job, key, wanted) != wanted]
        if changed:
            raise SurgeonError(
                f"a fork goes on with the inputs of the run, and these are others: {', '.join(changed)}",
                str(self.state or self.checkpoint),
                "give the run's own --model, --teacher, --data and --replay, in its order; for other data: "
                "surgeon cpt CHECKPOINT OUT --schedule anneal",
            )
        if self.state is None:
            self._check_kept(job, ())
        return dataclasses.replace(job, record=job.record | {"fork": self.note})

    def begin(self, job: Job, hooks: Sequence[Hook]) -> State:
        """What the new run begins with; from a checkpoint its stored weights, and moments that begin anew.

        hooks: of the run, which a state restores. Raises SurgeonError where one of them keeps something that a
        checkpoint does not hold, whatever its module says."""
        from surgeon.train import state

        if self.state is not None:
            found = state.load(self.state)
            owed = {"step": found.step, "tokens": found.tokens} if found.held and job.evals else {}
            return dataclasses.replace(found, held=owed)  # the line of that step is the other run's
        import torch

        from surgeon.loading import load_model

        self._check_kept(job, hooks)
        assert self.checkpoint is not None and self.lineage is not None and self.lineage.training is not None
        code = job.settings.trust_remote_code
        model = load_model(
            self.checkpoint, device=torch.device("cpu"), dtype=torch.float32, trust_remote_code=code, encoders=True
        )
        held = dict(model.named_parameters())
        weights = {name: held[name].detach() for name in job.trainable.parameters}
        done = self.lineage.training
        return state.State(
            self.step, done["tokens"], done["final_loss"], weights, job.optimizer().state_dict(), done["eval"],
            [{} for _ in hooks],
        )  # fmt: skip

    def _check_kept(self, job: Job, hooks: Sequence[Hook]) -> None:
        """Refuse a checkpoint of a run whose methods keep something besides the moments of AdamW from step to step: by
        what their modules say (REMEMBERS, HOLDS), before anything is made, and by the hooks that they made."""
        from surgeon.train.hook import Hook

        keeping = [m.name for kind in ("meta", "objective") for m, given in job.chosen[kind] if _remembers(m, given)]
        names = [method.name for method, _ in job.chosen["meta"]]
        names += [job.chosen["objective"][0][0].name] * (len(hooks) - len(names))  # of what objectives make
        keeping += [name for name, hook in zip(names, hooks, strict=False) if type(hook).state is not Hook.state]
        optimizer = job.chosen["optimizer"][0][0]
        keeping += [optimizer.name] if optimizer.trait("HOLDS") is not None else []
        if keeping:
            raise SurgeonError(
                f"{keeping[0]} keeps something from step to step that a checkpoint does not hold",
                str(self.checkpoint),
                "fork a state of the run (surgeon cpt --keep-state), or train the checkpoint on: "
                "surgeon cpt CHECKPOINT OUT --schedule anneal",
            )

    def _inputs(self) -> dict[str, Any]:
        """Digests of what the run read: by `model`, `adapter`, `teacher`; of corpora the fields that are known."""
        found = {key: self.record[key] for key in ("model", "adapter", "teacher") if key in self.record}
        return found | {key: self.record[key] for key in ("data", "replay")}


def _remembers(method: Method, options: Mapping[str, Any]) -> bool:
    said = method.trait("REMEMBERS", False)
    return bool(said(options) if callable(said) else said)


def _given(job: Job, key: str, wanted: Any) -> Any:
    if key not in ("data", "replay"):
        return job.record.get(key)
    sources = [s for s in job.data.sources if s.replay is (key == "replay")]
    known = [{"name": s.corpus.name, "digest": s.digest, "weight": s.corpus.weight, "share": s.share} for s in sources]
    if len(known) != len(wanted):
        return known
    return [{k: v for k, v in one.items() if k in other} for one, other in zip(known, wanted, strict=True)]


def find_fork(run: Path, at: int | None = None) -> Fork:
    """The point of a run to go on from.

    run: its output, its OUT.run, a checkpoint of it or a state file. at: the step, else the newest that is there; at
    the same step a state comes before a checkpoint. Raises SurgeonError where there is none.
    """
    out, run_dir = _places(run)
    written = began_with(run_dir / SETTINGS, _MEND) if (run_dir / SETTINGS).is_file() else None
    plan = None if written is None else json_digest(written)
    lineages = _lineages([run] if (run / "surgeon.json").is_file() else [], [out, *kept(run_dir)[::-1]], plan)
    if plan is None and not lineages:
        raise SurgeonError("there is no run of cpt here", str(run), "give the OUT of a run, or one of its checkpoints")
    states = {int(m[1]): p for p in sorted((run_dir / STATES).glob("*.pt")) if (m := _STATE.fullmatch(p.name))}
    models = {lineage.training["steps"]: path for path, lineage in lineages.items() if lineage.training}
    named = _named_step(run, states, models)
    step = at if at is not None else named if named is not None else max([*states, *models], default=None)
    if step is None or (step not in states and step not in models) or (named is not None and step != named):
        there = ", ".join(map(str, sorted({*states, *models}))) or "none"
        raise SurgeonError(
            f"neither a state nor a checkpoint of step {step} is here" if step is not None else "nothing is kept here",
            str(run),
            f"there are: {there}; keep some with surgeon cpt --keep-checkpoints N, or --keep-state",
        )
    place = models.get(step) or next(iter(lineages), None)
    lineage = lineages[place] if place is not None else None
    record = _record(lineage) if written is None else written
    folders = tuple(p for p in (out, run_dir, *models.values()) if p.exists())
    return Fork(step, states.get(step), models.get(step), record, lineage, place, folders)


def _places(run: Path) -> tuple[Path, Path]:
    """OUT and OUT.run of what a person named, whether they are there or not."""
    path = run.absolute()
    if path.is_file() or (path.parent.name == CHECKPOINTS and path.parent.parent.name.endswith(RUN)):
        run_dir = path.parent.parent
    else:
        run_dir = path if path.name.endswith(RUN) and path.is_dir() else path.with_name(path.name + RUN)
    return run_dir.with_name(run_dir.name.removesuffix(RUN)), run_dir


def _lineages(first: list[Path], others: list[Path], plan: str | None) -> dict[Path, Lineage]:
    """Those of trained models that are of one run: the one named, else that of settings.json, else the newest."""
    found: dict[Path, Lineage] = {}
    for path in (*(p.absolute() for p in first), *others):
        lineage = read_lineage(path) if path.is_dir() else None
        if lineage is None or lineage.operation != "cpt" or lineage.training is None:
            continue
        plan = plan or lineage.plan
        if lineage.plan == plan:
            found.setdefault(path, lineage)
    return found


def _named_step(run: Path, states: dict[int, Path], models: dict[int, Path]) -> int | None:
    """The step of the very state or checkpoint that a person named; None for a run as a whole."""
    path = run.absolute()
    for step, place in (*states.items(), *models.items()):
        if place == path and (path.is_file() or path.parent.name == CHECKPOINTS):
            return step
    return None


def _record(lineage: Lineage | None) -> dict[str, Any]:
    """What decided a run, from what a checkpoint of it says; weights of corpora are known by their shares alone."""
    assert lineage is not None and lineage.training is not None
    record = dict(lineage.settings) | {"seed": lineage.seed}
    record |= {parent.role: parent.digest for parent in lineage.parents}
    for key, replay in (("data", False), ("replay", True)):
        sources = [s for s in lineage.training["data"] if s["replay"] is replay]
        record[key] = [{k: s[k] for k in ("name", "digest", "share")} for s in sources]
    return record
